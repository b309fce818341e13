"""What follows from each poll and each change of an incident: the runs' life, event by event."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from ..config import Config
from ..errors import (
    AlreadyPendingError,
    ApiResponseError,
    IncidentBudgetError,
    MonitorStoppedError,
    RecoveryError,
    TinkexError,
    in_words,
)
from ..service import secrets_of, without_secrets
from ..signals import (
    Completed,
    Detected,
    Event,
    Exhausted,
    Missing,
    PollError,
    Unprotected,
)
from ..types import Checkpoint, TrainingRun
from .accounts import Accounts
from .checkpoints import by_path
from .decisions import Kind, classify
from .dispatcher import Dispatcher
from .incident import (
    Attempting,
    Blocked,
    Change,
    Dropped,
    GaveUp,
    Orphaned,
    Recovered,
    RecoveryRequest,
    Tools,
    Waiting,
)
from .policy import Policy
from .protection import newest_checkpoint, unprotected_since
from .reporter import Reporter
from .rows import brings_no_news
from .runs import Record, RunMap
from .state import RunState

__all__ = ["Supervisor"]

#: Seconds between two `poll_error` signals of a run that goes on failing.
POLL_ERROR_EVERY = 60.0

#: The least seconds between two `unprotected` signals of a run.
WARN_EVERY = 60.0

#: After how many polls in a row that could not find it a run counts as missing, and how many
#: poll intervals then lie between two polls.
MISSES = 3
MISSING_INTERVALS = 10


class Supervisor:
    """Turns polls and incidents into states, signals and recoveries.

    Args:
        policy: The monitor's.
        runs: The run map.
        dispatcher: Where incidents begin.
        tools: What they work with.
        reporter: Publishes for the monitor.

    Threads: every method is safe from any thread, and none waits for anything.
    """

    def __init__(
        self,
        policy: Policy,
        runs: RunMap,
        dispatcher: Dispatcher,
        tools: Tools,
        reporter: Reporter,
    ) -> None:
        self._policy = policy
        self._runs = runs
        self._dispatcher = dispatcher
        self._tools = tools
        self._clock = reporter.clock
        self._reporter = reporter
        self._accounts = Accounts(dispatcher, reporter, self._runs_of)

    # Polls

    def seen(self, record: Record, run_id: str, run: TrainingRun) -> None:
        """The server answered for a run."""
        if run.corrupted:
            self._detected(record, run_id, run)
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
        newest = newest_checkpoint(_known(record))
        since = unprotected_since(newest, record.started_at, now, within)
        if since is None:
            return None
        record.warned_at = now
        return {"since": since, "checkpoint": newest}

    def _detected(self, record: Record, run_id: str, run: TrainingRun) -> None:
        now = self._clock.utc()
        with self._runs.lock:
            if record.run_id != run_id or not record.state.is_polled:
                return
            record.last_poll = now
            record.saved = run.last_checkpoint or record.saved
            record.reset_polls()
            over_budget = self._budget_error_locked(record)
            self._runs.move(record, RunState.RECOVERING)
        self._reporter.notify()
        self._publish(record, Detected, run_id, checkpoint=run.last_checkpoint, run=run)
        self._begin(record, run_id, run, over_budget)

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

    def _runs_of(self, config: Config | None) -> tuple[str, ...]:
        with self._runs.lock:
            return tuple(r.run_id for r in self._runs.records() if r.config == config)

    # Incidents

    def recover(
        self, record: Record, cause: BaseException | None = None, generation: int | None = None
    ) -> Future[Completed]:
        """Begin a recovery now, whatever the server says of the run.

        Args:
            record: The run.
            cause: Why: then the policy's budget counts. `None`: somebody asked for it.
            generation: Only if this is still the live one.

        Raises:
            AlreadyPendingError: One is under way.
            MonitorStoppedError: The run is not monitored any more.
        """
        with self._runs.lock:
            run_id = record.run_id
            if record.state is RunState.STOPPED:
                raise MonitorStoppedError(f"run {run_id!r} is not monitored any more")
            is_replaced = generation is not None and generation != record.generation
            if record.state.is_pending or is_replaced:
                raise AlreadyPendingError(run_id)
            if cause is None:
                record.remember().begin_anew()
            over_budget = self._budget_error_locked(record)
            record.remember().cause = cause or RecoveryError("somebody called recover()")
            record.reset_polls()
            self._runs.move(record, RunState.RECOVERING)
        self._reporter.notify()
        return self._begin(record, run_id, None, over_budget)

    def _begin(
        self,
        record: Record,
        run_id: str,
        run: TrainingRun | None,
        refusal: TinkexError | None,
    ) -> Future[Completed]:
        try:
            if refusal is not None:
                raise refusal
            incident = self._dispatcher.begin(
                self.request(record, run),
                self._tools,
                self._reporter,
                partial(self._tell, record, run_id),
                can_pause=True,
                joining=True,
            )
        except TinkexError as error:
            self._give_up(record, run_id, error)
            refused: Future[Completed] = Future()
            refused.set_exception(error)
            return refused
        return incident.future

    def request(self, record: Record, run: TrainingRun | None) -> RecoveryRequest:
        """What a recovery of the run needs, as data."""
        with self._runs.lock:
            story = record.story
            past = [generation.run_id for generation in story.past] if story else []
            return RecoveryRequest(
                run_id=record.run_id,
                root_id=record.root_id,
                service=record.service,
                policy=self._policy,
                config=record.config,
                metadata=record.metadata,
                run=run,
                run_ids=(record.run_id, *reversed(past)),
                known=_known(record),
                recorded=dict(story.cursors) if story else {},
                broken=story.broken if story else frozenset(),
                old_client=record.client,
            )

    def _budget_error_locked(self, record: Record) -> IncidentBudgetError | None:
        policy = self._policy
        story = record.remember()
        since = self._clock.monotonic() - policy.incident_window
        story.incidents = tuple(t for t in story.incidents if t > since)
        count = len(story.incidents)
        if count >= policy.max_incidents:
            return IncidentBudgetError(record.run_id, count, policy.incident_window)
        story.incidents = (*story.incidents, self._clock.monotonic())
        return None

    def _tell(self, record: Record, run_id: str, change: Change) -> bool:
        """Take a change of an incident; false where its result is not wanted any more."""
        if isinstance(change, Orphaned):
            self._add_orphan(record, run_id, change.successor_id)
            return False
        if isinstance(change, Dropped):
            if record.run_id == run_id and record.state.is_pending:
                self._begin(record, run_id, None, None)
            return False
        with self._runs.lock:
            if record.run_id != run_id or not record.state.is_pending:
                return False
            self._apply_locked(record, change)
        self._reporter.notify()
        if isinstance(change, Blocked):
            self._accounts.block(record.config, change.error, polls_fail=False)
        elif isinstance(change, Recovered) or (
            isinstance(change, Waiting | GaveUp)
            and classify(change.error).kind in (Kind.CHECKPOINT, Kind.REQUEST)
        ):
            self._accounts.recovery_went_on(record.config)
        return True

    def _apply_locked(self, record: Record, change: Change) -> None:
        now = self._clock.utc()
        record.next_attempt = None
        if isinstance(change, Attempting):
            self._runs.move(record, RunState.RECOVERING)
        elif isinstance(change, Waiting):
            record.error = change.error
            record.next_attempt = now + timedelta(seconds=change.delay)
            self._runs.move(record, RunState.WAITING)
        elif isinstance(change, Blocked):
            record.error = change.error
            self._runs.move(record, RunState.WAITING)
        elif isinstance(change, GaveUp):
            record.error = change.error
            record.attempts = change.history
            self._runs.move(record, RunState.EXHAUSTED)
        elif isinstance(change, Recovered):
            self._adopt_locked(record, change)

    def _adopt_locked(self, record: Record, change: Recovered) -> None:
        now = self._clock.utc()
        restored = change.restored
        story = record.remember()
        ended = replace(
            record.lineage()[-1],
            ended_at=now,
            cause=in_words(story.cause) if story.cause else "the server flagged it as corrupted",
            attempts=change.attempt,
        )
        story.next_generation(ended, restored, change.broken)
        record.run_id = restored.successor_id
        record.client = restored.client
        record.generation += 1
        record.started_at = now
        record.saved = restored.checkpoint
        record.error = None
        record.attempts = ()
        record.warned_at = None
        record.reset_polls()
        self._runs.add(record)
        self._runs.move(record, RunState.HEALTHY)

    def _give_up(self, record: Record, run_id: str, error: BaseException) -> None:
        """End an incident that no attempt was made for."""
        change = GaveUp(attempt=0, error=error, history=())
        if self._tell(record, run_id, change):
            self._publish(record, Exhausted, run_id, attempt=0, error=error)
            self._reporter.call(record.root_id, self._policy.on_failure, run_id, error)

    def _add_orphan(self, record: Record, run_id: str, orphan: str) -> None:
        with self._runs.lock:
            story = record.remember()
            known = story.orphans.get(run_id, ())
            if orphan not in known:
                story.orphans = {**story.orphans, run_id: (*known, orphan)}

    # Commands

    def note_cause(self, record: Record, error: BaseException | None, generation: int) -> None:
        """Keep what the training loop met, for the incident that may follow."""
        with self._runs.lock:
            if record.generation == generation:
                record.remember().cause = error

    def begin_anew(self, record: Record) -> None:
        """Poll an exhausted run again, with its budget restored."""
        with self._runs.lock:
            if record.state is RunState.EXHAUSTED:
                record.remember().begin_anew()
                record.reset_polls()
                record.error = None
                self._runs.move(record, RunState.HEALTHY)
        self._reporter.notify()

    def stop(self, record: Record) -> None:
        """Stop a run for good; what an attempt under way brings is not adopted."""
        with self._runs.lock:
            if record.state is RunState.STOPPED:
                return
            pending = record.state.is_pending
            self._runs.move(record, RunState.STOPPED)
            record.next_attempt = None
            self._runs.remove(record)
        if pending:
            self._dispatcher.cancel_run(record.run_id, self._reporter)
        self._reporter.notify()

    def _publish(self, record: Record, kind: type[Event], run_id: str, **fields: Any) -> None:
        self._reporter.publish(record.root_id, kind, run_id, record.metadata, **fields)


def _known(record: Record) -> tuple[Checkpoint, ...]:
    """The checkpoints of a lineage beside those that the server lists."""
    recorded = record.story.known.values() if record.story else ()
    # The server's word counts: it also knows when a checkpoint expires.
    seen = () if record.last_checkpoint is None else (record.last_checkpoint,)
    return tuple(by_path((*recorded, *seen)).values())
