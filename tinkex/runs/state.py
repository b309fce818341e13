"""The states of a run, the moves between them, and the generations of a lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ..display.checkpoints import checkpoint_cell, name_and_step
from ..display.table import ROWS_SHOWN, Cell, Row, Table, Tabular
from ..display.words import clock, count, day_and_time, duration, short_id
from ..signals import Cause

_COLUMNS = (
    "run",
    "made from",
    "began (UTC)",
    "lasted",
    "replaced because",
    "attempts",
    "left behind",
    "error",
)


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
    #: Another owner has the run, or has taken it over. Polled, and never recovered; left by
    #: `monitor_run`, or where that owner ends and has not gone on with it.
    FOLLOWING = "following"
    #: No attempt is left. Not polled; left by `run.recover()` or `monitor_run`.
    EXHAUSTED = "exhausted"
    #: Not monitored any more, for good.
    STOPPED = "stopped"

    @property
    def is_polled(self) -> bool:
        """Whether sweeps ask for a run in this state."""
        return self in _POLLED

    @property
    def is_ours(self) -> bool:
        """Whether the run may be trained, as far as polls tell."""
        return self in _OURS

    @property
    def is_pending(self) -> bool:
        """Whether an incident is open."""
        return self in PENDING


_OURS = frozenset({RunState.HEALTHY, RunState.FAILING, RunState.MISSING})
_POLLED = _OURS | {RunState.FOLLOWING}
#: Where any run may be led that is not stopped.
_ENDS = frozenset({RunState.FOLLOWING, RunState.STOPPED})
#: The states in which an incident is open.
PENDING = frozenset({RunState.RECOVERING, RunState.WAITING})

#: Which states each state may be left for.
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    **{each: (_OURS - {each}) | {RunState.RECOVERING} | _ENDS for each in _OURS},
    RunState.RECOVERING: frozenset({RunState.HEALTHY, RunState.WAITING, RunState.EXHAUSTED})
    | _ENDS,
    RunState.WAITING: frozenset({RunState.HEALTHY, RunState.RECOVERING, RunState.EXHAUSTED})
    | _ENDS,
    RunState.EXHAUSTED: frozenset({RunState.HEALTHY, RunState.RECOVERING}) | _ENDS,
    RunState.FOLLOWING: frozenset({RunState.HEALTHY, RunState.STOPPED}),
    RunState.STOPPED: frozenset(),
}


def check_transition(before: RunState, after: RunState) -> None:
    """Raise a `RuntimeError` where the table does not allow the move."""
    if after not in TRANSITIONS[before]:
        raise RuntimeError(f"a run cannot go from {before} to {after}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        made = f" from {name_and_step(self.checkpoint, self.step)}" if self.checkpoint else ""
        since = f", since {clock(self.started_at)}" if self.started_at else ""
        until = f", until {clock(self.ended_at)}" if self.ended_at else ""
        cause = f", {self.cause}" if self.cause else ""
        return f"<Generation {short_id(self.run_id)}{made}{since}{until}{cause}>"

    def _repr_html_(self) -> str:
        return Lineage([self])._repr_html_()


class Lineage(Tabular, tuple[Generation, ...]):
    """The generations of a run, the live one last, which are shown as a table."""

    __slots__ = ()

    def table(self) -> Table:
        """A row for each generation, of many for the last."""
        title = count(len(self), "generation")
        if len(self) > ROWS_SHOWN:
            title += f", of which these are the last {ROWS_SHOWN}"
        return Table.of(title, _COLUMNS, self[-ROWS_SHOWN:], _row)


def _row(generation: Generation) -> Row:
    began, ended = generation.started_at, generation.ended_at
    lasted = duration((ended - began).total_seconds()) if began and ended else ""
    return (
        Cell(short_id(generation.run_id), generation.run_id),
        checkpoint_cell(generation.checkpoint, generation.step),
        day_and_time(began),
        lasted,
        generation.cause.value if generation.cause else "",
        str(generation.attempts) if generation.attempts else "",
        ", ".join(map(short_id, generation.orphans)),
        Cell.error(generation.error),
    )


def generation_in(told: object) -> int | None:
    """The number of a generation as a run's metadata tells it, `None` where that is none."""
    is_number = isinstance(told, str) and told.isascii() and told.isdecimal() and len(told) < 10
    return int(str(told)) if is_number else None
