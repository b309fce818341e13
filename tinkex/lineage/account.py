"""What stands for an account in files: a hash, which never tells its key."""

from __future__ import annotations

import hashlib

from ..config import Config
from ..errors import ConfigError


def account_of(config: object) -> str:
    """A text that is the same for the same base URL, key and project, in every process."""
    parts = [type(config).__qualname__, str(getattr(config, "base_url", ""))]
    if isinstance(config, Config):
        try:
            key = config.require_key()
        except ConfigError:
            key = ""
        parts = [config.base_url, key, config.project_id or ""]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


class AccountOf:
    """`account_of`, for calls that are about one config in most cases; for one thread."""

    def __init__(self) -> None:
        self._config: object = None
        self._account = account_of(None)

    def __call__(self, config: object) -> str:
        """What stands for the account of a config."""
        if config is not self._config:
            self._config, self._account = config, account_of(config)
        return self._account
