"""Changes of a run as frozen values: what polls, recoveries, loops and callers bring about.

A change holds all that happened, so that a record of changes needs nothing else. The steps of a
recovery are the events that they are published as, with what beside them is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a run.

    `run_id` is the generation that it is about, `None` whichever is live; one that is not live
    any more refuses it.
    """

    run_id: str | None = None


# Polls


class Polled(Change):
    """What a poll brought; a run that is not polled any more refuses it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Polled):
    """A poll found the run healthy."""

    run: TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged(Polled):
    """A poll found the run corrupted; an incident begins."""

    run: TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFailed(Polled):
    """A poll of the run failed; `is_miss`: it is this run that cannot be found."""

    error: BaseException
    is_miss: bool


# Recoveries


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested(Change):
    """An incident begins without the server's flag.

    `error` is what the training loop met, if that is why, `proof` what was found of its weights.
    Where a caller asked for it, the budget of the lineage is given back.
    """

    cause: Cause
    error: BaseException | None = None
    proof: RolledBack | None = None


class RecoveryChange(Change):
    """A step of an incident; the run refuses it where it has none."""

    __slots__ = ()

    event: Started | CheckpointSelected | ClientCreated | Completed | Failed | Exhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStep(RecoveryChange):
    """An attempt is about to be submitted, has chosen a checkpoint, or has a client."""

    event: Started | CheckpointSelected | ClientCreated


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(RecoveryChange):
    """An attempt failed; the next one follows, or waits until its account works (`is_held`)."""

    event: Failed
    checkpoint: Checkpoint | None
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(RecoveryChange):
    """No attempt is left. `failed` is the last one, `history` tells each of them in a line."""

    event: Exhausted
    failed: Failed | None = None
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(RecoveryChange):
    """The new client carries the run on. `broken` are the paths that did not load."""

    event: Completed
    with_optimizer: bool
    broken: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphaned(Change):
    """An attempt to recover the generation `of` left a run behind that is not used."""

    of: str
    successor_id: str


# Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated(Change):
    """`monitor_run` was called again: an exhausted run begins anew, with its budget given back.

    `client` is `None` where it is not of the live run.
    """

    service: Any
    config: Config | None
    metadata: Mapping[str, Any]
    client: Any


class Stopped(Change):
    """The run is not monitored any more."""

    __slots__ = ()


# The training loop


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorNoted(Change):
    """What the training loop met, for the incident that may follow; `None` takes it back."""

    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBegan(Change):
    """A training loop began; `has_resume_step`: it knows the step of any checkpoint."""

    has_resume_step: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveBegan(Change):
    """A checkpoint is being saved under this path: what was known of the path is over."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Change):
    """A checkpoint lacks a request that failed before it was saved: it is not restored."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Change):
    """A checkpoint was saved, or recorded by the caller."""

    checkpoint: Checkpoint
    cursor: Cursor
