"""What the handles of one monitor share: the way from a handle to all that its run can do."""

from __future__ import annotations

from concurrent.futures import Future

from .errors import MonitorStoppedError
from .recovery.attempt import make_plan
from .recovery.controller import Supervisor
from .recovery.dispatcher import Dispatcher
from .recovery.incident import Tools
from .runs.checkpoints import Plan
from .runs.record import Record
from .runs.run_map import RunMap
from .runs.state import Generation
from .runs.status import RunStatus
from .runtime.daemon_pool import DaemonPool
from .runtime.publisher import Reporter
from .signals import Completed
from .training.confirmation import Triage
from .training.loop import Loop

__all__ = ["RunAccess"]


class RunAccess:
    """Carries out what is asked of a run's handle.

    Threads: every method is safe from any thread.
    """

    def __init__(
        self,
        *,
        runs: RunMap,
        reporter: Reporter,
        supervisor: Supervisor,
        triage: Triage,
        dispatcher: Dispatcher,
        tools: Tools,
        pool: DaemonPool | None,
    ) -> None:
        self._runs = runs
        self._reporter = reporter
        self._supervisor = supervisor
        self._triage = triage
        self._dispatcher = dispatcher
        self._tools = tools
        self._pool = pool

    def status(self, record: Record) -> RunStatus:
        """A snapshot."""
        with self._runs.lock:
            return record.status()

    def lineage(self, record: Record) -> tuple[Generation, ...]:
        """The generations of a run."""
        with self._runs.lock:
            return record.lineage()

    def loop(self, record: Record) -> Loop:
        """The run as its training loop sees it."""
        return Loop(record, self._runs, self._reporter, self._triage, self._pool)

    def plan(self, record: Record) -> Plan:
        """What a recovery of the run would do now."""
        request = self._supervisor.request(record, None)
        broken = self._dispatcher.broken(request.run_id)
        return make_plan(request, self._tools, broken=broken)

    def report_failure(self, record: Record, error: BaseException) -> bool:
        """Have a run looked at whose training loop failed."""
        return self._triage.report(record, error, record.generation, is_its_own=True)

    def recover(self, record: Record) -> Future[Completed]:
        """Recover a run now."""
        if self._reporter.closing:
            raise MonitorStoppedError("this monitor was stopped; make a new one")
        return self._supervisor.recover(record)

    def stop(self, record: Record) -> None:
        """Stop monitoring a run."""
        self._supervisor.stop(record)
