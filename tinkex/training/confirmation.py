"""After a training loop's error: decides whether its run must be recovered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from ..credentials import secrets_of, without_secrets
from ..errors import AlreadyPendingError, MonitorStoppedError
from ..policy import Policy
from ..polling.sweeper import Sweeper
from ..recovery.controller import Controller
from ..recovery.error_kinds import Verdict, judge
from ..runs.changes import ErrorNoted
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..signals import Cause
from .futures import Races

#: Seconds between two polls of a run whose training loop has failed.
LOOK_EVERY = 2.0

#: Seconds that a poll may take before a caller's own mistake is raised without its answer.
MISTAKE_WAIT = 1.0


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
    races: Races

    def report(
        self,
        record: Record,
        error: BaseException,
        run_id: str,
        *,
        is_its_own: bool,
        is_change: bool,
    ) -> bool:
        """Look at a run whose training loop met an error of the server.

        Returns true where the run is, or was, recovered. The error is of the generation `run_id`
        and says nothing of its successors. The other arguments are those of `judge`.
        """
        shown = without_secrets(error, secrets_of(record.service, record.config))
        verdict = judge(error, run_id, is_its_own=is_its_own, is_change=is_change)
        self.runs.apply(record, ErrorNoted(run_id=run_id, error=shown))
        try:
            self._look(record, run_id, shown, verdict)
        finally:
            if not _is_over(record, run_id):
                self.runs.apply(record, ErrorNoted(run_id=run_id, error=None))
        return record.run_id != run_id or record.state.is_pending

    def would_recover(self, verdict: Verdict) -> bool:
        """Whether an error of this verdict leads to a recovery, under the policy."""
        is_dead = verdict in (Verdict.CERTAIN, Verdict.UNUSABLE)
        return (self.policy.recover_on == "error" and (is_dead or verdict is Verdict.FAILED)) or (
            self.policy.recover_on == "unusable" and is_dead
        )

    def _look(self, record: Record, run_id: str, error: BaseException, verdict: Verdict) -> None:
        """Poll the run until it is known what the error means for it."""

        def recover(cause: Cause) -> None:
            # Refused where a sweep was quicker, or the run was stopped meanwhile.
            with suppress(AlreadyPendingError, MonitorStoppedError):
                self.races.undisturbed(self.controller.recover, record, cause, run_id, error)

        until = self.clock.monotonic() + self.policy.confirm_within
        recovers = self.would_recover(verdict)
        is_dead = recovers and verdict is not Verdict.FAILED
        is_mistake = verdict is Verdict.MISTAKE
        if verdict is Verdict.CERTAIN and is_dead:
            recover(Cause.UNUSABLE)
        while not _is_over(record, run_id):
            self.waits.wait(self.sweeper.poll(record), MISTAKE_WAIT if is_mistake else None)
            if is_mistake or _is_over(record, run_id):
                return
            if is_dead:
                recover(Cause.UNUSABLE)
            left = until - self.clock.monotonic()
            if left > 0:
                self.waits.wait(lambda: _is_over(record, run_id), min(left, LOOK_EVERY))
            else:
                break
        if recovers and not is_dead:
            recover(Cause.ERROR)


def _is_over(record: Record, run_id: str) -> bool:
    return record.run_id != run_id or not record.state.is_polled
