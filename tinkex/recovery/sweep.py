"""One poll of many runs at a time: which requests, on which threads, bounded by which time."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ..config import Config
from ..errors import ApiResponseError, ApiTimeoutError
from ..types import TrainingRun
from .pool import DaemonPool
from .runs import Record
from .scheduler import Clock, Timer

__all__ = ["Results", "SweepEnd", "Sweeper", "poll_bound"]

logger = logging.getLogger(__name__)

#: A request that has taken longer than this, in seconds, does not hold a sweep's end any more.
STRAGGLER = 1.0


def poll_bound(poll_interval: float) -> float:
    """The most seconds that the poll of one run may take, its retries included."""
    return min(20.0, max(5.0, poll_interval))


class Results(Protocol):
    """Takes what polls bring, on the thread that polled."""

    def seen(self, record: Record, run_id: str, run: TrainingRun) -> None:
        """The server answered for a run."""

    def failed(self, record: Record, run_id: str, error: BaseException) -> None:
        """The server did not, or not properly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEnd:
    """What a sweep came to; `duration` in seconds."""

    runs: int
    requests: int
    errors: int
    duration: float


class _Poll:
    """One run to ask for. Its `run_id` is that of the generation that the sweep meant."""

    __slots__ = ("began", "record", "run_id")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.run_id = record.run_id
        self.began = 0.0


class _Sweep:
    """The state of one sweep, guarded by the sweeper's lock."""

    __slots__ = ("began", "ended", "errors", "requests", "runs", "tasks")

    def __init__(self, polls: Iterable[_Poll], began: float) -> None:
        self.tasks = deque(polls)
        self.runs = len(self.tasks)
        self.began = began
        self.requests = 0
        self.errors = 0
        self.ended = False


class Sweeper:
    """Makes sweeps, one at a time.

    Args:
        rest: The rest module; asked with a bound where `bounded`.
        clock: Time.
        workers: How many requests may be in flight; 0 polls on the thread that begins a sweep.
        bound: The most seconds that one poll may take.
        bounded: `rest` keeps to a `timeout=` by itself.
        results: Told each answer and each error.
        on_end: Called when a sweep has ended, on the thread that ended it.
        notify: Wakes whoever waits for a poll.

    Threads: safe from any thread; polls run on `tinkex-poll_N`.
    """

    def __init__(
        self,
        rest: Any,
        clock: Clock,
        *,
        workers: int,
        bound: float,
        bounded: bool,
        results: Results,
        on_end: Callable[[SweepEnd], None],
        notify: Callable[[], None],
    ) -> None:
        self._rest = rest
        self._clock = clock
        self._workers = workers
        self._bound = bound
        self._options = {"timeout": bound} if bounded else {}
        self._results = results
        self._on_end = on_end
        self._notify = notify
        # Twice: a foreign rest module may hang on to a thread beyond its bound.
        self._pool = DaemonPool(2 * workers, "tinkex-poll") if workers else None
        self._lock = threading.Lock()
        # Guarded by _lock: the sweep under way, the polls in flight, those given up whose
        # threads still hang, and the timer that looks after them.
        self._sweep: _Sweep | None = None
        self._in_flight: set[_Poll] = set()
        self._given_up: set[_Poll] = set()
        self._watch_timer: Timer | None = None
        self._thread: int | None = None
        self._closed = False

    def begin(self, records: Iterable[Record]) -> bool:
        """Begin a sweep; without effect and false while one is under way."""
        now = self._clock.monotonic()
        with self._lock:
            if self._closed or self._sweep is not None:
                return False
            busy = {poll.record for poll in (*self._in_flight, *self._given_up)}
            polls = [_Poll(r) for r in records if r not in busy and r.poll_after <= now]
            # Those that failed last time come last: they are the ones that may hang.
            polls.sort(key=lambda poll: poll.record.failed_at is not None)
            sweep = self._sweep = _Sweep(polls, now)
        if self._pool is None:
            self._thread = threading.get_ident()
            try:
                self._drain(sweep)
            finally:
                self._thread = None
        else:
            for _ in range(min(self._workers, max(1, len(polls)))):
                self._pool.submit(self._drain, sweep)
            self._watch_later()
        return True

    def poll(self, record: Record) -> Callable[[], bool]:
        """Poll one run now, outside any sweep; what is returned tells whether that is done."""
        poll = _Poll(record)
        alone = _Sweep([poll], self._clock.monotonic())
        alone.ended = True
        if self._pool is None:
            self._drain(alone)
        else:
            self._pool.submit(self._drain, alone)
            self._watch_later()
        return lambda: self._closed or not (alone.tasks or poll in self._in_flight)

    @property
    def is_sweeping(self) -> bool:
        """Whether a sweep is under way."""
        return self._sweep is not None

    def is_own_thread(self) -> bool:
        """Whether the caller runs on the thread of a sweep, and so cannot wait for its end."""
        return self._thread == threading.get_ident()

    def close(self) -> None:
        """Begin no more polls and bring no more results."""
        with self._lock:
            self._closed = True
            self._in_flight.clear()
            if self._sweep is not None:
                self._sweep.tasks.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self, timeout: float) -> None:
        """Wait for the poll threads after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    def _drain(self, sweep: _Sweep) -> None:
        try:
            while (poll := self._next(sweep)) is not None:
                try:
                    self._make(sweep, poll)
                except Exception:
                    logger.exception("run %s: its poll could not be dealt with", poll.run_id)
        finally:
            self._end_if_done(sweep)
            self._notify()

    def _make(self, sweep: _Sweep, poll: _Poll) -> None:
        try:
            run = self._ask(poll.record.config, poll.run_id)
        except Exception as error:
            if self._landed(sweep, poll, error=True):
                self._results.failed(poll.record, poll.run_id, error)
        else:
            if self._landed(sweep, poll):
                self._results.seen(poll.record, poll.run_id, run)

    def _ask(self, config: Config | None, run_id: str) -> TrainingRun:
        run = TrainingRun.from_json(self._rest.get_training_run(config, run_id, **self._options))
        if run.training_run_id != run_id:
            raise ApiResponseError(f"asked for run {run_id!r}, told of {run.training_run_id!r}")
        return run

    def _next(self, sweep: _Sweep) -> _Poll | None:
        with self._lock:
            if self._closed or not sweep.tasks:
                return None
            poll = sweep.tasks.popleft()
            poll.began = self._clock.monotonic()
            self._in_flight.add(poll)
            sweep.requests += 1
            return poll

    def _landed(self, sweep: _Sweep, poll: _Poll, *, error: bool = False) -> bool:
        """Whether the poll's answer is still wanted."""
        with self._lock:
            self._given_up.discard(poll)
            if poll not in self._in_flight:
                return False
            self._in_flight.remove(poll)
            sweep.errors += error
            return not self._closed

    def _end_if_done(self, sweep: _Sweep) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if sweep.ended or sweep.tasks:
                return
            if any(now - poll.began < STRAGGLER for poll in self._in_flight):
                return
            sweep.ended = True
            self._sweep = None
            end = SweepEnd(
                runs=sweep.runs,
                requests=sweep.requests,
                errors=sweep.errors,
                duration=now - sweep.began,
            )
            closed = self._closed
        if not closed:
            self._on_end(end)

    # Stragglers

    def _watch_later(self) -> None:
        timer = self._clock.call_later(STRAGGLER, self._watch)
        with self._lock:
            self._watch_timer, before = timer, self._watch_timer
        if before is not None:
            before.cancel()

    def _watch(self) -> None:
        """End a sweep that only stragglers hold, and give up polls that are over their bound."""
        now = self._clock.monotonic()
        with self._lock:
            sweep = self._sweep
            # Our own rest client ends its calls by itself; a second more is for its answer.
            late = [p for p in self._in_flight if now - p.began > self._bound + STRAGGLER]
            self._in_flight.difference_update(late)
            self._given_up.update(late)
            if sweep is not None:
                sweep.errors += len(late)
            go_on = bool(self._in_flight) or sweep is not None
        for poll in late:
            error = ApiTimeoutError(f"run {poll.run_id}: no answer within {self._bound:g} s")
            self._results.failed(poll.record, poll.run_id, error)
        if sweep is not None:
            self._end_if_done(sweep)
        if go_on and not self._closed:
            self._watch_later()
