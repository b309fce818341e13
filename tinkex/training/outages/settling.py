"""After an outage: has each run go on where its weights are what they were, or restores it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

from ...config.credentials import secrets_of, without_secrets
from ...errors import AlreadyPendingError, MonitorStoppedError, RunHeldError, heed, in_words
from ...policy import Policy
from ...recovery.controller import Controller
from ...runs.changes import Withdrawn
from ...runs.effects import Effect
from ...runs.record import Record
from ...runs.run_map import RunMap
from ...runtime.daemon_pool import DaemonPool
from ...runtime.scheduler import Clock
from ...runtime.waits import Waits
from ...signals import Cause, RolledBack
from ...types import Checkpoint
from ..submitting.futures import Races
from .evidence import Batch, Finding, Watched

logger = logging.getLogger(__name__)

#: What is logged of a run when an outage is settled.
_WAS_DOWN = "run %s: its server was down; %s: %s"

#: How many runs are looked at together; many, since a look that hangs keeps its thread.
LOOKS_AT_ONCE = 64


@dataclass(slots=True, eq=False)
class Settling:
    """Compares the weights of runs with those of their saves, and does what they say.

    `closed` is set when the monitor stops: then nothing is settled any more.

    Threads: every method is safe from any thread; `settle` waits, for at most the policy's
    `confirm_within`. Runs are looked at on threads named `tinkex-look_N`.
    """

    policy: Policy
    _: KW_ONLY
    runs: RunMap
    clock: Clock
    waits: Waits
    races: Races
    controller: Controller
    closed: threading.Event = field(default_factory=threading.Event)
    _pool: DaemonPool = field(default_factory=lambda: DaemonPool(LOOKS_AT_ONCE, "tinkex-look"))

    def settle(self, held: Iterable[Watched], is_gone: Callable[[], bool]) -> None:
        """Look at the runs of a server that is back; `is_gone` tells whether it went again."""
        found = self._looked(held)
        # Asked once, after all looks: an outage during one of them is one for all runs.
        was_gone_again = is_gone()
        for watched, finding in found.items():
            is_void = finding.is_fine and was_gone_again
            again = Finding("it was gone again while the weights were looked at")
            self._follow(watched, again if is_void else finding)

    def _looked(self, held: Iterable[Watched]) -> dict[Watched, Finding]:
        """What the looks say, when all are done or late; what is proved is followed at once."""
        looks: dict[Watched, Future[Finding]] = {}
        found: dict[Watched, Finding] = {}
        for each in held:
            if each.look is not None and not each.look.done():
                found[each] = Finding("an earlier look at it hangs")
                continue
            try:
                looks[each] = each.look = self._pool.submit(partial(self._examined, each))
            except RuntimeError as error:  # no thread can be had, or it is closed just now
                found[each] = Finding(f"it cannot be looked at: {error}")
                continue
            each.look.add_done_callback(lambda _: self.waits.notify(self))
        until = self.clock.monotonic() + self.policy.confirm_within
        while looks and self._wait_for_one(looks.values(), until) and not self.closed.is_set():
            for watched in [each for each, look in looks.items() if look.done()]:
                found[watched] = looks.pop(watched).result()
                if found[watched].back_at is not None:
                    self._follow(watched, found.pop(watched))
        late = Finding(f"it could not be seen within {self.policy.confirm_within:g} s")
        for watched, look in looks.items():
            look.cancel()  # one that did not begin must not begin later
            found[watched] = late
        return found

    def release(self, watched: Watched) -> None:
        """Let the requests and the results of a run go, unless it was stopped meanwhile."""
        if self.races.release(watched.record):
            watched.is_held = False
        self.waits.notify(watched.record)

    def close(self) -> None:
        """Begin no look any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.waits.notify(self)

    def join(self, timeout: float) -> None:
        """Wait for the threads of what is closed, at most `timeout` seconds."""
        self._pool.join(timeout)

    def _wait_for_one(self, looks: Collection[Future[Finding]], until: float) -> bool:
        def is_one_done() -> bool:
            return self.closed.is_set() or any(look.done() for look in looks)

        return self.waits.wait(self, is_one_done, max(0.0, until - self.clock.monotonic()))

    def _examined(self, watched: Watched) -> Finding:
        """What the weights of a run say; on a thread where foreign code may run."""
        record = watched.record
        if record.is_superseded(watched.run_id) or not watched.has_something_to_lose():
            return Finding("there is nothing to lose", is_fine=True)
        source = record.history.source

        def answer(batch: Batch) -> Any:
            return watched.client.forward(*batch.args, **batch.kwargs).result()

        try:
            found = watched.examine(source.tinker_path if source else "", answer)
        except BaseException as error:  # an exit in foreign code, too
            heed(error)
            shown = without_secrets(error, secrets_of(record.service, record.config))
            return Finding(f"the weights cannot be compared: {in_words(shown)}")
        seen = {path for path, _ in watched.ledger.saves()}
        last = record.last_checkpoint
        others = {*record.history.known, *([last.tinker_path] if last else [])} - seen
        others = {each for each in others if each.startswith(f"tinker://{watched.run_id}/")}
        if found.is_fine and others:
            return Finding(f"what was saved by other means cannot be compared: {min(others)}")
        return found

    def _follow(self, watched: Watched, found: Finding) -> None:
        """Do what the weights of a run say."""
        record, run_id = watched.record, watched.run_id
        is_stopped = self.closed.is_set() or self.races.is_unknown(record)
        if is_stopped or record.is_superseded(run_id):
            return
        left = None if found.is_fine or found.back_at is not None else self._left(record)
        if found.is_fine or left is not None:
            self.release(watched)
            is_quiet = found.is_fine or self.policy.on_doubt == "ignore"
            level, follows = logging.INFO if is_quiet else logging.WARNING, left or "it goes on"
            logger.log(level, _WAS_DOWN, run_id, found.evidence, follows)
            return
        for path in watched.ledger.unanswered():
            # A server that is back with an older state has saved that, if anything.
            self.runs.apply(record, Withdrawn(run_id=run_id, path=path))
        is_open, follows = watched.ledger.is_open(), "it is restored where its loop saved"
        if not is_open:
            watched.ledger.submit(run_id, Effect.GRADIENT)
        logger.warning(_WAS_DOWN, run_id, found.evidence, follows)
        if is_open:
            self._restore(watched, found)

    def _restore(self, watched: Watched, found: Finding) -> None:
        record, run_id = watched.record, watched.run_id
        error = f"the server was down: {found.evidence}"
        proof = None
        if found.back_at is not None:
            proof = RolledBack(
                run_id=run_id,
                metadata=record.metadata,
                time=self.clock.utc(),
                checkpoint=Checkpoint.from_path(found.back_at) if found.back_at else None,
                evidence=found.evidence,
            )
        with suppress(AlreadyPendingError, MonitorStoppedError, RunHeldError):
            self.controller.recover(record, Cause.ROLLED_BACK, run_id, error, proof)

    def _left(self, record: Record) -> str | None:
        """Why a run is left as it is in doubt; `None` where it is restored."""
        history = record.history
        if self.policy.on_doubt != "recover":
            return f"the policy field on_doubt={self.policy.on_doubt!r} has it left as it is"
        if not (history.cursors or history.has_resume_step or history.cursor(history.source)):
            return "no checkpoint has a step to go back to, it is left as it is"
        if self.controller.is_budget_spent(record):
            return "it was recovered too often to be restored once more"
        return None
