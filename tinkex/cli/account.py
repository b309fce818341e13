"""The account that commands ask about: the environment's, else that of the official CLI's login."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from .. import rest
from ..config import Config
from ..errors import ConfigError, TinkexError
from ..lineage.lineages import lineage_named
from ..ports import RestPort
from .console import filled, run_id

#: Where `tinker auth login` of the official SDK keeps keys.
LOGIN = Path(".tinker", "credentials.json")

#: The version of that file's form that is known.
LOGIN_VERSION = 1


class UnknownNameError(TinkexError):
    """Raised where no run goes by a name."""


def use_login() -> Config:
    """Have this process use the stored login where its environment has no key; give its settings.

    The SDK finds the key in the same places, in the same order.

    Raises:
        ConfigError: There is no key, or a setting cannot be used.
    """
    if not os.environ.get("TINKER_API_KEY"):
        key = _stored_key()
        if key is None:
            raise ConfigError("there is no API key: set TINKER_API_KEY, or run `tinker auth login`")
        os.environ["TINKER_API_KEY"] = key
    return Config.from_env()


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments by which a user tells one run."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "run", nargs="?", type=run_id, metavar="RUN_ID", help="any run of its lineage"
    )
    which.add_argument("--name", type=filled, help="the run that goes by a name (tinkex.open_run)")


def told_run(config: Config, given: argparse.Namespace) -> str:
    """The id of the run that the user tells.

    Raises:
        UnknownNameError: No run goes by the name.
        RestError: The list of runs could not be had.
    """
    if given.run is not None:
        return str(given.run)
    line = lineage_named(rest_port(), config, given.name)
    if line is None:
        raise UnknownNameError(f"no run goes by the name {given.name!r}")
    return (line.newest or line.last).training_run_id


def rest_port() -> RestPort:
    """What asks the server about runs."""
    return RestPort(rest)


def _stored_key() -> str | None:
    try:
        stored = json.loads(Path.home().joinpath(LOGIN).read_text(encoding="utf-8"))
        if stored.get("version", LOGIN_VERSION) != LOGIN_VERSION:
            return None
        key = stored["keys"][stored["default"]]["key"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        return None
    return key if isinstance(key, str) and key else None
