"""What a handle and its segments use of a run: waits, steps, saved checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from ..errors import (
    MonitorStoppedError,
    RecoveryExhaustedError,
    SegmentSupersededError,
    in_words,
)
from ..runs.changes import Change, Reached, Saved
from ..runs.checkpoints import Cursor
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runs.state import RunState
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..types import Checkpoint, TinkerPath
from .confirmation import Confirmation

logger = logging.getLogger(__name__)

#: Seconds between two log lines while a training loop waits for its recovery.
WAIT_LINE_EVERY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A consistent look at a run, for a segment that is about to begin.

    `source` is the checkpoint that the live generation was made from, `cursor` where the loop
    stood then, `reached` the next step of a loop that ran on this generation before,
    `unfinished` whether it is unknown if that was submitted, and `ended_at` the next step when
    the generation before ended.
    """

    run_id: str
    client: Any
    source: Checkpoint | None
    cursor: Cursor | None
    ended_at: int | None
    with_optimizer: bool
    reached: int | None
    unfinished: bool


@dataclass(slots=True, eq=False)
class Loop:
    """What a run's handle and its segments do.

    Calls that may block go to `pool`; where it is `None`, they run on the caller's thread.

    Threads: safe from any thread; `wait_live`, `outlook` and `report` wait.
    """

    record: Record
    _: KW_ONLY
    runs: RunMap
    clock: Clock
    waits: Waits
    confirmation: Confirmation
    pool: DaemonPool | None

    # Waits

    def _call(self, function: Callable[[], Any]) -> Future[Any]:
        """Call a function that may block, on a thread of ours where there are any."""
        if self.pool is not None:
            with suppress(RuntimeError):  # closed with the monitor: then here
                return self.pool.submit(function)
        done: Future[Any] = Future()
        done.set_result(function())
        return done

    def result(self, future: Any, timeout: float | None, run_id: str) -> Any:
        """Return a future's result, or raise an error as soon as its run is superseded."""
        if not callable(getattr(future, "result", None)):
            return future
        done = _standard(future) or self._call(future.result)
        done.add_done_callback(lambda _: self.waits.notify())
        if not self.waits.wait(lambda: done.done() or self.is_superseded(run_id), timeout):
            raise TimeoutError(f"run {run_id}: no result within {timeout:g} s")
        if not done.done():
            raise SegmentSupersededError(run_id)
        return done.result()

    def wait_live(self, timeout: float | None) -> Any:
        """Wait until the run is healthy with a live client, and return that client."""
        record = self.record

        def is_settled() -> bool:
            live = record.state is RunState.HEALTHY and record.client is not None
            return live or _has_ended(record)

        if not self.waits.wait(is_settled, timeout):
            raise TimeoutError(f"run {record.run_id!r} is {record.state} after {timeout:g} s")
        with self.runs.lock:
            _raise_if_ended(record)
            return record.client

    def outlook(self, max_wait: float) -> Outlook:
        """Wait until the run has a client that may be used, and look at it."""
        record = self.record

        def is_usable() -> bool:
            return (record.state.is_polled and record.client is not None) or _has_ended(record)

        until = self.clock.monotonic() + max_wait
        while not self.waits.wait(is_usable, min(WAIT_LINE_EVERY, self._left(until))):
            state = record.state
            if self._left(until) <= 0:
                raise TimeoutError(f"run {record.run_id!r} is {state} after {max_wait:g} s")
            logger.warning("run %s: the training loop waits, %s", record.run_id, state)
        with self.runs.lock:
            _raise_if_ended(record)
            history = record.history
            return Outlook(
                run_id=record.run_id,
                client=record.client,
                source=history.source,
                cursor=history.cursor(history.source),
                ended_at=history.ended_at,
                with_optimizer=history.with_optimizer,
                reached=history.reached,
                unfinished=history.unfinished,
            )

    def _left(self, until: float) -> float:
        return max(0.0, until - self.clock.monotonic())

    # The loop's news

    def is_superseded(self, run_id: str) -> bool:
        """Whether a generation is known to be corrupted or replaced."""
        state = self.record.state
        is_dead = state.is_pending or state is RunState.EXHAUSTED or self.record.is_dead
        return is_dead or self.record.run_id != run_id

    def note(self, change: Change) -> None:
        """Note a step that was reached, or a save that began."""
        self.runs.apply(self.record, change)

    def report(self, run_id: str, error: BaseException, *, is_its_own: bool) -> bool:
        """Have the run looked at; true where the loop should go on with a next segment."""
        begun = self.confirmation.report(self.record, error, run_id, is_its_own=is_its_own)
        return begun or self.record.state is RunState.EXHAUSTED

    def save(
        self, path: str, cursor: Cursor, user_metadata: Mapping[str, str] | None = None
    ) -> Checkpoint:
        """Note where the loop stood when a checkpoint was saved."""
        saved = replace(Checkpoint.from_path(path), user_metadata=user_metadata)
        self.note(Saved(checkpoint=saved, cursor=cursor))
        return saved

    def record_checkpoint(self, path: str, cursor: Cursor) -> Checkpoint:
        """Note the same for a path; `ValueError` if not a training checkpoint of this lineage."""
        parsed = TinkerPath.parse(path)
        if parsed.checkpoint_type != "training":
            raise ValueError(f"{path!r} is a sampler checkpoint, which cannot be trained from")
        with self.runs.lock:
            lineage = self.record.run_ids[::-1]
            source = self.record.history.source
        is_source = source is not None and source.tinker_path == path
        if parsed.run_id not in lineage and not is_source:
            raise ValueError(f"{path!r} is not of this lineage: {', '.join(lineage)}")
        if parsed.run_id == lineage[-1]:
            self.note(Reached(run_id=parsed.run_id, step=cursor.step))
        return self.save(path, cursor)


def _standard(future: Any) -> Future[Any] | None:
    """The `concurrent.futures.Future` itself or inside; newer versions of the SDK give one."""
    inside = getattr(future, "future", None)
    found = inside() if callable(inside) and not isinstance(future, Future) else future
    return found if isinstance(found, Future) else None


def _has_ended(record: Record) -> bool:
    return record.state in (RunState.EXHAUSTED, RunState.STOPPED)


def _raise_if_ended(record: Record) -> None:
    """Raise what ended a run, if something did; the caller holds its lock."""
    if record.state is RunState.STOPPED:
        raise MonitorStoppedError(f"run {record.run_id!r} is not monitored any more")
    if record.state is RunState.EXHAUSTED:
        history = record.history
        story = [f"run {each.run_id}: {each.cause}; recovered" for each in history.past]
        if history.cause is not None:
            story.append(f"run {record.run_id}: {in_words(history.cause)}")
        raise RecoveryExhaustedError(
            record.run_id, len(record.attempts), record.error, (*story, *record.attempts)
        ) from record.error
