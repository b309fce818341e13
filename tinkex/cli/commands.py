"""The parser of the command line, and `main`, which runs the chosen command."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .. import __version__
from . import rehearse, serve
from .console import INTERRUPTED, UNUSABLE, complain

#: The commands' modules, in the order of the help.
COMMANDS = (rehearse, serve)

#: The packages of the extra `rehearsal`, by the names under which they are imported.
EXTRA = frozenset({"numpy", "starlette", "tinker", "uvicorn"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: Those after the program's name; `None`: the process's own.

    Raises:
        SystemExit: From argparse: help was asked for, or the arguments cannot be used.
    """
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        with _quiet():
            return command(given)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        complain(f"{package} is not installed; rehearsals need an extra:")
        complain('    pip install "tinkex[rehearsal]"')
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinkex", description="Brings corrupted Tinker fine-tuning runs back to life."
    )
    parser.add_argument("--version", action="version", version=f"tinkex {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and other packages' logs off the terminal; commands print what matters."""
    handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        root.removeHandler(handler)
