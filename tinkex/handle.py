"""The handle of a run and its successors, which `monitor_run` returns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from .arguments import checked_timeout
from .parts import Parts
from .recovery.attempt import make_plan
from .runs.checkpoints import Plan
from .runs.effects import Effect
from .runs.record import Record
from .runs.state import Lineage, RunState
from .runs.status import RunStatus
from .signals import Completed
from .types import Checkpoint

if TYPE_CHECKING:
    from .training.loop import Loop
    from .training.segments import Segments


class MonitoredRun:
    """A run that a monitor looks after, whichever successor carries it on.

    Threads: every member is safe from any thread.
    """

    __slots__ = ("__weakref__", "_parts", "_record")

    def __init__(self, parts: Parts, record: Record) -> None:
        self._parts = parts
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
    def lineage(self) -> Lineage:
        """Every generation of the run, the live one last."""
        with self._record.lock:
            return Lineage(self._record.lineage())

    def status(self) -> RunStatus:
        """A snapshot of the run."""
        return self._parts.runs.status(self._record)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until the run is healthy with a live client, and return that client.

        Args:
            timeout: Seconds; `None` waits without bound.

        Raises:
            RecoveryExhaustedError: No attempt is left.
            RunHeldError: Another owner has the run.
            MonitorStoppedError: The run, or its monitor, was stopped.
            TimeoutError: It took longer than `timeout`.
            TypeError, ValueError: `timeout` is no number.
        """
        return self._loop().wait_live(checked_timeout(timeout))

    def recover(self) -> Future[Completed]:
        """Recover the run now, whatever the server says of it.

        Returns:
            A future of the `completed` event; `RunHeldError` where another owner turns out to
            have the run.

        Raises:
            AlreadyPendingError: A recovery is under way.
            RunHeldError: Another owner has the run.
            MonitorStoppedError: The run is not monitored any more.
        """
        parts = self._parts
        parts.home.check()
        return parts.owner.undisturbed(partial(parts.controller.recover, self._record))

    def stop(self) -> None:
        """Stop monitoring the run."""
        if not self._parts.home.is_left():
            self._parts.controller.stop(self._record)

    # The training loop

    def segments(
        self,
        start_step: int = 0,
        *,
        resume_step: int | Callable[[Checkpoint], int] | None = None,
        max_wait: float = 3600.0,
    ) -> Segments:
        """Go through the training loop's segments: one, then one more after each recovery.

        It ends when a `with segment:` block ends without an exception. Called again, it goes
        on where the loop was.

        Args:
            start_step: Where to begin on the run as it was registered.
            resume_step: The next step of a checkpoint that none is recorded for, or a function
                of the `Checkpoint` that returns it.
            max_wait: Seconds to wait for a recovery at most, the restoring of a run that another
                process left included, at its first use.

        Raises:
            TypeError, ValueError: An argument cannot be used.
            RuntimeError: `monitor_run` was given no client. From the loop: the segment before
                was not entered.
            RecoveryExhaustedError: From the loop: no attempt is left.
            RunHeldError: Another owner has the run; from the loop, too.
            ResumePointUnknownError: From the loop: the step is not known of the checkpoint
                that was restored.
            TimeoutError: From the loop: a recovery took longer than `max_wait`.
        """
        is_left = self._record.history.is_left
        if self.client is None and not (self.state.is_pending or is_left):
            self._parts.home.check()
            self._parts.neighbours.look(self._record)
            if self.state is RunState.FOLLOWING:
                raise self._record.held()
            raise RuntimeError(
                f"run {self.run_id!r} has no training client; give monitor_run(..., client=...)"
            )
        from .training.segments import Segments  # noqa: PLC0415 (not every monitor has a loop)

        return Segments(self._loop(), start_step, resume_step, max_wait)

    def record_checkpoint(self, path: str, *, step: int, data: Any = None) -> Checkpoint:
        """Record where the loop stood when a checkpoint was saved by other means.

        Args:
            path: A training checkpoint of this lineage.
            step: The next step to run after it.
            data: Any JSON value, for the position in the data.

        Raises:
            TypeError, ValueError: An argument cannot be used.
        """
        from .training.saving import checked_cursor  # noqa: PLC0415 (not every monitor has a loop)

        return self._loop().record_checkpoint(path, checked_cursor(step, data))

    def report_failure(self, error: BaseException) -> bool:
        """Have the run looked at now, since its training loop failed.

        It is polled at once and for the policy's `confirm_within` seconds.

        Returns:
            Whether a recovery was begun.
        """
        self._parts.home.check()
        record = self._record
        return self._parts.confirmation.report(record, error, record.run_id, (Effect.UPDATE,))

    def plan(self) -> Plan:
        """Tell what a recovery would do now, by the code that would do it.

        Raises:
            RestError: No checkpoint is known and the server could not be asked.
        """
        self._parts.home.check()
        return make_plan(self._parts.controller.next_task(self._record))

    def _loop(self) -> Loop:
        return self._parts.loop(self._record)

    def __repr__(self) -> str:
        return repr(self.status()).replace("RunStatus", "MonitoredRun", 1)

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()
