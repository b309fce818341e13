"""After a training loop's error: decides whether its run must be recovered."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from ..config.credentials import Keys, secrets_of, without_secrets
from ..errors import AlreadyPendingError, MonitorStoppedError, RunHeldError, in_words
from ..policy import Policy
from ..polling.sweeper import Sweeper
from ..recovery.controller import Controller
from ..recovery.error_kinds import Verdict, checkpoint_named, judge, rollback_told
from ..runs.changes import ErrorNoted
from ..runs.effects import Effect
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..signals import Cause, RolledBack
from .submitting.futures import Races

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
        effects: Collection[Effect],
    ) -> bool:
        """Look at a run whose training loop met an error of the server.

        Returns true where the run is, or was, recovered. The error is of the generation `run_id`
        and says nothing of its successors. `effects` is that of `judge`.
        """
        secrets = secrets_of(record.service, record.config)
        # In words: the error itself is still to be raised, with all that its frames hold.
        shown = in_words(without_secrets(error, secrets))
        verdict = judge(error, run_id, effects)
        self.runs.apply(record, ErrorNoted(run_id=run_id, error=shown))
        try:
            is_back = verdict is Verdict.ROLLED_BACK
            proof = self._proof(record, run_id, error, secrets) if is_back else None
            self._look(record, run_id, shown, verdict, proof)
        finally:
            if not _is_over(record, run_id):
                self.runs.apply(record, ErrorNoted(run_id=run_id, error=None))
        return record.run_id != run_id or record.state.is_pending

    def would_recover(self, verdict: Verdict) -> bool:
        """Whether an error of this verdict leads to a recovery, under the policy."""
        is_failure = verdict is Verdict.FAILED
        return (self.policy.recover_on == "error" and (verdict.is_dead or is_failure)) or (
            self.policy.recover_on == "unusable" and verdict.is_dead
        )

    def _proof(
        self, record: Record, run_id: str, error: BaseException, secrets: Keys
    ) -> RolledBack:
        """What the server said of a run that it rolled back."""
        text = in_words(without_secrets(rollback_told(error) or error, secrets))
        return RolledBack(
            run_id=run_id,
            metadata=record.metadata,
            time=self.clock.utc(),
            checkpoint=checkpoint_named(text, run_id),
            evidence=text,
        )

    def _look(
        self,
        record: Record,
        run_id: str,
        error: str,
        verdict: Verdict,
        proof: RolledBack | None,
    ) -> None:
        """Poll the run until it is known what the error means for it."""
        dead = Cause.UNUSABLE if proof is None else Cause.ROLLED_BACK

        def recover(cause: Cause) -> None:
            about = record, cause, run_id, error, proof
            # Refused where a sweep was quicker, or the run was stopped or taken over meanwhile.
            with suppress(AlreadyPendingError, MonitorStoppedError, RunHeldError):
                self.races.undisturbed(self.controller.recover, *about)

        until = self.clock.monotonic() + self.policy.confirm_within
        recovers = self.would_recover(verdict)
        is_dead = recovers and verdict is not Verdict.FAILED
        is_mistake = verdict is Verdict.MISTAKE
        if is_dead and verdict is not Verdict.UNUSABLE:
            recover(dead)
        while not _is_over(record, run_id):
            polled = self.races.undisturbed(self.sweeper.poll, record)
            self.waits.wait(record, polled, MISTAKE_WAIT if is_mistake else None)
            if is_mistake or _is_over(record, run_id):
                return
            if is_dead:
                recover(dead)
            left = until - self.clock.monotonic()
            if left > 0:
                self.waits.wait(record, lambda: _is_over(record, run_id), min(left, LOOK_EVERY))
            else:
                break
        if recovers and not is_dead:
            recover(Cause.ERROR)


def _is_over(record: Record, run_id: str) -> bool:
    return record.run_id != run_id or not record.state.is_ours
