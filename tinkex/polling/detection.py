"""What follows from each poll: the runs' states, and the signals that polls give rise to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from ..config import Config
from ..errors import ApiResponseError
from ..policy import Policy
from ..recovery.controller import Supervisor
from ..recovery.error_kinds import Kind, classify
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runs.state import RunState
from ..runtime.publisher import Reporter
from ..service import secrets_of, without_secrets
from ..signals import Event, Missing, PollError, Unprotected
from ..types import TrainingRun
from .fast_path import brings_no_news
from .protection import newest_checkpoint, unprotected_since

__all__ = ["Watcher"]

#: Seconds between two `poll_error` signals of a run that goes on failing.
POLL_ERROR_EVERY = 60.0

#: The least seconds between two `unprotected` signals of a run.
WARN_EVERY = 60.0

#: After how many polls in a row that could not find it a run counts as missing, and how many
#: poll intervals then lie between two polls.
MISSES = 3
MISSING_INTERVALS = 10


class Watcher:
    """Takes what polls bring and makes states and signals of it.

    Args:
        policy: The monitor's.
        runs: The run map.
        reporter: Publishes for the monitor.
        supervisor: Recovers what is corrupted.

    Threads: every method is safe from any thread, and none waits for anything.
    """

    def __init__(
        self, policy: Policy, runs: RunMap, reporter: Reporter, supervisor: Supervisor
    ) -> None:
        self._policy = policy
        self._runs = runs
        self._clock = reporter.clock
        self._reporter = reporter
        self._supervisor = supervisor
        self._accounts = supervisor.accounts

    def seen(self, record: Record, run_id: str, run: TrainingRun) -> None:
        """The server answered for a run."""
        if run.corrupted:
            self._supervisor.detected(record, run_id, run)
        else:
            self._healthy(record, run_id, run)
        self._accounts.poll_succeeded(record.config)

    def seen_rows(self, config: Config | None, found: list[tuple[Record, str, Any]]) -> list[str]:
        """The server listed these runs; return the ids of those whose rows do not fit.

        A healthy run whose row brings no news costs no object.
        """
        now = self._clock.utc()
        warn_before = now - timedelta(seconds=self._policy.unprotected_after)
        misfits = []
        for record, run_id, row in found:
            if brings_no_news(record, run_id, row, warn_before):
                record.last_poll = now
                continue
            try:
                run = TrainingRun.from_json(row)
            except ApiResponseError:
                misfits.append(run_id)
            else:
                self.seen(record, run_id, run)
        self._accounts.poll_succeeded(config)
        return misfits

    def _healthy(self, record: Record, run_id: str, run: TrainingRun) -> None:
        now = self._clock.utc()
        with self._runs.lock:
            if record.run_id != run_id or not record.state.is_polled:
                return
            record.last_poll = now
            if run.last_checkpoint is not None:
                record.saved = run.last_checkpoint
            changed = self._runs.move(record, RunState.HEALTHY)
            if changed:
                record.reset_polls()
                record.error = None
            warning = self._warning_locked(record, now)
        if changed:
            self._reporter.notify()
        if warning is not None:
            self._publish(record, Unprotected, run_id, **warning)

    def _warning_locked(self, record: Record, now: datetime) -> dict[str, Any] | None:
        """The fields of an `unprotected` event, where one is due."""
        within = self._policy.unprotected_after
        every = max(within, WARN_EVERY)
        told = record.warned_at
        if told is not None and (now - told).total_seconds() < every:
            return None
        newest = newest_checkpoint(record.known_checkpoints())
        since = unprotected_since(newest, record.started_at, now, within)
        if since is None:
            return None
        record.warned_at = now
        return {"since": since, "checkpoint": newest}

    def failed(self, record: Record, run_id: str, error: BaseException) -> None:
        """The server did not answer for a run, or not properly."""
        shown = without_secrets(error, secrets_of(record.service, record.config))
        failure = classify(shown)
        now = self._clock.monotonic()
        is_miss = self._is_miss(record, failure.status)
        with self._runs.lock:
            if record.run_id != run_id or not record.state.is_polled:
                return
            record.error = shown
            if is_miss:
                record.misses += 1
            elif record.failed_at is not None:
                record.misses = 0  # the account fails as a whole: it says nothing of this run
            record.failed_at = now
            missing = record.misses >= MISSES and record.state is not RunState.MISSING
            if record.misses >= MISSES:
                record.poll_after = now + MISSING_INTERVALS * self._policy.poll_interval
                self._runs.move(record, RunState.MISSING)
            else:
                self._runs.move(record, RunState.FAILING)
            tell = record.told_at is None or now - record.told_at >= POLL_ERROR_EVERY
            if tell:
                record.told_at = now
        self._reporter.notify()
        if tell:
            self._publish(record, PollError, run_id, error=shown)
        if missing:
            self._publish(record, Missing, run_id, error=shown)
        if failure.kind is Kind.ACCOUNT and not is_miss:
            self._accounts.block(record.config, shown, polls_fail=True)

    def sweep_begins(self, polled: list[Record]) -> None:
        """A sweep of these runs is about to begin."""
        self._accounts.sweep_begins(polled)

    def _is_miss(self, record: Record, status: int | None) -> bool:
        """Whether it is this run that cannot be found, and not its account that fails."""
        before = record.failed_at
        others_succeed = before is not None and self._accounts.succeeded_since(
            record.config, before
        )
        return status == 404 or others_succeed

    def _publish(self, record: Record, kind: type[Event], run_id: str, **fields: Any) -> None:
        self._reporter.publish(record.root_id, kind, run_id, record.metadata, **fields)
