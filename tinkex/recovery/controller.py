"""Starts, ends and records the recoveries of a monitor's runs."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..errors import (
    AlreadyPendingError,
    IncidentBudgetError,
    JournalError,
    MonitorStoppedError,
    RecoveryError,
    RunHeldError,
    TinkexError,
)
from ..lineage.verdict import Successor
from ..policy import Policy
from ..runs.apply import Result
from ..runs.changes import (
    AttemptFailed,
    AttemptStep,
    Change,
    Dropped,
    Fenced,
    Flagged,
    GaveUp,
    Recovered,
    Requested,
    Stopped,
)
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runs.state import PENDING, RunState
from ..runtime.futures import OwnFuture, copy
from ..signals import (
    Cause,
    CheckpointSelected,
    ClientCreated,
    Completed,
    Event,
    Exhausted,
    RolledBack,
)
from ..types import TrainingRun
from .attempt import AttemptTask, RecoveryRequest
from .dispatcher import Dispatcher
from .error_kinds import Kind, classify
from .holds import REFUSED, base_url_of
from .incident import Adopted, Owner

if TYPE_CHECKING:
    from ..journal.keeper import Keeper

logger = logging.getLogger(__name__)


class Controller:
    """Begins incidents for the runs of a monitor, their `owner`, and applies their changes.

    Threads: every method is safe from any thread, and none waits for anything; but what a thread
    tells that carries out an attempt waits for the journal.
    """

    def __init__(
        self,
        policy: Policy,
        runs: RunMap,
        dispatcher: Dispatcher,
        owner: Owner,
        keeper: Keeper | None = None,
    ) -> None:
        self._policy = policy
        self._keeper = keeper
        # Callbacks are called here: they need not travel with each attempt.
        self._carried = replace(policy, on_recovery=None, on_failure=None)
        self._runs = runs
        self._dispatcher = dispatcher
        self._owner = owner
        self._lock = threading.Lock()
        # Guarded by _lock: the futures of the incidents that runs have joined, until they are done.
        self._joined: dict[Record, Future[Completed]] = {}

    def server_of(self, record: Record) -> str | None:
        """The base URL of a run's server, where it is known for certain."""
        return base_url_of(self._owner.rest, record.config)

    # What begins an incident

    def detected(self, record: Record, run_id: str, run: TrainingRun) -> None:
        """A poll saw that the run is corrupted."""
        if self._runs.apply(record, Flagged(run_id=run_id, run=run)) is not None:
            self._begin(record, run_id, run)

    def recover(
        self,
        record: Record,
        cause: Cause = Cause.REQUESTED,
        run_id: str | None = None,
        error: str | None = None,
        proof: RolledBack | None = None,
    ) -> Future[Completed]:
        """Begin a recovery now; with `run_id`, only if that is still the live generation.

        `error` is what its training loop met, `proof` what was found of its weights. Raises
        `AlreadyPendingError`, `MonitorStoppedError`, or `RunHeldError`.
        """
        about = run_id or record.run_id
        if self._owner.closing:
            raise MonitorStoppedError("this monitor was stopped; make a new one")
        change = Requested(run_id=about, cause=cause, error=error, proof=proof)
        if self._runs.apply(record, change) is None:
            if record.state is RunState.STOPPED:
                raise MonitorStoppedError(f"run {about!r} is not monitored any more")
            if record.state is RunState.FOLLOWING:
                raise record.held()
            raise AlreadyPendingError(about)
        return self._begin(record, about, None)

    def _begin(self, record: Record, run_id: str, run: TrainingRun | None) -> OwnFuture[Completed]:
        request, metadata, owner = self._request(record, run), record.metadata, self._owner
        shared: OwnFuture[Completed] = OwnFuture(owner.callbacks)
        try:
            self._check_budget(record, run_id)
            listener = partial(self._take, record, shared)
            incident = self._dispatcher.begin(request, metadata, owner, listener, joining=True)
        except TinkexError as error:
            shared.set_exception(error)
            if not owner.closing:  # else the run is not given up, but stopped with its monitor
                self._give_up(record, run_id, error)
            return shared
        if incident.owner is owner:
            return incident.future
        with self._lock:
            self._joined[record] = shared
        shared.then(lambda _: self._forget(record, shared))
        # Where it fails its owner, this run is told to go on alone.
        incident.future.then(lambda ended: copy(ended, shared, errors=False))
        return shared

    def _give_up(self, record: Record, run_id: str, error: BaseException) -> None:
        """Publish `exhausted`; no attempt is made for the run."""
        now, metadata = self._owner.clock.utc(), record.metadata
        event = Exhausted(run_id=run_id, metadata=metadata, time=now, attempt=0, error=error)
        self._runs.apply(record, GaveUp(run_id=run_id, event=event))

    def _forget(self, record: Record, shared: Future[Completed]) -> None:
        """What a run has joined is over: the map does not keep its clients."""
        with self._lock:
            if self._joined.get(record) is shared:
                del self._joined[record]

    def is_budget_spent(self, record: Record) -> bool:
        """Whether one more incident of the run would be refused."""
        since = self._owner.clock.monotonic() - self._policy.incident_window
        with record.lock:
            recent = [began for began in record.history.incidents if began > since]
        return len(recent) >= self._policy.max_incidents

    def _check_budget(self, record: Record, run_id: str) -> None:
        before = len(record.history.incidents) - 1  # the present one is counted already
        cause = record.history.cause
        if cause is None or not cause.is_detected:
            return
        if before >= self._policy.max_incidents:
            raise IncidentBudgetError(run_id, before, self._policy.incident_window)
        if record.history.stuck > self._policy.max_stuck:
            step = record.history.stuck_at
            raise IncidentBudgetError(run_id, self._policy.max_stuck, math.inf, step)

    def _request(self, record: Record, run: TrainingRun | None) -> RecoveryRequest:
        with record.lock:
            return RecoveryRequest(
                run_id=record.run_id,
                root_id=record.root_id,
                service=record.service,
                policy=self._carried,
                rest=self._owner.rest,
                services=self._owner.services,
                config=record.config,
                run=run,
                run_ids=record.run_ids,
                generation=record.generation,
                forks=record.forks(),
                carried=record.history.carried,
                # As they were saved first, then as polls saw them: the later word counts.
                known=(*record.history.known.values(), *record.known_checkpoints()),
                recorded=dict(record.history.cursors),
                broken=record.history.broken,
                has_resume_step=record.history.has_resume_step,
            )

    def next_task(self, record: Record) -> AttemptTask:
        """The attempt that a recovery would begin with now."""
        request = self._request(record, None)
        return AttemptTask(
            request=request,
            number=1,
            with_optimizer=request.policy.restore_optimizer,
            broken=self._dispatcher.broken(request.run_id),
            now=self._owner.clock.utc(),
        )

    # What an incident tells, and what ends it

    def _take(self, record: Record, shared: Future[Completed], change: Change | Adopted) -> Result:
        """Apply a change of an incident; `None` where its result is not wanted any more.

        `shared` is the future of an incident that the run has joined.
        """
        if isinstance(change, Dropped):
            taken = self._runs.apply(record, change)
            if taken is not None:
                own = self._begin(record, record.run_id, None)
                own.then(lambda ended: copy(ended, shared))
            else:
                _end(shared, record)
            return taken
        if isinstance(change, Adopted):
            self._check_successor(record, change.recovered.event)
            self._keep_adopted(record, change.recovered)
            # It says nothing of whether the account works now.
            return self._runs.apply(record, change.recovered)
        if isinstance(change, AttemptStep | Recovered):
            try:
                self._check_successor(record, change.event)
            except RecoveryError as refused:
                if isinstance(change, Recovered):  # of another monitor's incident, which goes on
                    self._give_up(record, record.run_id, refused)
                    with suppress(InvalidStateError):
                        shared.set_exception(refused)
                raise
        if isinstance(change, Recovered):
            self._keep_adopted(record, change)
        apply = partial(self._runs.apply, record, change)
        account, holds = record.config, self._owner.holds
        # Of the account an attempt tells also where its run does not wait for it any more.
        if isinstance(change, AttemptFailed) and change.is_held:
            error = change.event.error
            return holds.hold(account, error, reason=REFUSED, polls_fail=False, apply=apply)
        if isinstance(change, Recovered) or (
            isinstance(change, AttemptFailed | GaveUp)
            and classify(change.event.error).kind in (Kind.CHECKPOINT, Kind.REQUEST)
        ):
            return holds.attempt_went_on(account, apply)
        taken = apply()
        if taken is not None and isinstance(change, AttemptStep):
            self._keep_intent(record, change.event)
        return taken

    def _keep_intent(self, record: Record, event: Event) -> None:
        """An attempt goes on once the journal has it; else it raises, before anything is made."""
        if self._keeper is not None and isinstance(event, CheckpointSelected):
            self._keeper.intend(record, event.attempt, event.checkpoint.tinker_path)

    def _keep_adopted(self, record: Record, change: Recovered) -> None:
        """Have the journal know a client before its loop gets it."""
        if self._keeper is None:
            return
        try:
            self._keeper.adopt(record, change.event)
        except RunHeldError:
            return  # the run is only followed from now on: it refuses the client
        except JournalError as error:
            # It is paid for, and who cannot write here cannot take the run over either.
            logger.warning("run %s: its successor is in no journal: %s", record.run_id, error)

    def _check_successor(self, record: Record, event: Event) -> None:
        """Raise a `RecoveryError` where a client is of a run that has another handle.

        Two handles would train one run, or one of them would be lost.
        """
        if not isinstance(event, ClientCreated | Completed):
            return
        other = self._runs.claim(record, event.successor_id)
        if other is not record:
            raise RecoveryError(
                f"run {event.run_id!r} would go on as run {event.successor_id!r}, which is "
                f"monitored already, with {other.root_id!r} as its first run; it keeps its own "
                "handle, and a service client must make a new run each time"
            )

    def stop(self, record: Record) -> None:
        """Stop a run for good; what an attempt under way brings is not adopted."""
        if record.state in PENDING:  # an interrupt must not leave its incident half ended
            self._owner.undisturbed(partial(self._stop, record))
        else:
            self._stop(record)

    def _stop(self, record: Record) -> None:
        if self._runs.apply(record, Stopped()) is not None and record.is_dead:
            self._end_incident(record)

    def _end_incident(self, record: Record) -> None:
        self._dispatcher.cancel_run(record.run_id, self._owner)
        if record in self._joined:  # few are; to take the lock would cost more than the look
            self._end_joined([record])

    def fence(self, record: Record, run_id: str, successor: Successor) -> None:
        """Another owner has a run; what an attempt under way brings is not adopted."""
        change = Fenced(successor.run_id, successor.owner, run_id=run_id)

        def fence() -> None:
            if self._runs.apply(record, change) is not None:
                self._end_incident(record)

        self._owner.undisturbed(fence)

    def close(self) -> None:
        """The runs are stopped with their monitor: what they have joined ends for them."""
        self._end_joined(list(self._joined))

    def _end_joined(self, records: Iterable[Record]) -> None:
        with self._lock:
            found = [(each, self._joined.pop(each, None)) for each in records]
        for record, shared in found:
            if shared is not None:
                _end(shared, record)


def _end(shared: Future[Completed], record: Record) -> None:
    with suppress(InvalidStateError):
        stopped = MonitorStoppedError(f"run {record.run_id!r} was stopped")
        shared.set_exception(record.over() or stopped)
