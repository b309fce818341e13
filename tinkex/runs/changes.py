"""Changes of a run as frozen values: what polls, recoveries, loops and callers bring about.

A change says all that happened, so that whoever keeps a record of it needs nothing else. The
changes of a recovery also say which events they are published as.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..config import Config
from ..policy import Policy, Specific
from ..runtime.publisher import Call, Notice
from ..signals import CheckpointSelected, ClientCreated, Completed, Exhausted, Failed, Started
from ..types import Checkpoint, TrainingRun
from .checkpoints import Cursor

__all__ = [
    "About",
    "AttemptBegan",
    "AttemptFailed",
    "AttemptHeld",
    "BegunAnew",
    "CauseNoted",
    "Change",
    "CheckpointChosen",
    "ClientMade",
    "Flagged",
    "GaveUp",
    "Orphaned",
    "PollFailed",
    "Reached",
    "Recovered",
    "RecoveryChange",
    "Requested",
    "Restored",
    "SaveBegan",
    "Saved",
    "Seen",
    "Stopped",
    "Updated",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the events of a change have in common; `policy` has the callbacks to call."""

    run_id: str
    metadata: Mapping[str, Any]
    time: datetime
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a successful attempt brings: a client that has loaded `checkpoint`."""

    checkpoint: Checkpoint
    client: Any
    successor_id: str
    with_optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a run; one of a generation that is no longer live is refused.

    `run_id` is the generation that the change is about, `None` whichever is live.
    """

    run_id: str | None = None


# Polls


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Change):
    """A poll found the run healthy."""

    run: TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged(Change):
    """A poll found the run corrupted; an incident begins."""

    run: TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFailed(Change):
    """A poll of the run failed; `is_miss`: it is this run that cannot be found."""

    error: BaseException
    is_miss: bool


# Recoveries


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested(Change):
    """An incident begins without the server's flag.

    `cause` is the error of the training loop, `None` where a caller asked: then the budget of
    the lineage is given back.
    """

    cause: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryChange(Change):
    """A step of an incident; `attempt` counts from 1, and is 0 where none was made."""

    attempt: int
    strategy: str | Specific = "latest"
    checkpoint: Checkpoint | None = None

    def notices(self, about: About) -> tuple[Notice, ...]:
        """The events of this change in their order, with the callbacks that follow them."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBegan(RecoveryChange):
    """An attempt is about to be submitted."""

    def notices(self, about: About) -> tuple[Notice, ...]:
        """`started`."""
        return (Started(**_common(about), attempt=self.attempt, strategy=self.strategy),)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointChosen(RecoveryChange):
    """An attempt has chosen what to restore."""

    checkpoint: Checkpoint

    def notices(self, about: About) -> tuple[Notice, ...]:
        """`checkpoint_selected`."""
        selected = CheckpointSelected(
            **_common(about),
            attempt=self.attempt,
            strategy=self.strategy,
            checkpoint=self.checkpoint,
        )
        return (selected,)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(RecoveryChange):
    """An attempt failed; the next comes in `retry_in` seconds."""

    error: BaseException
    retry_in: float

    def notices(self, about: About) -> tuple[Notice, ...]:
        """`failed`."""
        failed = Failed(
            **_common(about), attempt=self.attempt, error=self.error, retry_in=self.retry_in
        )
        return (failed,)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptHeld(AttemptFailed):
    """The account was refused: the next attempt comes when the account works again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(RecoveryChange):
    """No attempt is left; `history` tells each failed one in a line."""

    error: BaseException
    history: tuple[str, ...] = ()

    def notices(self, about: About) -> tuple[Notice, ...]:
        """`failed` where an attempt was made, `exhausted`, and `on_failure`."""
        common = _common(about)
        found: list[Notice] = []
        if self.attempt:
            found.append(Failed(**common, attempt=self.attempt, error=self.error, retry_in=None))
        found.append(Exhausted(**common, attempt=self.attempt, error=self.error))
        if about.policy.on_failure is not None:
            found.append(Call(about.policy.on_failure, (about.run_id, self.error)))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMade(RecoveryChange):
    """There is a new client, which has loaded its checkpoint."""

    restored: Restored

    def notices(self, about: About) -> tuple[Notice, ...]:
        """`client_created`."""
        return (ClientCreated(**_of_client(self, about)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(ClientMade):
    """The new client carries the run on. A run that does not wait for it refuses it.

    `broken` are the paths that did not load, `duration` the seconds since the incident began.
    """

    broken: frozenset[str]
    duration: float
    old_client: Any = None

    def notices(self, about: About) -> tuple[Notice, ...]:
        """`completed` and `on_recovery`."""
        completed = Completed(**_of_client(self, about), duration=self.duration)
        if about.policy.on_recovery is None:
            return (completed,)
        clients = (self.old_client, self.restored.client, self.restored.checkpoint)
        return completed, Call(about.policy.on_recovery, clients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphaned(Change):
    """An attempt to recover the generation `of` left a run behind that is not used."""

    of: str
    successor_id: str


# Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated(Change):
    """`monitor_run` was called again; `client` is `None` where it is not of the live run."""

    service: Any
    config: Config | None
    metadata: Mapping[str, Any]
    client: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunAnew(Change):
    """An exhausted run is polled again, with its budget given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Change):
    """The run is not monitored any more."""


# The training loop


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseNoted(Change):
    """What the training loop met, for the incident that may follow; `None` takes it back."""

    cause: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached(Change):
    """The next step of the loop; `unfinished`: it is unknown whether it was submitted."""

    step: int
    unfinished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveBegan(Change):
    """A checkpoint is being saved under this path."""

    path: str
    cursor: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Change):
    """A checkpoint was saved, or recorded by the caller."""

    checkpoint: Checkpoint
    cursor: Cursor


def _common(about: About) -> dict[str, Any]:
    return {"run_id": about.run_id, "metadata": about.metadata, "time": about.time}


def _of_client(change: ClientMade, about: About) -> dict[str, Any]:
    return {
        **_common(about),
        "attempt": change.attempt,
        "checkpoint": change.restored.checkpoint,
        "client": change.restored.client,
        "successor_id": change.restored.successor_id,
    }
