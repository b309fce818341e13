"""Incidents under way: which attempt begins when, and what follows its end."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from typing import Any

from ..errors import AlreadyPendingError, AttemptTimeoutError, MonitorStoppedError
from ..runs.record import Restored
from ..runtime.publisher import Reporter
from ..signals import Started
from .attempt import run_attempt
from .incident import (
    Attempt,
    Attempting,
    Change,
    Dropped,
    Gate,
    Incident,
    RecoveryRequest,
    Tools,
)
from .outcome import crashed, failed, orphaned, recovered

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)


class Dispatcher:
    """Begins attempts as slots come free and decides what follows each.

    Args:
        pool: Called when an attempt is to be submitted; returns the executor.
        max_concurrent: How many attempts may be under way, and how many abandoned ones may
            hang beside them.

    Threads: every method is safe from any thread. Nothing is called under the lock.
    """

    def __init__(self, pool: Callable[[], Executor], max_concurrent: int) -> None:
        self._pool = pool
        self._max_concurrent = max_concurrent
        self._lock = threading.Lock()
        # Guarded by _lock: incidents by run id; those whose next attempt may begin; those
        # that wait for their account; the attempts in a slot, those whose end is being told,
        # and the abandoned ones.
        self._incidents: dict[str, Incident] = {}
        self._ready: deque[Incident] = deque()
        self._gates: dict[Gate, deque[Incident]] = {}
        self._running: set[Attempt] = set()
        self._ending: set[Attempt] = set()
        self._hung: set[Attempt] = set()
        self._pumping = False
        self._closed = False

    # Commands

    def begin(
        self,
        request: RecoveryRequest,
        tools: Tools,
        reporter: Reporter,
        tell: Callable[[Change], bool],
        *,
        can_pause: bool = False,
        joining: bool = False,
    ) -> Incident:
        """Open an incident; its first attempt begins as soon as there is a slot.

        Args:
            request: What to recover.
            tools: What to do it with.
            reporter: Publishes the events.
            tell: Told each change before it is published; may refuse `Recovered`.
            can_pause: Somebody will call `resume` for the request's config.
            joining: Where somebody else began one for this run, be told its changes too.

        Raises:
            AlreadyPendingError: There is one for this run already.
            MonitorStoppedError: Closed.
        """
        incident = Incident(request, tools, reporter, tell, can_pause=can_pause)
        with self._lock:
            if self._closed or reporter.closing:
                raise MonitorStoppedError("the recovery executor or its monitor is shut down")
            pending = self._incidents.get(request.run_id)
            if pending is not None:
                if not joining:
                    raise AlreadyPendingError(request.run_id)
                pending.tells.append(tell)
                return pending
            self._incidents[request.run_id] = incident
            self._ready.append(incident)
        self._pump()
        return incident

    def cancel(self, incident: Incident, *, only_waiting: bool = False) -> bool:
        """End an incident without a result; say whether it is ended now.

        Args:
            incident: What to end.
            only_waiting: Leave it alone while an attempt is under way.
        """
        with self._lock:
            if incident.settled:
                return True
            if only_waiting and incident.current is not None:
                return False
            attempt = incident.current
            self._settle_locked(incident)
            if attempt is not None:
                self._abandon_locked(attempt)
        self._disarm(incident, attempt)
        incident.future.set_exception(
            MonitorStoppedError(f"the recovery of run {incident.request.run_id!r} was stopped")
        )
        if attempt is not None and attempt.job is not None:
            attempt.job.cancel()
        for tell in incident.tells[1:]:
            tell(Dropped())
        self._pump()
        return True

    def cancel_run(self, run_id: str, reporter: Reporter) -> None:
        """End the incident of a run, if there is one and this reporter's."""
        with self._lock:
            incident = self._incidents.get(run_id)
        if incident is not None and incident.reporter is reporter:
            self.cancel(incident)

    def block(self, gate: Gate) -> None:
        """Begin no attempt of an account any more, until `unblock`."""
        with self._lock:
            self._gates.setdefault(gate, deque())

    def unblock(self, gate: Gate) -> None:
        """Let the incidents of an account go on."""
        with self._lock:
            self._ready.extend(self._gates.pop(gate, ()))
        self._pump()

    def probe(self, gate: Gate) -> None:
        """Let one incident of a blocked account go ahead, to see whether it works again."""
        with self._lock:
            waiting = self._gates.get(gate, deque())
            while waiting:
                incident = waiting.popleft()
                if not incident.settled:
                    incident.probing = True
                    self._ready.append(incident)
                    break
        self._pump()

    def cancel_all(self, reporter: Reporter, *, only_waiting: bool = False) -> None:
        """End all incidents of a reporter; see `cancel`."""
        with self._lock:
            incidents = [i for i in self._incidents.values() if i.reporter is reporter]
        for incident in incidents:
            self.cancel(incident, only_waiting=only_waiting)
        if not only_waiting:
            with self._lock:
                for gate in [gate for gate in self._gates if gate[0] is reporter]:
                    del self._gates[gate]

    def close(self) -> None:
        """Take no more incidents."""
        with self._lock:
            self._closed = True

    # The end of an attempt

    def settle(self, incident: Incident) -> bool:
        """Close an incident that has come to its end; false where it was closed before."""
        with self._lock:
            if incident.settled:
                return False
            self._settle_locked(incident)
            return True

    def again(self, incident: Incident, delay: float) -> None:
        """Let the incident's next attempt begin in `delay` seconds."""
        if delay > 0:
            timer = incident.tools.clock.call_later(delay, lambda: self._enqueue(incident))
            with self._lock:
                incident.timer = timer
                stale = incident.settled
            if stale:
                timer.cancel()
        else:
            self._enqueue(incident)

    def _enqueue(self, incident: Incident) -> None:
        with self._lock:
            if not incident.settled:
                self._ready.append(incident)
        self._pump()

    def park(self, incident: Incident) -> None:
        """Hold the incident back while its account is blocked."""
        with self._lock:
            waiting = self._gates.get(incident.gate)
            if waiting is not None:
                waiting.append(incident)
                return
        self._enqueue(incident)  # the account works again by now

    # Queries

    def is_blocked(self, incident: Incident) -> bool:
        """Whether the incident's account is known to be blocked."""
        with self._lock:
            return incident.can_pause and incident.gate in self._gates

    def broken(self, run_id: str) -> set[str]:
        """The checkpoints that did not load in the incident under way, if there is one."""
        with self._lock:
            incident = self._incidents.get(run_id)
            return set(incident.broken) if incident is not None else set()

    def in_progress(self, reporter: Reporter) -> int:
        """How many attempts of a reporter are under way on other threads than the caller's."""
        own = threading.get_ident()
        with self._lock:
            return sum(
                attempt.incident.reporter is reporter and attempt.thread != own
                for attempt in (*self._running, *self._ending)
            )

    # Attempts

    def _pump(self) -> None:
        """Begin attempts while there are slots. Not nested: an inline pool would recurse."""
        with self._lock:
            if self._pumping:
                return
            self._pumping = True
        attempt: Attempt | None = None
        try:
            while (attempt := self._next()) is not None:
                self._launch(attempt)
        finally:
            if attempt is not None:
                with self._lock:
                    self._pumping = False

    def _next(self) -> Attempt | None:
        with self._lock:
            while self._ready and self._free_slots_locked() > 0:
                incident = self._ready.popleft()
                if incident.settled or incident.reporter.closing:
                    continue
                waiting = self._gates.get(incident.gate) if incident.can_pause else None
                if waiting is not None and not incident.probing:
                    waiting.append(incident)
                    continue
                incident.timer = None
                incident.probing = False
                incident.attempt += 1
                incident.current = attempt = Attempt(incident)
                self._running.add(attempt)
                return attempt
            self._pumping = False
            return None

    def _free_slots_locked(self) -> int:
        # An abandoned attempt still has its thread: a second set of slots, and no more.
        hanging = max(0, len(self._hung) - self._max_concurrent)
        return self._max_concurrent - len(self._running) - hanging

    def _launch(self, attempt: Attempt) -> None:
        incident = attempt.incident
        policy = incident.request.policy
        if not incident.tell(Attempting(attempt=attempt.number)):
            # The run was stopped before its attempt began.
            self.cancel(incident)
            self._ended(attempt, None, None)
            return
        incident.publish(Started, attempt=attempt.number, strategy=policy.checkpoint_strategy)
        attempt.timer = incident.tools.clock.call_later(
            policy.attempt_timeout, lambda: self._time_out(attempt)
        )
        job: Any = None
        error: Exception | None = None
        try:
            job = self._pool().submit(run_attempt, attempt)
        except Exception as refused:
            error = refused
        if callable(getattr(job, "add_done_callback", None)):
            attempt.job = job
            job.add_done_callback(lambda done: self._done(attempt, done))
        else:
            error = error or TypeError(f"the executor's submit returned {job!r}, no future")
            self._ended(attempt, None, error)

    def _done(self, attempt: Attempt, job: Future[Any]) -> None:
        restored: Restored | None = None
        error: BaseException | None = None
        try:
            result = job.result()
            if isinstance(result, Restored):
                restored = result
            else:
                error = TypeError(f"the executor's future holds {result!r}, no attempt's result")
        except CancelledError:
            error = RuntimeError("the executor cancelled the attempt")
        except BaseException as raised:  # whatever ended the job, also an exit in foreign code
            error = raised
        # Outside the except block: no error raised from here on comes from this one.
        self._ended(attempt, restored, error)

    def _time_out(self, attempt: Attempt) -> None:
        with self._lock:
            if not attempt.is_current:
                return
            attempt.incident.current = None
            self._abandon_locked(attempt)
            is_stuck = self._free_slots_locked() <= 0
        if attempt.job is not None:
            attempt.job.cancel()
        if is_stuck:
            logger.error(
                "run %s: too many attempts hang in service clients; no recovery can begin until "
                "one of them returns (RecoveryExecutor's max_concurrent bounds them)",
                attempt.run_id,
            )
        request = attempt.incident.request
        error = AttemptTimeoutError(request.run_id, request.policy.attempt_timeout)
        failed(self, attempt, error)
        self._pump()

    def _ended(
        self, attempt: Attempt, restored: Restored | None, error: BaseException | None
    ) -> None:
        incident = attempt.incident
        attempt.thread = threading.get_ident()
        with self._lock:
            wanted = attempt.is_current
            self._running.discard(attempt)
            self._hung.discard(attempt)
            self._ending.add(attempt)
            if wanted:
                incident.current = None
                if restored is not None:
                    self._settle_locked(incident)
        if attempt.timer is not None:
            attempt.timer.cancel()
        # The slot is free before anybody is told: what they do then may take its time.
        self._pump()
        try:
            if restored is not None:
                if wanted:
                    recovered(self, attempt, restored)
                else:
                    orphaned(incident, restored)
            elif wanted and error is not None:
                failed(self, attempt, error)
        except Exception as unforeseen:
            # No run may be left in the middle of an incident that nobody carries on.
            logger.exception("run %s: its attempt could not be dealt with", attempt.run_id)
            crashed(self, attempt, unforeseen)
        finally:
            with self._lock:
                self._ending.discard(attempt)
            incident.reporter.notify()

    def _abandon_locked(self, attempt: Attempt) -> None:
        self._running.discard(attempt)
        self._hung.add(attempt)

    def _settle_locked(self, incident: Incident) -> None:
        incident.settled = True
        incident.current = None
        self._incidents.pop(incident.request.run_id, None)

    @staticmethod
    def _disarm(incident: Incident, attempt: Attempt | None) -> None:
        for timer in (incident.timer, attempt.timer if attempt else None):
            if timer is not None:
                timer.cancel()
