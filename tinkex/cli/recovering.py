"""`tinkex plan` and `tinkex recover`: bring back a run of a process that has died."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from ..config import Config
from ..display.words import age, size
from ..errors import ResumePointUnknownError, TinkexError, in_words
from ..handle import MonitoredRun
from ..policy import Policy
from ..runs.checkpoints import Plan
from ..shortcuts import resume
from ..signals import Event, Paused, subscribe
from ..signals.words import in_words as sentence
from ..types import Checkpoint
from .account import add_run, rest_port, told_run, use_login
from .console import FAILED, UNREACHABLE, UNUSABLE, complain, filled, say, table, terminal
from .history import is_there

if TYPE_CHECKING:
    from rich.table import Table

#: The name under which a run that was brought back is saved at once.
SAVED_AS = "tinkex-recovered"

TITLES = ("Checkpoint", "Step", "Saved", "Size", "Would be")

#: No sweep comes in between: the command does one thing.
_POLICY = Policy(enabled=True, poll_interval=86_400.0)


def add_plan(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Shows which checkpoints a recovery would try, and in which order. Nothing is "
        "made. A run that a living process of this machine has open is refused: ask that process.",
    )
    _add_common(parser)
    parser.add_argument(
        "-f", "--format", choices=("table", "json"), default="table", help="default: table"
    )
    parser.set_defaults(command=_plan)


def add_recover(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Restores a run from its newest checkpoint that loads, into a new run, and "
        f"saves that as {SAVED_AS}. tinkex.resume and tinkex.open_run go on from there.",
    )
    _add_common(parser)
    parser.add_argument(
        "--takeover",
        action="store_true",
        help="do not wait until an owner of another machine is silent: it has ended for sure",
    )
    parser.set_defaults(command=_recover)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--journal", type=filled, help="the journal of the process that has died")


def _plan(given: argparse.Namespace) -> int:
    config = use_login()
    if given.journal is not None and not is_there(given.journal):
        return UNUSABLE
    # To look makes nothing, so it takes nothing over.
    run_id = told_run(config, given)
    with resume(run_id, _none, _POLICY, takeover=True, **_journal(given)) as run:
        plan = run.plan()
    if given.format == "json":
        say(json.dumps(_as_json(plan), indent=2))
    else:
        terminal().print(_table(run, plan))
    return 0 if plan.candidates else FAILED


def _none() -> NoReturn:
    raise RuntimeError("a plan opens no service client")


def _recover(given: argparse.Namespace) -> int:
    import tinker  # noqa: PLC0415 (an extra)

    config = use_login()
    if given.journal is not None and not is_there(given.journal):
        return UNUSABLE
    run_id, service = told_run(config, given), tinker.ServiceClient
    refusals: list[BaseException] = []
    try:
        with (
            _told(),
            resume(run_id, service, _POLICY, takeover=given.takeover, **_journal(given)) as run,
            _refusals_end(run, refusals),
        ):
            _restore(config, run)
    # Told when the monitor has stopped, so that it is the last that is told.
    except (TinkexError, tinker.TinkerError) as error:
        if not refusals and isinstance(error, TinkexError):
            raise
        told = in_words(refusals[0] if refusals else error)
        complain(told.replace(config.require_key(), "***"))
        return UNREACHABLE if refusals else FAILED
    return 0


def _restore(config: Config, run: MonitoredRun) -> None:
    if (path := _restored(config, run)) is not None:
        say(f"run {run.run_id} is restored already, and was not trained since")
    else:
        say(f"restoring run {run.root_id}")
        path = _saved(run)
        say(f"new run: {run.run_id}")
    say(f"saved:   {path}")


def _restored(config: Config, run: MonitoredRun) -> str | None:
    """What this command saved, where the newest run holds no more and is not lost."""
    first = next(iter(run.plan().candidates), None)
    path = None if first is None else first.checkpoint.tinker_path
    if path != f"tinker://{run.run_id}/weights/{SAVED_AS}":
        return None
    return None if rest_port().run(config, run.run_id).corrupted else path


def _saved(run: MonitoredRun) -> str:
    """Restore a run, and save it at once: what was only loaded counts as nothing."""
    try:
        for segment in run.segments():
            with segment:
                saved = segment.save_state(SAVED_AS, step=segment.start_step)
                say(f"step:    {segment.start_step}")
    except ResumePointUnknownError as error:
        complain(in_words(error))
        path: str = run.wait().save_state(SAVED_AS).result().path
        return path
    return saved.tinker_path


@contextmanager
def _refusals_end(run: MonitoredRun, errors: list[BaseException]) -> Iterator[None]:
    """End the recovery where its account or server refuses it: no sweep finds out when they do not.

    The errors of the refusals are added to `errors`.
    """

    def end(sender: object, event: Paused) -> None:
        errors.append(event.error)
        run.stop()

    with subscribe(end, "paused"):
        yield


@contextmanager
def _told() -> Iterator[None]:
    """Show what tinkex waits for, and what goes wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("tinkex: %(message)s"))
    handler.setLevel(logging.WARNING)
    # Events are told in words.
    handler.addFilter(lambda record: not record.name.startswith("tinkex.runtime"))
    logger = logging.getLogger("tinkex")
    logger.addHandler(handler)
    try:
        with subscribe(_tell, "failed", "exhausted", "paused"):
            yield
    finally:
        logger.removeHandler(handler)


def _tell(sender: object, event: Event) -> None:
    complain(sentence(event) or event.name)


def _journal(given: argparse.Namespace) -> dict[str, Any]:
    return {} if given.journal is None else {"journal": given.journal}


def _table(run: MonitoredRun, plan: Plan) -> Table:
    now, rows = datetime.now(UTC), []
    for number, each in enumerate(plan.candidates, 1):
        tried = f"tried {number}." + (" (should have expired)" if each.is_expired else "")
        step = "unknown" if each.step is None else str(each.step)
        rows.append((_cells(each.checkpoint, step, tried, now), "green"))
    rows += [
        (_cells(left.checkpoint, "", f"left out: {left.reason}", now), "dim")
        for left in plan.left_out
    ]
    if not plan.candidates:
        complain(f"run {run.run_id}: there is no checkpoint that could be restored")
    return table(f"plan for run {run.run_id}", TITLES, rows, styled="Would be")


def _cells(checkpoint: Checkpoint, step: str, would_be: str, now: datetime) -> tuple[str, ...]:
    saved = age(checkpoint.time, now)
    return checkpoint.tinker_path, step, saved, size(checkpoint.size_bytes), would_be


def _as_json(plan: Plan) -> dict[str, Any]:
    return {
        "candidates": [
            {
                "checkpoint": each.checkpoint.tinker_path,
                "step": each.step,
                "expires_at": each.expires_at and each.expires_at.isoformat(),
                "is_expired": each.is_expired,
            }
            for each in plan.candidates
        ],
        "left_out": [
            {"checkpoint": each.checkpoint.tinker_path, "reason": each.reason}
            for each in plan.left_out
        ],
    }
