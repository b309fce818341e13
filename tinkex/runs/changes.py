"""Changes of a run as frozen values: what polls, recoveries, loops and callers bring about.

A change holds all that happened but the moment, which is applied with it; what a list says of
healthy runs without news is none. The steps of a recovery are the events that they are published
as, with what beside them is kept.

`run_id` is the generation that a change is about, `None` whichever is live; one that is not live
any more refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, get_args

from ..config import Config
from ..policy import Policy
from ..runtime.publisher import Call, Notice
from ..signals import (
    Cause,
    CheckpointSelected,
    ClientCreated,
    Completed,
    Exhausted,
    Failed,
    RolledBack,
    Started,
)
from ..types import Checkpoint, TrainingRun
from .checkpoints import Cursor
from .record import History, Origin


class Moment(NamedTuple):
    """When and under which policy a change is applied: aware UTC, and monotonic seconds.

    `served` is the server's time where that is known, else `utc`.
    """

    utc: datetime
    seconds: float
    policy: Policy
    served: datetime


# Polls


class Seen(NamedTuple):
    """A poll found the run healthy."""

    run: TrainingRun
    run_id: str | None = None


class Flagged(NamedTuple):
    """A poll found the run corrupted; an incident begins."""

    run: TrainingRun
    run_id: str | None = None


class PollFailed(NamedTuple):
    """A poll of the run failed; `is_miss`: it is this run that cannot be found."""

    error: BaseException
    is_miss: bool
    run_id: str | None = None


#: What a poll brought; a run that is not polled any more refuses it.
Polled = Seen | Flagged | PollFailed
POLLED = frozenset(get_args(Polled))


# Recoveries


class Requested(NamedTuple):
    """An incident begins without the server's flag.

    `error` is what the training loop met, if that is why, `proof` what was found of its weights.
    Where a caller asked for it, the budget of the lineage is given back.
    """

    cause: Cause
    error: str | None = None
    proof: RolledBack | None = None
    run_id: str | None = None


class AttemptStep(NamedTuple):
    """An attempt is about to be submitted, has chosen a checkpoint, or has a client."""

    event: Started | CheckpointSelected | ClientCreated
    run_id: str | None = None


class AttemptFailed(NamedTuple):
    """An attempt failed; the next one follows, or waits until its account works (`is_held`)."""

    event: Failed
    checkpoint: Checkpoint | None
    is_held: bool = False
    run_id: str | None = None


class GaveUp(NamedTuple):
    """No attempt is left. `failed` is the last one, `history` tells each of them in a line."""

    event: Exhausted
    failed: Failed | None = None
    history: tuple[str, ...] = ()
    run_id: str | None = None


class Recovered(NamedTuple):
    """The new client carries the run on. `broken` are the paths that did not load."""

    event: Completed
    with_optimizer: bool
    broken: frozenset[str]
    run_id: str | None = None


class Dropped(NamedTuple):
    """The owner of an incident that the run joined has ended it; the run begins one of its own."""

    run_id: str | None = None


class Fenced(NamedTuple):
    """Another owner has the run, or has gone on with `successor_id`; an incident is over."""

    successor_id: str
    owner: str | None
    run_id: str | None = None


class Freed(NamedTuple):
    """The other owner of a run has ended, and gone on with nothing: it is ours."""

    run_id: str | None = None


class TakenUp(NamedTuple):
    """A run that was followed is brought back from a journal: its last generation, and the rest."""

    successor_id: str
    origin: Origin
    run_id: str | None = None


#: What a run refuses that is only followed.
NOT_FOLLOWED = frozenset({Flagged, PollFailed, Requested})

#: A step of an incident.
RecoveryChange = AttemptStep | AttemptFailed | GaveUp | Recovered

#: What a run without an open incident refuses.
STEPS = frozenset({*get_args(RecoveryChange), Dropped})


def notices_of(
    change: RecoveryChange, policy: Policy, old_client: Any = None
) -> tuple[Notice, ...]:
    """The events of a recovery's step in their order, with the callbacks that follow them."""
    found: list[Notice] = [change.event]
    if isinstance(change, GaveUp):
        found[:0] = [change.failed] if change.failed is not None else []
        if policy.on_failure is not None:
            found.append(Call(policy.on_failure, (change.event.run_id, change.event.error)))
    elif isinstance(change, Recovered) and policy.on_recovery is not None:
        clients = (old_client, change.event.client, change.event.checkpoint)
        found.append(Call(policy.on_recovery, clients))
    return tuple(found)


class Orphaned(NamedTuple):
    """An attempt to recover the generation `of` left a run behind that is not used."""

    of: str
    successor_id: str
    run_id: str | None = None


# Commands


class Updated(NamedTuple):
    """`monitor_run` was called again: an exhausted run begins anew, with its budget given back.

    `client` is `None` where it is not of the live run.
    """

    service: Any
    config: Config | None
    metadata: Mapping[str, Any]
    client: Any
    run_id: str | None = None


class Remembered(NamedTuple):
    """What a journal knows of the run from before this process; what is known here counts."""

    cursors: Mapping[str, Cursor]
    known: Mapping[str, Checkpoint]
    broken: frozenset[str]
    incidents: tuple[float, ...]
    stuck: tuple[int, int | None]
    orphans: Mapping[str, tuple[str, ...]]
    run_id: str | None = None

    def joined(self, own: History) -> History:
        """Both, where `own` is what is known here."""
        if own.fenced is not None:  # the other owner began with all this, and knows what followed
            own = replace(own, fenced=None, stuck=0, cursors={}, known={})
            own = replace(own, incidents=(), broken=frozenset())
        stuck, stuck_at = (own.stuck, own.stuck_at) if own.stuck else self.stuck
        orphans = dict(own.orphans)
        for run_id, more in self.orphans.items():
            orphans[run_id] = tuple(dict.fromkeys((*more, *orphans.get(run_id, ()))))
        return replace(
            own,
            is_kept=True,
            cursors={**self.cursors, **own.cursors},
            known={**self.known, **own.known},
            broken=own.broken | self.broken,
            orphans=orphans,
            incidents=(*self.incidents, *own.incidents),
            stuck=stuck,
            stuck_at=stuck_at,
        )


class Stopped(NamedTuple):
    """The run is not monitored any more."""

    run_id: str | None = None


# The training loop


class ErrorNoted(NamedTuple):
    """What the training loop met, for the incident that may follow; `None` takes it back."""

    error: str | None
    run_id: str | None = None


class LoopBegan(NamedTuple):
    """A training loop began; `has_resume_step`: it knows the step of any checkpoint."""

    has_resume_step: bool
    run_id: str | None = None


class SaveBegan(NamedTuple):
    """A checkpoint is being saved under this path: what was known of the path is over."""

    path: str
    run_id: str | None = None


class SaveUnsent(NamedTuple):
    """A save that had begun was not sent: what was known of its path before holds.

    `known` are the checkpoints as they were known then, in the order of their saves.
    """

    path: str
    known: Mapping[str, Checkpoint]
    cursor: Cursor | None
    run_id: str | None = None

    def undone(self, own: History) -> History:
        """What is known without that save."""
        known = {**self.known, **own.known}
        known = {path: known[path] for path in known if path in own.known or path == self.path}
        cursors = own.cursors if self.cursor is None else {**own.cursors, self.path: self.cursor}
        return replace(own, known=known, cursors=cursors)


class Withdrawn(NamedTuple):
    """A checkpoint lacks a request that failed before it was saved: it is not restored."""

    path: str
    run_id: str | None = None


class Saved(NamedTuple):
    """A checkpoint was saved, or recorded by the caller."""

    checkpoint: Checkpoint
    cursor: Cursor
    run_id: str | None = None


#: Any change of a run.
Change = (
    Polled
    | RecoveryChange
    | Dropped
    | Requested
    | Fenced
    | Freed
    | TakenUp
    | Orphaned
    | Updated
    | Remembered
    | Stopped
    | ErrorNoted
    | LoopBegan
    | SaveBegan
    | SaveUnsent
    | Withdrawn
    | Saved
)
