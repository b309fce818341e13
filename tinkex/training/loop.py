"""One run as its training loop sees it: wait for a live client, note steps, report failures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import MonitorStoppedError, RecoveryExhaustedError, in_words
from ..runs.checkpoints import Cursor
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runs.state import RunState
from ..runtime.daemon_pool import DaemonPool
from ..runtime.publisher import Reporter
from ..types import Checkpoint, TinkerPath
from .confirmation import Triage
from .segments import Outlook, checked_cursor

__all__ = ["Loop"]

logger = logging.getLogger(__name__)

#: Seconds between two log lines while a training loop waits for its recovery.
WAIT_LINE_EVERY = 60.0


class Loop:
    """What a run's handle and its segments do.

    Args:
        record: The run.
        runs: The run map it is in.
        reporter: For waits and time.
        triage: Takes the errors of training loops.
        pool: Where calls go that may block; `None`: on the caller's thread.

    Threads: safe from any thread; `wait_live`, `outlook` and `report` wait.
    """

    def __init__(
        self,
        record: Record,
        runs: RunMap,
        reporter: Reporter,
        triage: Triage,
        pool: DaemonPool | None,
    ) -> None:
        self.record = record
        self._runs = runs
        self._reporter = reporter
        self._triage = triage
        self._pool = pool

    # Waits

    def wait(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for a change that makes `predicate()` true; say whether it is."""
        return self._reporter.wait(predicate, timeout)

    def notify(self) -> None:
        """Wake whoever waits."""
        self._reporter.notify()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Call a function that may block, on a thread of ours where there are any."""
        if self._pool is not None:
            with suppress(RuntimeError):  # closed with the monitor: then here
                return self._pool.submit(function)
        done: Future[Any] = Future()
        done.set_result(function())
        return done

    def wait_live(self, timeout: float | None) -> Any:
        """Wait until the run is healthy with a live client, and return that client."""

        def is_settled() -> bool:
            state = self.record.state
            live = state is RunState.HEALTHY and self.record.client is not None
            return live or state in (RunState.EXHAUSTED, RunState.STOPPED)

        if not self.wait(is_settled, timeout):
            raise TimeoutError(
                f"run {self.record.run_id!r} is {self.record.state} after {timeout:g} s"
            )
        with self._runs.lock:
            self._raise_ended_locked()
            return self.record.client

    def outlook(self, max_wait: float) -> Outlook:
        """Wait until the run has a client that may be used, and look at it."""
        until = self._reporter.clock.monotonic() + max_wait
        while not self.wait(self._is_usable, min(WAIT_LINE_EVERY, self._left(until))):
            state = self.record.state
            if self._left(until) <= 0:
                raise TimeoutError(f"run {self.record.run_id!r} is {state} after {max_wait:g} s")
            logger.warning("run %s: the training loop waits, %s", self.record.run_id, state)
        with self._runs.lock:
            self._raise_ended_locked()
            return self._outlook_locked()

    def _left(self, until: float) -> float:
        return max(0.0, until - self._reporter.clock.monotonic())

    def _is_usable(self) -> bool:
        state = self.record.state
        usable = state.is_polled and self.record.client is not None
        return usable or state in (RunState.EXHAUSTED, RunState.STOPPED)

    def _raise_ended_locked(self) -> None:
        record = self.record
        if record.state is RunState.STOPPED:
            raise MonitorStoppedError(f"run {record.run_id!r} is not monitored any more")
        if record.state is RunState.EXHAUSTED:
            past = record.story.past if record.story else ()
            cause = record.story.cause if record.story else None
            story = [f"run {each.run_id}: {each.cause}; recovered" for each in past]
            if cause is not None:
                story.append(f"run {record.run_id}: {in_words(cause)}")
            raise RecoveryExhaustedError(
                record.run_id, len(record.attempts), record.error, (*story, *record.attempts)
            ) from record.error

    def _outlook_locked(self) -> Outlook:
        record = self.record
        story = record.story
        source = story.source if story else None
        return Outlook(
            run_id=record.run_id,
            generation=record.generation,
            client=record.client,
            source=source,
            cursor=story.cursor(source) if story and source else None,
            ended_at=story.ended_at if story else None,
            with_optimizer=story.with_optimizer if story else True,
            reached=story.reached if story else None,
            unfinished=story.unfinished if story else False,
        )

    # The loop's news

    def is_superseded(self, generation: int) -> bool:
        """Whether the generation is known to be corrupted or replaced."""
        state = self.record.state
        is_dead = state.is_pending or state is RunState.EXHAUSTED or self.record.is_dead
        return is_dead or self.record.generation != generation

    def reach(self, generation: int, step: int, *, unfinished: bool = False) -> None:
        """Note the next step of the loop on a generation; it only moves forward."""
        with self._runs.lock:
            if self.record.generation == generation:
                story = self.record.remember()
                if story.reached is None or step >= story.reached:
                    story.reached = step
                    story.unfinished = unfinished

    def report(self, generation: int, error: BaseException, *, is_its_own: bool) -> bool:
        """Have the run looked at; true where the loop should go on with a next segment."""
        begun = self._triage.report(self.record, error, generation, is_its_own=is_its_own)
        return begun or self.record.state is RunState.EXHAUSTED

    def expect(self, name: str, cursor: Cursor) -> None:
        """Note where the loop stands while a checkpoint is being saved."""
        with self._runs.lock:
            path = f"tinker://{self.record.run_id}/weights/{name}"
            self.record.remember().cursors.setdefault(path, cursor)

    def save(
        self, path: str, cursor: Cursor, user_metadata: Mapping[str, str] | None = None
    ) -> Checkpoint:
        """Note where the loop stood when a checkpoint was saved."""
        saved = replace(Checkpoint.from_path(path), user_metadata=user_metadata)
        with self._runs.lock:
            story = self.record.remember()
            # Anew at the end: what is saved under a name again is the newest.
            story.known.pop(path, None)
            story.known[path] = saved
            story.cursors[path] = cursor
        return saved

    def record_checkpoint(self, path: str, step: object, data: Any) -> Checkpoint:
        """Note the same for a checkpoint that a person names.

        Raises:
            ValueError: It is no training checkpoint of this lineage.
        """
        cursor = checked_cursor(step, data)
        parsed = TinkerPath.parse(path)
        if parsed.checkpoint_type != "training":
            raise ValueError(f"{path!r} is a sampler checkpoint, which cannot be trained from")
        with self._runs.lock:
            lineage = [generation.run_id for generation in self.record.lineage()]
            story = self.record.remember()
            is_source = story.source is not None and story.source.tinker_path == path
            generation = self.record.generation
        if parsed.run_id not in lineage and not is_source:
            raise ValueError(f"{path!r} is not of this lineage: {', '.join(lineage)}")
        if parsed.run_id == lineage[-1]:
            self.reach(generation, cursor.step)
        return self.save(path, cursor)
