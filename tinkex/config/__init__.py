"""`Config`, the connection settings of one account: key, base URL, timeouts."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigError
from ..errors.reading import without_frames
from .secret import Secret

__all__ = ["DEFAULT_BASE_URL", "Config", "checked_seconds"]

#: The URL of the hosted Tinker API.
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"

#: The longest timeout that is accepted, in seconds: a day. Far longer ones overflow in sockets.
MAX_TIMEOUT = 86_400.0

#: A key of at least this many characters is not part of a URL by chance.
SHORTEST_SECRET = 16

ACCESS_SCOPES = ("owned", "accessible")

#: The longest id of a project that is accepted, in characters.
MAX_PROJECT = 512

_ENVIRONMENT = {
    "api_key": "TINKER_API_KEY",
    "base_url": "TINKER_BASE_URL",
    "project_id": "TINKER_PROJECT_ID",
}
_NO_KEY = "there is no API key: set TINKER_API_KEY, or give Config(api_key=...)"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e\xa0-\xff]([\t\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa0-\xff])?")
_OUR_HEADERS = {"x-api-key", "host", "content-length", "transfer-encoding", "connection"}

C = TypeVar("C", bound="Config")


@dataclass(frozen=True, slots=True)
class Config:
    """How to reach one account of the Tinker API.

    Args:
        api_key: the account's key. It is in no `repr`, no message and no pickle, and nothing
            that walks through objects comes upon it. Give it again to an unpickled config:
            `dataclasses.replace(config, api_key=...)`.
        base_url: `https`, or `http` for this machine; without user, query and fragment.
        connect_timeout: seconds to wait for a connection, more than 0.
        read_timeout: seconds to wait for the next piece of an answer, more than 0.
        recovery: the policy of a monitor that is given none, as `Policy` or mapping.
        headers: more HTTP headers for every request; kept from view and from pickles like the
            key.
        access_scope: which runs are listed: `"owned"`, or all that are `"accessible"`.
        project_id: only the runs of this project are listed, which makes lists short. Runs of
            others are still found, one by one.

    Raises:
        ConfigError: an argument cannot be used.
    """

    api_key: str | None = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    _: KW_ONLY
    connect_timeout: float = 5.0
    read_timeout: float = 10.0
    recovery: Any = field(default=None, hash=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    access_scope: str = "owned"
    project_id: str | None = None

    def __post_init__(self) -> None:
        _check_key(self.api_key)
        _check_project(self.project_id)
        checked: dict[str, Any] = {
            "base_url": _checked_base_url(self.base_url, self.require_key()),
            "connect_timeout": checked_seconds("connect_timeout", self.connect_timeout),
            "read_timeout": checked_seconds("read_timeout", self.read_timeout),
            "headers": MappingProxyType(_checked_headers(self.headers)),
        }
        if self.access_scope not in ACCESS_SCOPES:
            raise ConfigError(
                f"access_scope should be one of {', '.join(ACCESS_SCOPES)}, "
                f"not {_kind(self.access_scope)}"
            )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Make a config from `TINKER_API_KEY`, `TINKER_BASE_URL` and `TINKER_PROJECT_ID`.

        An empty one counts as unset. The arguments are those of `Config`, and are used instead.

        Raises:
            ConfigError: there is no key, or an argument is unknown or cannot be used.
        """
        known = [each.name for each in fields(cls)]
        unknown = [name for name in overrides if name not in known]
        if unknown:
            raise ConfigError(f"Config has no {', '.join(unknown)}; it has {', '.join(known)}")
        made = _made(cls, overrides)
        # Raised here, in no frame that holds the key of the environment.
        if isinstance(made, ConfigError):
            raise made
        return made

    def require_key(self) -> str:
        """Return the key; `ConfigError` if this config was unpickled: pickles never hold it."""
        if self.api_key is None:
            raise ConfigError(
                "this config was unpickled, so it has no API key and no headers; "
                "give them again: dataclasses.replace(config, api_key=..., headers=...)"
            )
        return self.api_key

    def __reduce__(self) -> tuple[Any, ...]:
        # Headers may be as secret as the key.
        names = [each.name for each in fields(self) if each.name not in _HIDDEN]
        return _without_key, (type(self), {name: getattr(self, name) for name in names})

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy made through pickle would lose the key; a frozen object needs no copy.
        return self


def _without_key(kind: type[Config], state: dict[str, Any]) -> Config:
    config = kind.__new__(kind)
    for name, value in state.items():
        object.__setattr__(config, name, value)
    object.__setattr__(config, "headers", MappingProxyType({}))
    object.__setattr__(config, "api_key", None)
    return config


class _Hidden:
    """A field in whose slot only a `Secret` stands for the value."""

    def __init__(self, slot: Any) -> None:
        self._slot = slot
        self._in_slot = slot.__get__

    def __get__(self, config: Config | None, kind: type[Config]) -> Any:
        return self if config is None else self._in_slot(config).reveal()

    def __set__(self, config: Config, value: Any) -> None:
        self._slot.__set__(config, Secret(value))


_HIDDEN = frozenset({"api_key", "headers"})
for _name in _HIDDEN:
    setattr(Config, _name, _Hidden(vars(Config)[_name]))


def _made(kind: type[C], overrides: Mapping[str, Any]) -> C | ConfigError:
    found = {name: os.environ.get(variable) for name, variable in _ENVIRONMENT.items()}
    given: dict[str, Any] = {name: value for name, value in found.items() if value}
    given.update((name, value) for name, value in overrides.items() if value is not None)
    if "api_key" not in given:
        return ConfigError(_NO_KEY)
    return config_or_error(kind, **given)


def config_or_error(kind: type[C], *args: Any, **given: Any) -> C | ConfigError:
    """Make a config, or the error for it without the stack frames that hold the key."""
    try:
        return kind(*args, **given)
    except ConfigError as error:
        without_frames(error)
        return error


def checked_seconds(name: str, value: Any, error: type[ValueError] = ConfigError) -> float:
    """Return `value` as a float if it can be used as a timeout in seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise error(f"{name} should be a number of seconds, not {_kind(value)}")
    # Compare before converting: a huge int cannot become a float. NaN compares false.
    if 0 < value <= MAX_TIMEOUT:
        return float(value)
    given = f"{value:g}" if isinstance(value, float) else "what was given"
    raise error(f"{name} should be more than 0 and at most {MAX_TIMEOUT:g} s, not {given}")


def _kind(value: Any) -> str:
    # The value may be the key, given by mistake, so only its type is shown.
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _check_key(key: Any) -> None:
    if key is None or (isinstance(key, str) and not key.strip()):
        raise ConfigError(_NO_KEY)
    if not isinstance(key, str):
        raise ConfigError(f"api_key should be text, not {_kind(key)}")
    if any(not "!" <= character <= "~" for character in key):
        raise ConfigError(
            "api_key holds a space, a line break or a character that is not ASCII; "
            "copy it again, without the text around it"
        )


def _check_project(project: Any) -> None:
    if project is None:
        return
    if not isinstance(project, str) or not 0 < len(project) <= MAX_PROJECT:
        raise ConfigError(
            f"project_id should be 1 to {MAX_PROJECT} characters of text, not {_kind(project)}"
        )
    if not project.isprintable():
        raise ConfigError("project_id holds a line break or another unprintable character")


def _checked_base_url(url: Any, key: str) -> str:
    if not isinstance(url, str):
        raise ConfigError(f"base_url should be text, not {_kind(url)}")
    if (len(key) >= SHORTEST_SECRET and key in url) or "://" not in url:
        raise ConfigError("base_url should be a URL that begins with https:// and holds no key")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        problem = _url_problem(url, parts, host)
    except ValueError:
        problem, host = "its host or port cannot be read", None
    if problem or not host:
        # Only the host is shown: other parts of the URL may be secret.
        raise ConfigError(f"base_url (host {host!r}) cannot be used: {problem}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _url_problem(url: str, parts: SplitResult, host: str | None) -> str | None:
    if any(not "!" <= character <= "~" or character == "\\" for character in url):
        return "it holds a space, a backslash or a character that is not ASCII"
    if "@" in parts.netloc:
        return "it holds a user; give the key as api_key"
    if "?" in url or "#" in url:
        return "it holds a query or a fragment; only scheme, host and path may be given"
    if not host:
        return "it has no host"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        return "it should begin with https:// (http:// only on loopback), to hide the key"
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _checked_headers(headers: Any) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigError(f"headers should be a mapping of names to values, not {_kind(headers)}")
    seen = set(_OUR_HEADERS)
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigError("headers holds a name that is not an HTTP header name")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"the value of header {name!r} cannot be sent: it should be one line")
        if name.lower() in seen:
            raise ConfigError(f"header {name!r} is given twice, or is one that tinkex sets itself")
        seen.add(name.lower())
    return dict(headers)
