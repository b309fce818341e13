"""`tinkex rehearse`: break runs on an embedded server and show how they are recovered."""

from __future__ import annotations

import argparse
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .console import FAILED, UNUSABLE, can_print, complain, say, whole, width

#: Columns by which the lines below a scenario's name are indented.
INDENT = 6

#: What ends a process that is told to end, or whose terminal is closed.
_ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

#: The characters that charts are drawn with.
_DRAWN = "⣿│└─┊┴"


def add(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Trains a small model with the official SDK on an embedded server, corrupts "
        "the run half-way, recovers it, and compares it with an uninterrupted one. Exit status 1 "
        "means that the recovery failed or the losses are not what they must be.",
    )
    parser.add_argument("--seed", type=whole, default=0, help="decides the data and the weights")
    parser.add_argument("--steps", type=whole, default=60, help="how many to train (default: 60)")
    parser.add_argument(
        "--weights-only", action="store_true", help="recover without the optimizer's state"
    )
    parser.add_argument(
        "--break",
        type=whole,
        default=0,
        metavar="N",
        dest="broken",
        help="also break the newest N checkpoints",
    )
    parser.add_argument(
        "--faults",
        nargs="?",
        const="",
        metavar="WORD",
        help="play the scenarios of faults instead: all, or those with WORD in their name",
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        help="kill the training process instead, three times, and start it again",
    )
    parser.set_defaults(command=_rehearse)


def _rehearse(given: argparse.Namespace) -> int:
    with _unwound():
        return _played(given)


@contextmanager
def _unwound() -> Iterator[None]:
    """Have no process and no folder left behind where this process is told to end."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    # One that is ignored, as by nohup, stays so.
    taken = [each for each in _ENDS if is_main and signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _played(given: argparse.Namespace) -> int:
    if given.faults is not None:
        return _play_faults(given.faults, given.seed)
    from ..rehearsal.story import FEWEST_STEPS, rehearse  # noqa: PLC0415 (an extra)

    columns = width()
    if given.steps < FEWEST_STEPS:
        complain(f"--steps must be {FEWEST_STEPS} or more, not {given.steps}")
        return UNUSABLE
    common = {"seed": given.seed, "steps": given.steps, "width": columns}
    common["plain"] = not can_print(_DRAWN)
    if given.kill:
        from ..rehearsal.killing import rehearse_kills  # noqa: PLC0415 (an extra)

        ended = rehearse_kills(say, **common)
    else:
        ended = rehearse(say, weights_only=given.weights_only, broken=given.broken, **common)
    for line in textwrap.wrap(f"{_mark(passed=ended.passed)}: {ended.verdict}", columns):
        say(line)
    return 0 if ended.passed else FAILED


def _play_faults(word: str, seed: int) -> int:
    from ..rehearsal.scenarios.catalog import SCENARIOS, play  # noqa: PLC0415 (an extra)

    names = [name for name in SCENARIOS if word in name]
    if not names:
        complain(f"no scenario has {word!r} in its name; there are: {'; '.join(SCENARIOS)}")
        return UNUSABLE
    columns = width()
    began = time.monotonic()
    failed = 0
    for name in names:
        result = play(name, seed=seed)
        failed += not result.passed
        say(f"{_mark(passed=result.passed)}  {name}  ({result.seconds:.1f} s)")
        for line in textwrap.wrap(result.reason, columns - INDENT):
            say(" " * INDENT + line)
    say("")
    played = f"{len(names)} scenarios in {time.monotonic() - began:.0f} s"
    say(f"{_mark(passed=not failed)}: {played}, {failed} failed")
    return FAILED if failed else 0


def _mark(*, passed: bool) -> str:
    return "pass" if passed else "FAIL"
