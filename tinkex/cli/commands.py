"""The command line `tinkex`: rehearse recoveries, or serve what they are rehearsed on."""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from .. import __version__

if TYPE_CHECKING:
    from ..rehearsal import RehearsalServer

__all__ = ["main"]

#: Exit statuses beside 0: something failed; the command could not begin; it was interrupted.
FAILED = 1
UNUSABLE = 2
INTERRUPTED = 130

#: Columns: text is never set narrower, and so far are a scenario's figures indented.
NARROWEST = 40
INDENT = 6

#: The packages that the extra brings, by the names under which they are imported.
EXTRA = frozenset({"numpy", "starlette", "tinker", "uvicorn"})

#: What charts are drawn with.
_DRAWN = "⣿│└─┊┴"


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
        _complain(f"{package} is not installed; rehearsals need an extra:")
        _complain('    pip install "tinkex[rehearsal]"')
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinkex", description="Brings corrupted Tinker fine-tuning runs back to life."
    )
    parser.add_argument("--version", action="version", version=f"tinkex {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    rehearse = commands.add_parser(
        "rehearse",
        help="watch a run being corrupted and recovered",
        description="Trains a small model with the official SDK on an embedded server, corrupts "
        "the run half-way, recovers it, and compares it with an uninterrupted one. Exit status 1 "
        "means that the recovery failed or the losses are not what they must be.",
    )
    rehearse.add_argument("--seed", type=_whole, default=0, help="of the data and the weights")
    rehearse.add_argument("--steps", type=_whole, default=60, help="to train (default: 60)")
    rehearse.add_argument(
        "--weights-only", action="store_true", help="recover without the optimizer's state"
    )
    rehearse.add_argument(
        "--break",
        type=_whole,
        default=0,
        metavar="N",
        dest="broken",
        help="let the newest N checkpoints be broken too",
    )
    rehearse.add_argument(
        "--faults",
        nargs="?",
        const="",
        metavar="WORD",
        help="play the scenarios of faults instead: all, or those with WORD in their name",
    )
    rehearse.set_defaults(command=_rehearse)
    serve = commands.add_parser(
        "serve",
        help="run the embedded server alone",
        description="Serves the Tinker API on 127.0.0.1 until Ctrl-C, with a small model.",
    )
    serve.add_argument("--port", type=_whole, default=0, help="default: a free one")
    serve.add_argument("--directory", help="for checkpoints (default: a temporary one)")
    serve.set_defaults(command=_serve)
    return parser


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def _rehearse(given: argparse.Namespace) -> int:
    if given.faults is not None:
        return _play_faults(given.faults, given.seed)
    from ..rehearsal.story import FEWEST_STEPS, rehearse  # noqa: PLC0415 (an extra)

    width = _width()
    if given.steps < FEWEST_STEPS:
        _complain(f"--steps must be {FEWEST_STEPS} or more, not {given.steps}")
        return UNUSABLE
    ended = rehearse(
        _say,
        seed=given.seed,
        steps=given.steps,
        weights_only=given.weights_only,
        broken=given.broken,
        width=width,
        plain=not _can_print(_DRAWN),
    )
    for line in textwrap.wrap(f"{_mark(passed=ended.passed)}: {ended.verdict}", width):
        _say(line)
    return 0 if ended.passed else FAILED


def _play_faults(word: str, seed: int) -> int:
    from ..rehearsal.scenarios.catalog import SCENARIOS, play  # noqa: PLC0415 (an extra)

    names = [name for name in SCENARIOS if word in name]
    if not names:
        _complain(f"no scenario has {word!r} in its name; there are: {'; '.join(SCENARIOS)}")
        return UNUSABLE
    width = _width()
    began = time.monotonic()
    failed = 0
    for name in names:
        result = play(name, seed=seed)
        failed += not result.passed
        _say(f"{_mark(passed=result.passed)}  {name}  ({result.seconds:.1f} s)")
        for line in textwrap.wrap(result.reason, width - INDENT):
            _say(" " * INDENT + line)
    _say("")
    played = f"{len(names)} scenarios in {time.monotonic() - began:.0f} s"
    _say(f"{_mark(passed=not failed)}: {played}, {failed} failed")
    return FAILED if failed else 0


def _width() -> int:
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def _mark(*, passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _serve(given: argparse.Namespace) -> int:
    from ..rehearsal import RehearsalServer  # noqa: PLC0415 (an extra)

    with _ended_by_signals() as ended:
        try:
            server = RehearsalServer(given.directory, port=given.port).start()
        except (OSError, OverflowError) as error:
            _complain(f"cannot listen on port {given.port}: {error}")
            return FAILED
        with server:
            _show_environment(server)
            ended.wait()
    return 0


def _show_environment(server: RehearsalServer) -> None:
    _say("# A rehearsal server of the Tinker API; Ctrl-C ends it.")
    for name, value in server.environ.items():
        _say(f"export {name}={value}")


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; what they did before is restored."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and other packages' logs off the terminal: what matters is said anyway."""
    handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _complain(line: str) -> None:
    sys.stderr.write(f"tinkex: {line}\n")
