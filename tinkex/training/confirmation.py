"""What a failed training loop means: looks at its run and decides whether that is recovered."""

from __future__ import annotations

from contextlib import suppress

from ..errors import AlreadyPendingError, MonitorStoppedError
from ..policy import Policy
from ..polling.sweeper import Sweeper
from ..recovery.controller import Supervisor
from ..recovery.error_kinds import is_unusable
from ..runs.record import Record
from ..runtime.publisher import Reporter
from ..service import secrets_of, without_secrets

__all__ = ["Triage"]

#: Seconds between two looks at a run whose training loop has failed.
LOOK_EVERY = 2.0


class Triage:
    """Takes the errors that training loops report.

    Threads: safe from any thread; `report` waits, for at most the policy's `confirm_within`
    and one poll.
    """

    def __init__(
        self, policy: Policy, reporter: Reporter, sweeper: Sweeper, supervisor: Supervisor
    ) -> None:
        self._policy = policy
        self._reporter = reporter
        self._sweeper = sweeper
        self._supervisor = supervisor

    def report(
        self, record: Record, error: BaseException, generation: int, *, is_its_own: bool
    ) -> bool:
        """Look at a run whose training loop failed; true where it is, or was, recovered.

        Args:
            record: The run.
            error: What its loop met.
            generation: The one that the error came from: of its successors it says nothing.
            is_its_own: The error came through the run's client for certain.
        """
        clock = self._reporter.clock
        until = clock.monotonic() + self._policy.confirm_within
        shown = without_secrets(error, secrets_of(record.service, record.config))
        is_dead = self._policy.recover_on == "unusable" and is_unusable(
            error, record.run_id, is_its_own=is_its_own
        )

        def is_over() -> bool:
            return record.generation != generation or not record.state.is_polled

        self._supervisor.note_cause(record, shown, generation)
        try:
            while not is_over():
                self._reporter.wait(self._sweeper.poll(record), None)
                if not is_over() and is_dead:
                    self._recover(record, shown, generation)
                left = until - clock.monotonic()
                if left <= 0:
                    break
                self._reporter.wait(is_over, min(left, LOOK_EVERY))
        finally:
            if not is_over():
                self._supervisor.note_cause(record, None, generation)
        return record.generation != generation or record.state.is_pending

    def _recover(self, record: Record, error: BaseException, generation: int) -> None:
        # A sweep was quicker, or somebody stopped the run: either way it is settled.
        with suppress(AlreadyPendingError, MonitorStoppedError):
            self._supervisor.recover(record, error, generation)
