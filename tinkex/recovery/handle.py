"""What `monitor_run` returns: the handle of one run and all its successors."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..errors import MonitorStoppedError, RecoveryExhaustedError
from ..signals import Completed
from .runs import Record
from .state import Generation, RunState
from .status import RunStatus

if TYPE_CHECKING:
    from .monitor import Monitor

__all__ = ["MonitoredRun"]


class MonitoredRun:
    """A run that a monitor looks after, whichever successor carries it on.

    Threads: every member is safe from any thread.
    """

    __slots__ = ("__weakref__", "_monitor", "_record")

    def __init__(self, monitor: Monitor, record: Record) -> None:
        self._monitor = monitor
        self._record = record

    @property
    def run_id(self) -> str:
        """The live run's id."""
        return self._record.run_id

    @property
    def root_id(self) -> str:
        """The id of the first run of the lineage."""
        return self._record.root_id

    @property
    def client(self) -> Any:
        """The live training client; it may change between two lines."""
        return self._record.client

    @property
    def state(self) -> RunState:
        """The run's state; equal to its name, such as `"healthy"`."""
        return self._record.state

    @property
    def lineage(self) -> tuple[Generation, ...]:
        """Every generation of the run, the live one last."""
        return self._monitor.lineage_of(self._record)

    def status(self) -> RunStatus:
        """A snapshot of the run."""
        return self._monitor.status_of(self._record)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until the run is healthy with a live client, and return that client.

        Args:
            timeout: Seconds; `None` waits without bound.

        Raises:
            RecoveryExhaustedError: No attempt is left.
            MonitorStoppedError: The run, or its monitor, was stopped.
            TimeoutError: It took longer than `timeout`.
        """
        settled = self._monitor.wait_for(self._is_settled, timeout)
        status, client = self._monitor.look(self._record)
        if status.state is RunState.HEALTHY and client is not None:
            return client
        if status.state is RunState.EXHAUSTED:
            record = self._record
            raise RecoveryExhaustedError(
                record.run_id, len(record.attempts), status.last_error, record.attempts
            ) from status.last_error
        if status.state is RunState.STOPPED or settled:
            raise MonitorStoppedError(f"run {status.run_id!r} is not monitored any more")
        raise TimeoutError(f"run {status.run_id!r} is still {status.state} after {timeout:g} s")

    def recover(self) -> Future[Completed]:
        """Recover the run now, whatever the server says of it.

        Returns:
            A future of the `completed` event.

        Raises:
            AlreadyPendingError: A recovery is under way.
            MonitorStoppedError: The run is not monitored any more.
        """
        return self._monitor.recover(self._record)

    def stop(self) -> None:
        """Stop monitoring the run."""
        self._monitor.stop_monitoring(self)

    def _is_settled(self) -> bool:
        state = self._record.state
        live = state is RunState.HEALTHY and self._record.client is not None
        return live or state in (RunState.EXHAUSTED, RunState.STOPPED) or self._monitor.is_stopped

    def __repr__(self) -> str:
        status = self.status()
        return f"<MonitoredRun {status.run_id} {status.state.value} generation {status.generation}>"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()
