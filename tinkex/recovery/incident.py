"""One incident: what is to be recovered, who began it, and how far its attempts are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from ..config import Config
from ..policy import Specific
from ..runs.changes import AttemptStep, Change
from ..runtime.publisher import Notice, Publisher
from ..runtime.scheduler import Clock, Timer
from ..runtime.waits import Waits
from ..signals import CheckpointSelected, ClientCreated, Completed, Exhausted, Failed, Started
from ..types import Checkpoint
from .attempt import AttemptReport, AttemptTask, RecoveryRequest
from .holds import Breaker, Holds
from .retry import Tally

__all__ = ["Attempt", "Dropped", "Incident", "Owner", "Take"]

#: The events of an attempt.
E = TypeVar(
    "E", bound=Started | CheckpointSelected | ClientCreated | Completed | Failed | Exhausted
)

#: Takes a change of an incident and returns what it gives rise to, `None` where it is refused.
#: Publishes that where the second argument says so.
Take = Callable[[Change, bool], tuple[Notice, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Change):
    """Whoever began the incident ended it. Only told to those that joined it."""


@dataclass(slots=True, eq=False)
class Owner:
    """Who begins incidents: a monitor, or an executor that was asked directly.

    `holds` is `None` where no poll tells of the accounts. `closing` is set when the owner
    stops: nothing new is begun for it.
    """

    publisher: Publisher
    waits: Waits
    holds: Holds[Incident] | None = None
    closing: bool = False


class Incident:
    """The state of one incident.

    `takes` are of the one that began the incident and of those that joined it.

    Threads: `request`, `attempt`, `tally`, `broken`, `history` and `with_optimizer` are touched
    only by the thread that ended the current attempt; `takes`, `current`, `timer` and `settled`
    are guarded by the dispatcher's lock.
    """

    def __init__(
        self,
        request: RecoveryRequest,
        metadata: Mapping[str, Any],
        clock: Clock,
        owner: Owner,
        take: Take,
    ) -> None:
        self.request = request
        self.metadata = metadata
        self.clock = clock
        self.owner = owner
        self.takes = [take]
        self.future: Future[Completed] = Future()
        self.future.set_running_or_notify_cancel()
        self.began = clock.monotonic()
        self.attempt = 0
        self.with_optimizer = request.policy.restore_optimizer
        self.tally = Tally(
            seed=request.run_id,
            can_pause=owner.holds is not None,
            with_optimizer=self.with_optimizer,
        )
        self.broken: frozenset[str] = frozenset()
        self.history: list[str] = []
        self.current: Attempt | None = None
        self.timer: Timer | None = None
        self.settled = False

    @property
    def account(self) -> Config | None:
        """The account that the incident belongs to."""
        return self.request.config

    def admit(self) -> bool:
        """Ask the account's breaker for the next attempt; where it says no, the incident waits."""
        holds = self.owner.holds
        return holds is None or holds.admit(self.account, self)

    def is_held(self) -> bool:
        """Whether the account is held."""
        holds = self.owner.holds
        return holds is not None and holds.breaker(self.account) is not Breaker.CLOSED

    def leave_holds(self) -> None:
        """Wait for the account no more."""
        if self.owner.holds is not None:
            self.owner.holds.forget(self.account, self)

    def tell(self, change: Change) -> tuple[Notice, ...] | None:
        """Tell a change to all that want to know; return the first answer of one that takes it.

        The one that began the incident publishes it, those that joined it do not.
        """
        answers = [take(change, not number) for number, take in enumerate(self.takes)]
        return next((each for each in answers if each is not None), None)


class Attempt:
    """One attempt of an incident, guarded by the dispatcher's lock."""

    def __init__(self, incident: Incident) -> None:
        request = incident.request
        self.incident = incident
        self.number = incident.attempt
        self.task = AttemptTask(
            request=request,
            number=self.number,
            with_optimizer=incident.with_optimizer,
            broken=incident.broken,
            now=incident.clock.utc(),
            on_selected=self._selected,
            is_wanted=self.is_current,
        )
        self.job: Future[AttemptReport] | None = None
        self.timer: Timer | None = None

    def is_current(self) -> bool:
        """Whether its result is still wanted."""
        return self.incident.current is self and not self.incident.settled

    def _selected(self, checkpoint: Checkpoint) -> None:
        if self.is_current():
            self.tell(CheckpointSelected, strategy=self.strategy, checkpoint=checkpoint)

    @property
    def strategy(self) -> str | Specific:
        """The checkpoint strategy, as events carry it."""
        return self.task.request.policy.checkpoint_strategy

    def event(self, kind: type[E], **fields: Any) -> E:
        """An event of this attempt, about the corrupted run."""
        incident = self.incident
        return kind(
            run_id=incident.request.run_id,
            metadata=incident.metadata,
            time=incident.clock.utc(),
            attempt=self.number,
            **fields,
        )

    def tell(self, kind: type[Started | CheckpointSelected | ClientCreated], **fields: Any) -> bool:
        """Tell a step of the attempt; return whether its run takes it."""
        event = self.event(kind, **fields)
        return self.incident.tell(AttemptStep(run_id=event.run_id, event=event)) is not None
