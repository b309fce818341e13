"""Incidents, their attempts and their owners, and the table of all in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary, ref

from ..config import Config
from ..config.credentials import kept, secrets_of
from ..errors import RecoveryError, TinkexError
from ..policy import Specific
from ..ports import RestPort, ServicePort
from ..runs.apply import Result
from ..runs.changes import AttemptStep, Change, Dropped, GaveUp, Recovered
from ..runtime import forks
from ..runtime.delivery import Delivery
from ..runtime.futures import OwnFuture
from ..runtime.publisher import Publisher
from ..runtime.scheduler import Clock, Timer
from ..runtime.undisturbed import aside, once, undisturbed
from ..runtime.waits import Waits
from ..service.opened import OwnServices
from ..signals import CheckpointSelected, ClientCreated, Completed, Exhausted, Failed, Started
from ..types import Checkpoint
from .attempt import AttemptReport, AttemptTask, RecoveryRequest, run_attempt
from .holds import Holds, base_url_of
from .retry import Tally

logger = logging.getLogger(__name__)

T = TypeVar("T")

E = TypeVar(
    "E", bound=Started | CheckpointSelected | ClientCreated | Completed | Failed | Exhausted
)


class Adopted(NamedTuple):
    """The run was recovered before, by another owner: its client is taken over."""

    recovered: Recovered


#: Takes a change of an incident, publishes what it gives rise to, and returns that; `None` where
#: the change is refused.
Listener = Callable[[Change | Adopted], Result]


@dataclass(slots=True, eq=False, kw_only=True)
class Owner:
    """Who begins incidents, a monitor or an executor that is asked directly, and its tools.

    `can_pause`: polls tell when an account works again, so incidents may wait for it. `is_inline`:
    no thread is made, since a scheduler was handed in. `before_attempt(run_id)` is called on the
    thread of an attempt that is about to be made, and may refuse it; `over(run_id)` tells why a run
    is not recovered any more. `closing` is set when the owner stops: nothing new is begun for it.
    """

    publisher: Publisher
    callbacks: Delivery
    waits: Waits
    clock: Clock
    rest: RestPort
    services: ServicePort
    holds: Holds[Incident]
    own_services: OwnServices
    can_pause: bool
    is_inline: bool
    before_attempt: Callable[[str], object] = lambda _: None
    over: Callable[[str], TinkexError | None] = lambda _: None
    closing: bool = False

    def undisturbed(self, function: Callable[[], T]) -> T:
        """Call a function so that an interrupt of the caller cannot leave it half done."""
        return function() if self.is_inline else undisturbed(function)

    def aside(self, function: Callable[[], object], *, is_quick: bool = False) -> None:
        """Call a function that may hang in foreign code, unless it `is_quick`; do not wait."""
        if self.is_inline or is_quick:
            function()
        else:
            aside(function)


class Incident:
    """The state of one incident; `listeners` are of its owner and of those that joined it.

    Threads: `run`, `attempt`, `tally`, `broken`, `history`, `reopen` and `with_optimizer` are
    touched only by the thread that ended the current attempt; `current`, `timer` and `settled`
    are guarded by the dispatcher's lock, `listeners` by that of `RECOVERIES`.
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
        self.future: OwnFuture[Completed] = OwnFuture(owner.callbacks)
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

    def tell(self, change: Change | Adopted) -> Result:
        """Tell a change to the owner and to those that joined; `GaveUp` only to the owner.

        Returns what follows for the first that takes it, `None` where all refuse it. Raises the
        `RecoveryError` of an owner at once, others after all were told, and where none takes it.
        """
        told = self.listeners[:1] if isinstance(change, GaveUp) else tuple(self.listeners)
        # Telling one may drop the others, which then have incidents of their own.
        return self._tell_each((each for each in told if each in self.listeners), change)

    def drop_joined(self) -> None:
        """Have those that joined go on alone. The incident is settled, so no other joins it."""
        joined, self.listeners[1:] = self.listeners[1:], []
        with suppress(Exception):  # which is logged
            self._tell_each(joined, Dropped(run_id=self.request.run_id))

    def _tell_each(self, listeners: Iterable[Listener], change: Change | Adopted) -> Result:
        answers: list[Result] = []
        errors: list[BaseException] = []
        for listener in listeners:
            try:
                answers.append(listener(change))
            except RecoveryError:
                if listener is self.listeners[0]:
                    raise
            except BaseException as error:
                logger.exception("run %s: one that it is told to failed", self.request.run_id)
                errors.append(error)
        taken = next((answer for answer in answers if answer is not None), None)
        for each in errors:
            if taken is None or not isinstance(each, Exception):
                raise each
        return taken

    def key(self) -> Hashable:
        """The server and the run."""
        port = self.request.rest
        return base_url_of(port, self.account) or id(port.module), self.request.run_id


class _Made(ref[Any]):
    """A training client, not kept alive nor compared, how it was made, and what its key names."""

    __slots__ = ("recovered", "rest")
    recovered: Recovered
    rest: RestPort


class Recoveries:
    """The recoveries of this process, so that monitors beside each other make each run once.

    Threads: every method is safe from any thread.
    """

    def __init__(self) -> None:
        forks.register(self)
        self._lock = threading.Lock()
        # Guarded by _lock, with the `listeners` of all incidents: those under way by server and
        # run; and the clients that came of others, while they live.
        self._under_way: WeakValueDictionary[Hashable, Incident] = WeakValueDictionary()
        self._made: dict[Hashable, _Made] = {}

    after_fork = __init__

    def enter(self, incident: Incident, *, joining: bool) -> Incident | Recovered | None:
        """Add an incident, unless one of its run is under way: return that.

        With `joining` its listener is told of it; or what came of one that ended is returned.
        """
        key = incident.key()
        with self._lock:
            pending = self._under_way.get(key)
            if pending is not None:
                pending.listeners += incident.listeners if joining else ()
                return pending
            made = self._made.get(key) if joining else None
            client = None if made is None else made()
            if made is None or client is None:
                self._under_way[key] = incident
                return None
        return made.recovered._replace(event=replace(made.recovered.event, client=client))

    def leave(self, incident: Incident, recovered: Recovered | None = None) -> None:
        """No other monitor joins the incident any more; `recovered` is what came of it."""
        key = incident.key()
        with self._lock:
            if self._under_way.get(key) is incident:
                del self._under_way[key]
            if recovered is None:
                return
            with suppress(TypeError):  # nothing can refer to it weakly
                made = _Made(recovered.event.client, partial(self._let_go, key))
                made.rest = incident.request.rest
                bare = replace(recovered.event, client=None)
                made.recovered = recovered._replace(event=bare)
                self._made[key] = made

    def disown(self, incident: Incident) -> None:
        """Nothing uses the client that came of it, so no monitor is to take it over."""
        with self._lock:
            self._made.pop(incident.key(), None)

    def _let_go(self, key: Hashable, made: _Made) -> None:
        # May come from the garbage collection of a thread that has the lock: it is not taken.
        if self._made.get(key) is made:
            self._made.pop(key, None)


RECOVERIES = Recoveries()


class Attempt:
    """One attempt of an incident, guarded by the dispatcher's lock."""

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.number = incident.attempt
        self.strategy: str | Specific = incident.request.policy.checkpoint_strategy
        #: What its executor gets; made when it is launched, since a clock may be foreign code.
        self.task: AttemptTask | None = None
        self.job: Any = None  # what the executor returned
        self.timer: Timer | None = None
        self.began: float | None = None

    def made_task(self) -> AttemptTask:
        """A task for it. The caller holds no lock."""
        incident = self.incident
        return AttemptTask(
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

    def submit(
        self, pool: Executor, task: AttemptTask, on_end: Callable[[AttemptReport], object]
    ) -> None:
        """Give its task to a pool, which is foreign code, as is the future that it returns."""

        def came(report: AttemptReport) -> None:
            # As long as its texts are looked at it can still be timed out.
            if report.error is not None:
                secrets = secrets_of(task.request.service, task.request.config)
                report = report._replace(error=kept(report.error, secrets))
            on_end(report)

        try:
            job: Any = pool.submit(run_attempt, task)
        except BaseException as error:
            if self.incident.owner.is_inline and not isinstance(error, Exception):
                raise  # an interrupt of the caller
            came(AttemptReport(error=error))
            return
        if not callable(getattr(job, "add_done_callback", None)):
            came(AttemptReport(error=TypeError(f"the executor's submit gave {job!r}, no future")))
            return
        self.job = job
        job.add_done_callback(once(lambda done: came(AttemptReport.of(done))))
        if not self.is_current():
            self.cancel_job()  # it was given up meanwhile

    def cancel_job(self) -> None:
        """Cancel what the pool has not begun."""
        if (job := self.job) is not None:
            self.incident.owner.aside(job.cancel, is_quick=type(job) is Future)

    def time_left(self) -> float:
        """The seconds that are left to the work; all of them while it waits for its executor."""
        timeout = self.incident.request.policy.attempt_timeout
        if self.began is not None:
            return self.began + timeout - self.incident.owner.clock.monotonic()
        # Another `running` than the standard one may hang or raise: it is not asked.
        is_standard = getattr(type(self.job), "running", None) is Future.running
        return timeout if is_standard and not Future.running(self.job) else 0.0

    def _begun(self) -> None:
        self.began = self.incident.owner.clock.monotonic()
        self.incident.owner.before_attempt(self.incident.request.run_id)

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
