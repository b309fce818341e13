"""The parser of the command line, and `main`, which runs the chosen command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module

from .. import __version__
from ..errors import ApiNotFoundError, ConfigError, RestError, TinkexError, in_words
from .console import BROKEN_PIPE, FAILED, INTERRUPTED, UNREACHABLE, UNUSABLE, complain, prepare

#: What adds each command, as module and function, and what the help says of it. Only the module of
#: the command that is asked for is imported: it may take longer than what the command does.
COMMANDS = {
    "watch": ("watch", "add", "show whether runs are healthy, as the server sees them"),
    "report": ("report", "add", "tell what became of a run, in Markdown"),
    "history": ("history", "add", "show what a journal tells of its runs"),
    "plan": ("recovering", "add_plan", "show what a recovery of a run would restore"),
    "recover": ("recovering", "add_recover", "restore a run of a process that has died"),
    "rehearse": ("rehearse", "add", "watch a run being corrupted and recovered"),
    "serve": ("serve", "add", "run the embedded server alone"),
}

#: The extra that brings a package, by the name under which it is imported.
EXTRAS = {
    **dict.fromkeys(("numpy", "starlette", "tinker", "uvicorn"), "rehearsal"),
    "rich": "cli",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: Those after the program's name; `None`: the process's own.

    Raises:
        SystemExit: From argparse: help was asked for, or the arguments cannot be used.
    """
    prepare()
    try:
        given = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = given.command
        with _quiet():
            return command(given)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        complain(f"{package} is not installed; this command needs an extra:")
        complain(f'    pip install "tinkex[{EXTRAS[package]}]"')
        return UNUSABLE
    except TinkexError as error:
        complain(in_words(error))
        return _status_of(error)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        _drop_output()
        complain(in_words(error))
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def _drop_output() -> None:
    """Have what is still in the buffer not raise again at the end of the process."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status_of(error: TinkexError) -> int:
    if isinstance(error, ConfigError):
        return UNUSABLE
    is_told = isinstance(error, ApiNotFoundError) or not isinstance(error, RestError)
    return FAILED if is_told else UNREACHABLE


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinkex", description="Brings corrupted Tinker fine-tuning runs back to life."
    )
    parser.add_argument("--version", action="version", version=f"tinkex {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = next((each for each in arguments if not each.startswith("-")), None)
    for name, (module, add, told) in COMMANDS.items():
        add_parser = partial(commands.add_parser, name, help=told)
        if name == asked:
            getattr(import_module(f".{module}", __package__), add)(add_parser)
        else:
            add_parser()
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
