"""What signals tell: the records of events, and what can begin an incident."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from ..types import Checkpoint, TrainingRun


class Cause(StrEnum):
    """What began an incident."""

    #: The server flagged the run as corrupted.
    CORRUPTED = "corrupted"
    #: The training client of the run is of no more use, flagged or not.
    UNUSABLE = "unusable"
    #: A request that changes the run's state failed, for a reason that lies with the server.
    ERROR = "error"
    #: The server is back with an older state of the run, or may be: it was down, or says so.
    ROLLED_BACK = "rolled_back"
    #: The training loop was interrupted after it had submitted more than was saved.
    INTERRUPTED = "interrupted"
    #: The process that trained the run has ended, and another one goes on.
    RESTARTED = "restarted"
    #: A caller asked for it.
    REQUESTED = "requested"

    @property
    def is_detected(self) -> bool:
        """Whether it was noticed rather than asked for: it is sent as `detected`, and counted."""
        return self not in (Cause.INTERRUPTED, Cause.RESTARTED, Cause.REQUESTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have in common.

    `run_id` is the id of the run, in a recovery of the one that is replaced (`None` where an event
    is not about one run),
    `metadata` what was given to `monitor_run`, `time` an aware UTC time. `name` is its signal's:
    that of its class in lower case, with underscores, and `level` how grave it is, as a level of
    `logging`.
    """

    name: ClassVar[str]
    level: ClassVar[int] = logging.INFO

    run_id: str | None
    metadata: Mapping[str, Any]
    time: datetime

    def __init_subclass__(cls) -> None:
        words = (f"_{each}" if each.isupper() else each for each in cls.__name__)
        cls.name = "".join(words).removeprefix("_").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected(Event):
    """Sent when a run was found to be lost; `cause` says how.

    `run` is the run as a poll saw it, `None` where its training loop noticed. `reason` is what the
    server told that loop, or tells of the flagged run's session: a failed one's category and
    message. It is `None` where the server says nothing of it, or not within a second.
    """

    level = logging.WARNING

    checkpoint: Checkpoint | None
    run: TrainingRun | None
    cause: Cause
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollError(Event):
    """Sent when a run's polls begin to fail, then at most once a minute until one succeeds."""

    level = logging.WARNING

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """Sent when an attempt began; `attempt` counts from 1 within an incident."""

    attempt: int
    strategy: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSelected(Event):
    """Sent when an attempt has chosen what to restore."""

    attempt: int
    strategy: Any
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCreated(Event):
    """Sent when the new training client exists and has loaded."""

    attempt: int
    checkpoint: Checkpoint
    client: Any = field(repr=False)
    successor_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Event):
    """Sent when a run is recovered; `duration` is in seconds since the incident began."""

    attempt: int
    checkpoint: Checkpoint
    client: Any = field(repr=False)
    successor_id: str
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """Sent when an attempt failed; the next comes in `retry_in` seconds, none where `None`."""

    level = logging.WARNING

    attempt: int
    error: BaseException
    retry_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted(Event):
    """Sent when no attempt is left; `attempt` says how many there were."""

    level = logging.ERROR

    attempt: int
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept(Event):
    """Sent when a sweep ended: how many runs, requests, errors, and seconds it took."""

    level = logging.DEBUG

    runs: int
    requests: int
    duration: float
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected(Event):
    """Sent when a healthy run has no checkpoint that a recovery could use, or soon none.

    `since` is since when, `checkpoint` the one that is about to expire, if any.
    """

    level = logging.WARNING

    since: datetime
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(Event):
    """Sent once when a run cannot be found any more."""

    level = logging.ERROR

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """Sent when an account's recoveries wait: for the account, its server or the journal."""

    level = logging.WARNING

    error: BaseException
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Sent when they go on, since all works again; `error` is what had paused it."""

    error: BaseException
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack(Event):
    """Sent when a run is back at an older state: its weights show it, or the server says so.

    `checkpoint` is that state; `None` is the beginning of the run, or that the server named none.
    `evidence` tells what was seen, or is what the server said.
    """

    level = logging.ERROR

    checkpoint: Checkpoint | None
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFailed(Event):
    """Sent when the journal cannot be written, once until it can; nothing is restored meanwhile.

    With a `run_id` only that run cannot be written or read, and only it is not restored.
    """

    level = logging.ERROR

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Fenced(Event):
    """Sent when another owner was found to have the run: it is only followed now.

    `successor_id` is that owner's run: another one, or this one where it has not gone on with
    another. `owner` is the owner's id or process, `None` where nothing tells it.
    """

    level = logging.ERROR

    successor_id: str
    owner: str | None
