"""Time: the scheduler's protocol, the clock, and the monitor's own timer thread."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from .undisturbed import once

logger = logging.getLogger(__name__)

#: How many timers may lie in the heap before the cancelled ones are thrown out.
COMPACT_AT = 256


class Timer(Protocol):
    """What a scheduler returns; `threading.Timer` fits."""

    def start(self) -> None:
        """Arm the timer. The function is never run inside this call."""

    def cancel(self) -> None:
        """Disarm the timer; without effect once it has fired."""


class Scheduler(Protocol):
    """Makes timers; `threading.Timer` itself fits.

    Where it has `now()` (seconds, monotonic) that is the clock; where it has
    `wait(predicate, timeout)` every wait goes through it.
    """

    def __call__(self, interval: float, function: Callable[[], None], /) -> Timer:
        """Make a timer that calls `function` once, `interval` seconds after its start."""


def makes_threads(scheduler: Scheduler) -> bool:
    """Whether each timer is a thread, as `threading.Timer` is."""
    return isinstance(scheduler, type) and issubclass(scheduler, threading.Thread)


class Clock:
    """One clock over any scheduler: monotonic seconds, UTC times, timers and waits.

    Timers that are threads may fail to start, when there are too many: those fire on a spare
    thread, which is made with the first of them, as do those that no sweep can do without.

    Threads: safe from any thread.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._spare = ThreadScheduler("tinkex-spare")
        own_now = getattr(scheduler, "now", None)
        self.monotonic: Callable[[], float] = own_now or time.monotonic
        self._wait: Any = getattr(scheduler, "wait", None)
        #: The same seconds, in which the machine may also have been suspended.
        self.elapsed: Callable[[], float] = own_now or _elapsed
        #: The time of day, aware, in UTC.
        self.utc: Callable[[], datetime] = partial(datetime.now, UTC)
        if own_now:
            # A scheduler with a clock of its own (a fake, say) also carries the calendar along.
            day, start = self.utc(), own_now()
            self.utc = lambda: day + timedelta(seconds=own_now() - start)

    def call_later(self, delay: float, function: Callable[[], None]) -> Timer:
        """Start a timer that calls `function` once, in `delay` seconds."""
        function = once(function)
        timer = self._scheduler(delay, function)
        if not isinstance(timer, threading.Thread):
            timer.start()
            return timer
        timer.daemon = True
        timer.name = "tinkex-timer"
        try:
            timer.start()
            self._spare.begin()
        except RuntimeError:
            if timer.ident is None:
                timer = self._spare(delay, function)
                timer.start()
        return timer

    def call_surely(self, delay: float, function: Callable[[], None]) -> Timer:
        """The same, on a spare thread where the scheduler raises."""
        try:
            return self.call_later(delay, function)
        except Exception:
            logger.exception("a timer could not be had from the scheduler; one of our own is used")
            timer = self._spare(delay, function)
            timer.start()
            return timer

    def close(self, timeout: float) -> None:
        """Fire no timer of ours any more; wait for each thread, at most `timeout` seconds."""
        self._spare.close(timeout)
        if isinstance(self._scheduler, ThreadScheduler):
            self._scheduler.close(timeout)

    def sleep(self) -> Callable[[float], bool] | None:
        """How a scheduler with a `wait` of its own spends seconds; `None` where it has none."""
        if self._wait is None:
            return None
        return lambda seconds: self._wait_through(lambda: False, seconds)

    def wait(
        self, bell: threading.Lock, predicate: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Wait until `predicate()` holds, at most `timeout` seconds; say whether it does.

        `bell` is a lock, held now, that is released after each change.
        """
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None
        if self._wait is not None:
            return self._wait_through(predicate, timeout)
        until = None if timeout is None else time.monotonic() + timeout
        while not predicate():
            left = -1.0 if until is None else until - time.monotonic()
            if until is not None and left <= 0:
                return False
            bell.acquire(timeout=left)
        return True

    def _wait_through(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        if timeout is None:
            return bool(self._wait(predicate, None))
        # The end of the wait is an event as well: with it a fake knows that time may pass.
        end = self.call_later(timeout, lambda: None)
        try:
            return bool(self._wait(predicate, timeout))
        finally:
            end.cancel()


def _elapsed() -> float:
    """Monotonic seconds that count also while the machine is suspended, where that can be told."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class ThreadScheduler:
    """The default scheduler: one daemon thread that fires all timers, made at the first start.

    Threads: every method is safe from any thread. Functions run one after the other on that
    thread and should be quick; an exception in one is logged.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._ids = itertools.count()
        # Taken by itself: an interrupt in the condition's own `with` can leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Guarded by _lock:
        self._timers: list[tuple[float, int, _HeapTimer]] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._compact_at = COMPACT_AT

    def __call__(self, interval: float, function: Callable[[], None]) -> _HeapTimer:
        """Make a timer; see `Scheduler`."""
        return _HeapTimer(self, interval, function)

    def begin(self) -> None:
        """Make the thread already; `RuntimeError` where it cannot start."""
        with self._lock:
            self._begin_locked()

    def close(self, timeout: float) -> None:
        """Drop all timers and end the thread, waiting up to `timeout` seconds for it."""
        with self._lock:
            self._closed = True
            self._timers.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _arm(self, timer: _HeapTimer, interval: float) -> None:
        with self._lock:
            if self._closed:
                return
            heapq.heappush(self._timers, (time.monotonic() + interval, next(self._ids), timer))
            self._begin_locked()
            if len(self._timers) > self._compact_at:
                self._timers = [entry for entry in self._timers if not entry[2].cancelled]
                heapq.heapify(self._timers)
                self._compact_at = 2 * len(self._timers) + COMPACT_AT
            self._changed.notify()

    def _begin_locked(self) -> None:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (timer := self._next_due()) is not None:
            try:
                timer.function()
            except BaseException:  # also an exit in foreign code: this thread must go on
                logger.exception("a timer of %s failed; the loop goes on", self._name)

    def _next_due(self) -> _HeapTimer | None:
        with self._lock:
            while not self._closed:
                if not self._timers:
                    self._changed.wait()
                    continue
                due, _, timer = self._timers[0]
                left = due - time.monotonic()
                if timer.cancelled or left <= 0:
                    heapq.heappop(self._timers)
                    if not timer.cancelled:
                        return timer
                else:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return None


@dataclass(slots=True, eq=False)
class _HeapTimer:
    """A timer of a `ThreadScheduler`."""

    _scheduler: ThreadScheduler
    _interval: float
    function: Callable[[], object]
    cancelled: bool = False

    def start(self) -> None:
        """Arm the timer."""
        self._scheduler._arm(self, self._interval)

    def cancel(self) -> None:
        """Disarm the timer, and let go of what it was to call."""
        self.cancelled = True
        self.function = lambda: None
