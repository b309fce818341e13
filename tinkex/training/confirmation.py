"""After a training loop's error: polls the run to see whether it must be recovered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from ..errors import AlreadyPendingError, MonitorStoppedError
from ..policy import Policy
from ..polling.sweeper import Sweeper
from ..recovery.controller import Controller
from ..recovery.error_kinds import is_unusable
from ..runs.changes import CauseNoted
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..service import secrets_of, without_secrets

#: Seconds between two polls of a run whose training loop has failed.
LOOK_EVERY = 2.0


@dataclass(slots=True, eq=False)
class Confirmation:
    """Takes the errors that training loops report.

    Threads: safe from any thread; `report` waits, for at most the policy's `confirm_within`
    and one poll.
    """

    policy: Policy
    runs: RunMap
    _: KW_ONLY
    clock: Clock
    waits: Waits
    sweeper: Sweeper
    controller: Controller

    def report(
        self, record: Record, error: BaseException, run_id: str, *, is_its_own: bool
    ) -> bool:
        """Look at a run whose training loop failed; true where it is, or was, recovered.

        The error came from the generation `run_id` and says nothing of its successors;
        `is_its_own`: it came through that run's client for certain.
        """
        until = self.clock.monotonic() + self.policy.confirm_within
        shown = without_secrets(error, secrets_of(record.service, record.config))
        is_dead = self.policy.recover_on == "unusable" and is_unusable(
            error, run_id, is_its_own=is_its_own
        )

        def is_over() -> bool:
            return record.run_id != run_id or not record.state.is_polled

        self.runs.apply(record, CauseNoted(run_id=run_id, cause=shown))
        try:
            while not is_over():
                self.waits.wait(self.sweeper.poll(record), None)
                if not is_over() and is_dead:
                    # Refused where a sweep was quicker, or the run was stopped meanwhile.
                    with suppress(AlreadyPendingError, MonitorStoppedError):
                        self.controller.recover(record, shown, run_id)
                left = until - self.clock.monotonic()
                if left <= 0:
                    break
                self.waits.wait(is_over, min(left, LOOK_EVERY))
        finally:
            if not is_over():
                self.runs.apply(record, CauseNoted(run_id=run_id, cause=None))
        return record.run_id != run_id or record.state.is_pending
