"""The states of a run, the moves between them, and the generations of a lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ..signals import Cause


class RunState(StrEnum):
    """What is known of a run."""

    #: The last poll succeeded, or none was made yet. Left when a poll fails, finds the run
    #: gone or corrupted, or a recovery is asked for.
    HEALTHY = "healthy"
    #: Polls fail. Left when one succeeds.
    FAILING = "failing"
    #: The server does not know the run any more. Polled slowly; left when it is seen again.
    MISSING = "missing"
    #: An attempt is under way or about to begin. Left with its end.
    RECOVERING = "recovering"
    #: Backing off, or waiting for the account. Left when the next attempt begins, or when one
    #: ends well that began for other monitors before this one joined them.
    WAITING = "waiting"
    #: No attempt is left. Not polled; left by `run.recover()` or `monitor_run`.
    EXHAUSTED = "exhausted"
    #: Not monitored any more, for good.
    STOPPED = "stopped"

    @property
    def is_polled(self) -> bool:
        """Whether sweeps ask for a run in this state."""
        return self in _POLLED

    @property
    def is_pending(self) -> bool:
        """Whether an incident is open."""
        return self in PENDING


_POLLED = frozenset({RunState.HEALTHY, RunState.FAILING, RunState.MISSING})
#: The states in which an incident is open.
PENDING = frozenset({RunState.RECOVERING, RunState.WAITING})

#: Which states each state may be left for.
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    **{each: (_POLLED - {each}) | {RunState.RECOVERING, RunState.STOPPED} for each in _POLLED},
    RunState.RECOVERING: frozenset(
        {RunState.HEALTHY, RunState.WAITING, RunState.EXHAUSTED, RunState.STOPPED}
    ),
    RunState.WAITING: frozenset(
        {RunState.HEALTHY, RunState.RECOVERING, RunState.EXHAUSTED, RunState.STOPPED}
    ),
    RunState.EXHAUSTED: frozenset({RunState.HEALTHY, RunState.RECOVERING, RunState.STOPPED}),
    RunState.STOPPED: frozenset(),
}


def check_transition(before: RunState, after: RunState) -> None:
    """Raise a `RuntimeError` where the table does not allow the move."""
    if after not in TRANSITIONS[before]:
        raise RuntimeError(f"a run cannot go from {before} to {after}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One run of a lineage.

    `started_at` is since when it was monitored, `None` where that was in another process;
    `checkpoint` is the path it was made from and `step` that checkpoint's next step, where
    known; `cause` is why it was replaced and `error` what its training loop had met, if
    anything; `attempts` is how many it took to make the next one, and `orphans` are the ids of
    runs that failed or abandoned attempts left behind.
    """

    run_id: str
    checkpoint: str | None = None
    step: int | None = None
    started_at: datetime | None
    ended_at: datetime | None = None
    cause: Cause | None = None
    error: str | None = None
    attempts: int = 0
    orphans: tuple[str, ...] = ()


def generation_in(told: object) -> int | None:
    """The number of a generation as a run's metadata tells it, `None` where that is none."""
    is_number = isinstance(told, str) and told.isascii() and told.isdecimal() and len(told) < 10
    return int(str(told)) if is_number else None
