"""The recoveries of a monitor's runs: begun, followed change by change, adopted or given up."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from ..config import Config
from ..errors import (
    AlreadyPendingError,
    IncidentBudgetError,
    MonitorStoppedError,
    RecoveryError,
    TinkexError,
    in_words,
)
from ..policy import Policy
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runs.state import RunState
from ..runtime.publisher import Reporter
from ..signals import (
    Completed,
    Detected,
    Event,
    Exhausted,
)
from ..types import TrainingRun
from .dispatcher import Dispatcher
from .error_kinds import Kind, classify
from .holds import Accounts
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

__all__ = ["Supervisor"]


class Supervisor:
    """Begins incidents and turns their changes into states and signals.

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
        #: Which accounts are blocked.
        self.accounts = Accounts(dispatcher, reporter, self._runs_of)

    # Accounts

    def _runs_of(self, config: Config | None) -> tuple[str, ...]:
        with self._runs.lock:
            return tuple(r.run_id for r in self._runs.records() if r.config == config)

    # Incidents

    def detected(self, record: Record, run_id: str, run: TrainingRun) -> None:
        """A poll saw that the run is corrupted."""
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
                known=record.known_checkpoints(),
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
            self.accounts.block(record.config, change.error, polls_fail=False)
        elif isinstance(change, Recovered) or (
            isinstance(change, Waiting | GaveUp)
            and classify(change.error).kind in (Kind.CHECKPOINT, Kind.REQUEST)
        ):
            self.accounts.recovery_went_on(record.config)
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
