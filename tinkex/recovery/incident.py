"""One incident: what is recovered, who began it, and the state of its attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ..config import Config
from ..own_services import OwnServices
from ..policy import Specific
from ..ports import RestPort, ServicePort
from ..runs.apply import Result
from ..runs.changes import AttemptStep, Change
from ..runtime.publisher import Publisher
from ..runtime.scheduler import Clock, Timer
from ..runtime.waits import Waits
from ..signals import CheckpointSelected, ClientCreated, Completed, Exhausted, Failed, Started
from ..types import Checkpoint
from .attempt import AttemptReport, AttemptTask, RecoveryRequest
from .holds import Holds
from .retry import Tally

#: The events of an attempt.
E = TypeVar(
    "E", bound=Started | CheckpointSelected | ClientCreated | Completed | Failed | Exhausted
)


class Dropped(NamedTuple):
    """The owner of the incident ended it. Only told to those that joined it."""

    run_id: str


#: Takes a change of an incident and returns what it gives rise to, `None` where it is refused.
#: Publishes that where the second argument says so.
Listener = Callable[[Change | Dropped, bool], Result]


@dataclass(slots=True, eq=False, kw_only=True)
class Owner:
    """Who begins incidents, a monitor or an executor that is asked directly, and its tools.

    `can_pause`: polls tell when an account works again, so incidents may wait for it.
    `closing` is set when the owner stops: nothing new is begun for it.
    """

    publisher: Publisher
    waits: Waits
    clock: Clock
    rest: RestPort
    services: ServicePort
    holds: Holds[Incident]
    own_services: OwnServices
    can_pause: bool
    closing: bool = False


class Incident:
    """The state of one incident; `listeners` are of its owner and of those that joined it.

    Threads: `run`, `attempt`, `tally`, `broken`, `history`, `reopen` and `with_optimizer` are
    touched only by the thread that ended the current attempt; `listeners`, `current`, `timer` and
    `settled` are guarded by the dispatcher's lock.
    """

    def __init__(
        self,
        request: RecoveryRequest,
        metadata: Mapping[str, Any],
        owner: Owner,
        listener: Listener,
    ) -> None:
        self.request = request
        self.run = request.run
        self.metadata = metadata
        self.owner = owner
        self.listeners = [listener]
        self.future: Future[Completed] = Future()
        self.future.set_running_or_notify_cancel()
        self.began = owner.clock.monotonic()
        self.attempt = 0
        self.with_optimizer = request.policy.restore_optimizer
        self.tally = Tally(
            seed=request.run_id, can_pause=owner.can_pause, with_optimizer=self.with_optimizer
        )
        self.broken: frozenset[str] = frozenset()
        self.history: list[str] = []
        self.reopen = False
        self.current: Attempt | None = None
        self.timer: Timer | None = None
        self.settled = False

    @property
    def account(self) -> Config | None:
        """The account that the incident belongs to."""
        return self.request.config

    def admit(self) -> bool:
        """Ask the account's breaker for the next attempt; where it says no, the incident waits."""
        return self.owner.holds.admit(self.account, self)

    def elapsed(self) -> float:
        """Seconds since the incident began."""
        return self.owner.clock.monotonic() - self.began

    def tell(self, change: Change) -> Result:
        """Tell a change to the owner and to those that joined; the first that takes it publishes.

        Returns what follows from it, `None` where all refuse it.
        """
        taken: Result = None
        for listener in tuple(self.listeners):
            answer = listener(change, taken is None)
            taken = answer if taken is None else taken
        return taken


class Attempt:
    """One attempt of an incident, guarded by the dispatcher's lock."""

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.number = incident.attempt
        self.strategy: str | Specific = incident.request.policy.checkpoint_strategy
        #: What its executor gets; made when it is launched, since a clock may be foreign code.
        self.task: AttemptTask | None = None
        self.job: Future[AttemptReport] | None = None
        self.timer: Timer | None = None
        self.began: float | None = None

    def make_task(self) -> AttemptTask:
        """Make the task. The caller holds no lock."""
        incident = self.incident
        self.task = AttemptTask(
            request=incident.request,
            number=self.number,
            with_optimizer=incident.with_optimizer,
            broken=incident.broken,
            now=incident.owner.clock.utc(),
            run=incident.run,
            reopen=incident.reopen,
            on_begun=self._begun,
            on_selected=self._selected,
            is_wanted=self.is_current,
        )
        return self.task

    def time_left(self) -> float:
        """The seconds that are left to the work; all of them while it waits for its executor."""
        timeout = self.incident.request.policy.attempt_timeout
        if self.began is not None:
            return self.began + timeout - self.incident.owner.clock.monotonic()
        is_running = getattr(self.job, "running", None)
        return timeout if callable(is_running) and not is_running() else 0.0

    def _begun(self) -> None:
        self.began = self.incident.owner.clock.monotonic()

    def is_current(self) -> bool:
        """Whether its result is still wanted."""
        return self.incident.current is self and not self.incident.settled

    def _selected(self, checkpoint: Checkpoint) -> None:
        if self.is_current():
            self.tell(CheckpointSelected, strategy=self.strategy, checkpoint=checkpoint)

    def event(self, kind: type[E], **fields: Any) -> E:
        """An event of this attempt, about the corrupted run."""
        incident = self.incident
        return kind(
            run_id=incident.request.run_id,
            metadata=incident.metadata,
            time=incident.owner.clock.utc(),
            attempt=self.number,
            **fields,
        )

    def tell(self, kind: type[Started | CheckpointSelected | ClientCreated], **fields: Any) -> bool:
        """Tell a step of the attempt; return whether its run takes it."""
        event = self.event(kind, **fields)
        return self.incident.tell(AttemptStep(run_id=event.run_id, event=event)) is not None
