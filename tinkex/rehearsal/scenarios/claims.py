"""Checks that scenarios make; one that does not hold ends the scenario with `ClaimError`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...handle import MonitoredRun
from ..step_log import History, history
from ..web.server import RehearsalServer


class ClaimError(Exception):
    """Raised when a check does not hold; its message says which."""


def check_holds(condition: bool, claim: str) -> None:
    """Raise a `ClaimError` with this claim if the condition is false."""
    if not condition:
        raise ClaimError(f"not so: {claim}")


def check_equal(what: str, found: object, expected: object) -> None:
    """Raise a `ClaimError` if two values differ."""
    if found != expected:
        raise ClaimError(f"{what}: {found!r}, but it must be {expected!r}")


def check_history(
    server: RehearsalServer, run: MonitoredRun, whole: History, *, generations: int
) -> None:
    """Check that a recovered run has the same losses as an uninterrupted one, `whole`.

    The server's log must have the same (step, loss) pairs, bit for bit, with no step twice
    and none missing, and must agree with the handle on where each generation began.
    """
    lineage = run.lineage
    check_equal("generations", len(lineage), generations)
    for before, after in pairwise(lineage):
        info = server.run(after.run_id)
        told = f"checkpoint of {after.run_id}"
        check_equal(told, after.checkpoint, info.created_from)
        check_equal(f"first step of {after.run_id}", after.step, info.start_step)
        check_holds(before.ended_at is not None, f"{before.run_id} has an end")
        check_holds(info.with_optimizer, f"{after.run_id} has its optimizer's state")
    found = history(server, run.run_id)
    check_equal("steps", [step for step, _ in found], list(range(len(whole))))
    check_equal("steps with another loss", _unequal(found, whole), [])


def _unequal(found: History, whole: History) -> Sequence[int]:
    return [step for (step, loss), (_, other) in zip(found, whole, strict=True) if loss != other]
