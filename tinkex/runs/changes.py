"""Changes of a run as frozen values: what polls, recoveries, loops and callers bring about.

A change holds all that happened but the moment, which is applied with it; what a list says of
healthy runs without news is none. The steps of a recovery are the events that they are published
as, with what beside them is kept.

`run_id` is the generation that a change is about, `None` whichever is live; one that is not live
any more refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from ..config import Config
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


#: A step of an incident.
RecoveryChange = AttemptStep | AttemptFailed | GaveUp | Recovered

#: What a run without an open incident refuses.
STEPS = frozenset({*get_args(RecoveryChange), Dropped})


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
    | Orphaned
    | Updated
    | Stopped
    | ErrorNoted
    | LoopBegan
    | SaveBegan
    | Withdrawn
    | Saved
)
