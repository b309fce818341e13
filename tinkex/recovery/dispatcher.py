"""Gives the attempts of all incidents their turn on an executor: slots, timeouts, cancelling."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from ..errors import AlreadyPendingError, AttemptTimeoutError, MonitorStoppedError
from ..runtime.daemon_pool import DaemonPool
from ..runtime.waits import QUIET
from ..signals import Started
from .attempt import AttemptReport, RecoveryRequest, current_task
from .incident import RECOVERIES, Attempt, Incident, Listener, Owner
from .outcome import adopt, conclude, end_with, stopped, tell_left_behind, tell_orphan

logger = logging.getLogger(__name__)

#: How many abandoned attempts may hang in a pool that does not tell its number of workers.
HUNG_AT_MOST = 32


def workers_of(pool: object) -> int | None:
    """How many workers a pool has; the standard ones tell it under this name only."""
    workers = getattr(pool, "_max_workers", None)
    return workers if isinstance(workers, int) else None


class Dispatcher:
    """Begins attempts on `pool` as slots come free, at most `max_concurrent` at a time.

    An abandoned attempt that hangs keeps its worker, and takes a slot once no other is left.

    Threads: every method is safe from any thread. Nothing is called under the lock but `Holds`
    and `RECOVERIES`, which only touch memory.
    """

    def __init__(self, pool: Executor, max_concurrent: int) -> None:
        self._pool = pool
        # What is known not to wait as it takes a job.
        self._is_quick = type(pool) in (DaemonPool, ThreadPoolExecutor)
        self._max_concurrent = max_concurrent
        self._workers = workers_of(pool) or max_concurrent + HUNG_AT_MOST
        self._lock = threading.Lock()
        # Guarded by _lock, before those of Holds and of RECOVERIES: _incidents by run id, which two
        # servers may share; _ready, those whose next attempt may begin; _running, the attempts in a
        # slot; _ending, those whose end is told; _hung, the abandoned ones; _pumping; _closed.
        self._incidents: dict[str, list[Incident]] = {}
        self._ready: deque[Incident] = deque()
        self._running: set[Attempt] = set()
        self._ending: dict[Attempt, int] = {}
        self._hung: set[Attempt] = set()
        self._pumping = False
        self._closed = False

    # Commands

    def begin(
        self,
        request: RecoveryRequest,
        metadata: Mapping[str, Any],
        owner: Owner,
        listener: Listener,
        *,
        joining: bool = False,
    ) -> Incident:
        """Open an incident; its first attempt begins as soon as there is a slot.

        `listener` is told each change and may refuse `Recovered`. With `joining` it is told those
        of the incident that another owner has of this run already, or what came of it; without,
        that raises `AlreadyPendingError`. Raises `MonitorStoppedError` where closed.
        """
        incident = Incident(request, metadata, owner, listener)
        with self._lock:
            if self._closed or owner.closing:
                raise MonitorStoppedError("the recovery executor or its monitor is shut down")
            known = RECOVERIES.enter(incident, joining=joining)
            if known is None:
                self._incidents.setdefault(request.run_id, []).append(incident)
                self._ready.append(incident)
        if isinstance(known, Incident):
            if not joining:
                raise AlreadyPendingError(request.run_id)
            return known
        if known is None:
            self._pump()
        else:
            adopt(incident, known)
        return incident

    def release(self, incidents: Iterable[Incident], delay: float = 0.0) -> None:
        """Let the next attempts of incidents begin, in `delay` seconds."""
        for incident in incidents:
            if delay > 0:
                self._release_later(incident, delay)
                continue
            with self._lock:
                if not incident.settled:
                    self._ready.append(incident)
        self._pump()

    def _release_later(self, incident: Incident, delay: float) -> None:
        timer = incident.owner.clock.call_later(delay, lambda: self.release((incident,)))
        with self._lock:
            incident.timer = timer
            is_stale = incident.settled
        if is_stale:
            timer.cancel()

    def cancel_run(self, run_id: str, owner: Owner) -> None:
        """End the incident of a run, if there is one and this owner's."""
        with self._lock:
            found = [each for each in self._incidents.get(run_id, ()) if each.owner is owner]
        for incident in found:
            self._cancel(incident)

    def close(self) -> None:
        """Take no more incidents."""
        with self._lock:
            self._closed = True

    def cancel_all(self, owner: Owner, *, only_waiting: bool = False) -> None:
        """End the incidents of an owner, or those of which no attempt is under way."""
        with self._lock:
            known = [each for found in self._incidents.values() for each in found]
        for incident in (each for each in known if each.owner is owner):
            self._cancel(incident, only_waiting=only_waiting)

    def _cancel(self, incident: Incident, *, only_waiting: bool = False) -> None:
        """End an incident without a result."""
        with self._lock:
            attempt = incident.current
            if incident.settled or (only_waiting and attempt is not None):
                return
            self._settle_locked(incident)
            RECOVERIES.leave(incident)
            if attempt is not None:
                self._abandon_locked(attempt)
        for timer in (incident.timer, attempt.timer if attempt else None):
            if timer is not None:
                timer.cancel()
        end_with(incident, stopped(incident))
        if attempt is not None:
            attempt.cancel_job()
        incident.drop_joined()
        self._pump()

    # Queries

    def broken(self, run_id: str) -> frozenset[str]:
        """The checkpoints that did not load in the incident under way, if there is one."""
        with self._lock:
            return frozenset[str]().union(*(i.broken for i in self._incidents.get(run_id, ())))

    def is_quiet(self, owner: Owner) -> bool:
        """Whether nothing of an owner is under way on other threads than the caller's."""
        own, task = threading.get_ident(), current_task()
        with self._lock:
            elsewhere = [a for a in self._running if task is None or a.task is not task]
            elsewhere += [a for a, thread in self._ending.items() if thread != own]
        is_busy = any(attempt.incident.owner is owner for attempt in elsewhere)
        return not is_busy and owner.publisher.is_idle()

    # Attempts

    def _pump(self) -> None:
        """Begin attempts while there are slots. Not nested: an inline pool would recurse."""
        with self._lock:
            if self._pumping:
                return
            self._pumping = True
        try:
            while (attempt := self._next()) is not None:
                self._launch(attempt)
        except BaseException as error:
            with self._lock:
                self._pumping = False
                unlaunched = [attempt for attempt in self._running if attempt.job is None]
            for attempt in unlaunched:
                # An interrupt of the caller, or no timer: the attempt was not submitted.
                self._ended(attempt, AttemptReport(error=error))
            raise

    def _next(self) -> Attempt | None:
        with self._lock:
            slots = min(self._max_concurrent, self._workers - len(self._hung))
            while self._ready and len(self._running) < slots:
                incident = self._ready.popleft()
                if incident.settled or incident.owner.closing or not incident.admit():
                    continue
                incident.timer = None
                incident.attempt += 1
                incident.current = attempt = Attempt(incident)
                self._running.add(attempt)
                return attempt
            self._pumping = False
            return None

    def _launch(self, attempt: Attempt) -> None:
        incident, request = attempt.incident, attempt.incident.request
        if not attempt.tell(Started, strategy=attempt.strategy):
            # The run was stopped before its attempt began.
            self._cancel(incident)
            self._ended(attempt, None)
            return
        try:
            self._time(attempt, request.policy.attempt_timeout)
            attempt.task = attempt.made_task()
        except Exception as error:  # no timer, no attempt: it could hang for ever
            self._ended(attempt, AttemptReport(error=error))
            return
        submit = partial(attempt.submit, self._pool, attempt.task, partial(self._ended, attempt))
        incident.owner.aside(submit, is_quick=self._is_quick)

    def _time(self, attempt: Attempt, seconds: float) -> None:
        """Have an attempt timed out in some seconds; not by the thread of timers itself."""

        def time_out() -> None:
            if attempt.is_current():
                attempt.incident.owner.aside(partial(self._time_out, attempt))

        timer = attempt.incident.owner.clock.call_later(seconds, time_out)
        with self._lock:
            attempt.timer = timer
            is_stale = not attempt.is_current()
        if is_stale:
            timer.cancel()

    def _time_out(self, attempt: Attempt) -> None:
        left = attempt.time_left()
        if left > 0 and attempt.is_current():
            self._time(attempt, left)
            return
        with self._lock:
            if not attempt.is_current():
                return
            attempt.incident.current = None
            self._abandon_locked(attempt)
            hung, is_stuck = len(self._hung), len(self._hung) >= self._workers
        attempt.cancel_job()
        request = attempt.incident.request
        if is_stuck:
            logger.error(
                "run %s: %d attempts hang in service clients and keep every worker of their "
                "pool; no recovery can begin until one of them returns",
                request.run_id,
                hung,
            )
        error = AttemptTimeoutError(request.run_id, request.policy.attempt_timeout)
        self._conclude(attempt, AttemptReport(error=error))
        if attempt.incident.settled and request.rest.can_list:
            with suppress(Exception):
                self._pool.submit(tell_left_behind, attempt.incident, None)
        self._pump()

    def _ended(self, attempt: Attempt, report: AttemptReport | None) -> None:
        """Take what an attempt brought; `None` where it never began."""
        incident = attempt.incident
        with self._lock:
            is_wanted = attempt.is_current()
            self._running.discard(attempt)
            self._hung.discard(attempt)
            self._ending[attempt] = threading.get_ident()
            if is_wanted:
                incident.current = None
                if report is not None and report.has_client:
                    # Whatever ends the incident from here on comes too late for this client.
                    self._settle_locked(incident)
        if attempt.timer is not None:
            attempt.timer.cancel()
        # The slot is free before anything is told: what receivers do then may take its time.
        self._pump()
        try:
            if report is not None and is_wanted:
                self._conclude(attempt, report)
                if incident.settled and incident.history:
                    tell_left_behind(incident, report.successor_id)
            elif report is not None:
                tell_orphan(incident, report)
            if report is not None and not report.has_client:
                incident.owner.own_services.discard(report.opened, incident.request.run_id)
        finally:
            with self._lock:
                self._ending.pop(attempt, None)
            if incident.settled:
                RECOVERIES.leave(incident)
            incident.owner.waits.notify(QUIET)

    def _conclude(self, attempt: Attempt, report: AttemptReport) -> None:
        conclude(attempt, report, self._settle, self.release)

    def _abandon_locked(self, attempt: Attempt) -> None:
        self._running.discard(attempt)
        self._hung.add(attempt)

    def _settle(self, incident: Incident) -> bool:
        """Close an incident; return false where it was closed before."""
        with self._lock:
            if incident.settled:
                return False
            self._settle_locked(incident)
            RECOVERIES.leave(incident)
            return True

    def _settle_locked(self, incident: Incident) -> None:
        incident.settled, incident.current = True, None
        incident.owner.holds.forget(incident.account, incident)
        found = self._incidents.pop(run_id := incident.request.run_id, ())
        if others := [each for each in found if each is not incident]:
            self._incidents[run_id] = others
