"""`FakeScheduler`, a scheduler for tests whose time moves only when a test moves it."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import TinkexError

#: After how many timers that did not end it a wait without a limit counts as a deadlock.
MOST_TIMERS = 10_000


class DeadlockError(TinkexError):
    """Raised by `FakeScheduler.wait` when no timer is left that could end the wait, or none did."""


class FakeScheduler:
    """A scheduler whose time moves only by `advance` and `wait`; it starts at 0 seconds.

    A monitor calls it as any scheduler: `fake(interval, function)` makes a timer.

    Threads: none; use it from one thread.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ids = itertools.count()
        self._armed: list[tuple[float, int, _FakeTimer]] = []

    def __call__(self, interval: float, function: Callable[[], object]) -> _FakeTimer:
        """Make a timer that calls `function` once, `interval` seconds after its start."""
        return _FakeTimer(self, interval, function)

    def now(self) -> float:
        """Seconds since the scheduler was made."""
        return self._now

    @property
    def pending(self) -> tuple[float, ...]:
        """When the armed timers are due, in seconds as `now()` counts them, the next one first."""
        return tuple(due for due, _, timer in sorted(self._armed) if timer.armed)

    def advance(self, seconds: float) -> None:
        """Move time forward and fire each timer when it is due, also those armed meanwhile.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"time moves forward by a finite number of seconds, not {seconds!r}")
        until = self._now + seconds
        while self._fire_next(until):
            pass
        self._now = max(self._now, until)

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Fire timer after timer until `predicate()` is true; return whether it is.

        At most `timeout` seconds are moved forward; `None`: no limit.

        Raises:
            DeadlockError: No timer is left that could make it true; or there was no limit, and
                10,000 timers, such as those of a monitor's sweeps, have not made it true.
        """
        fired = 0
        until = math.inf if timeout is None else self._now + timeout
        while not predicate():
            if self._fire_next(until):
                fired += 1
                if timeout is None and fired >= MOST_TIMERS:
                    raise DeadlockError(f"{self!r}: {fired} timers have not ended this wait")
                continue
            if self._now < until and not self.pending:
                raise DeadlockError(f"{self!r} has no timer left that could end this wait")
            self._now = max(self._now, until)
            return predicate()
        return True

    def __repr__(self) -> str:
        return f"<FakeScheduler at {self._now:g} s, pending {list(self.pending)}>"

    def _fire_next(self, until: float) -> bool:
        while self._armed and self._armed[0][0] <= until:
            due, _, timer = heapq.heappop(self._armed)
            if timer.armed:
                timer.armed = False
                self._now = max(self._now, due)
                timer.function()
                return True
        return False

    def _arm(self, timer: _FakeTimer, interval: float) -> None:
        heapq.heappush(self._armed, (self._now + interval, next(self._ids), timer))


@dataclass(slots=True, eq=False)
class _FakeTimer:
    """A timer of a `FakeScheduler`, with the methods of `threading.Timer`."""

    _scheduler: FakeScheduler
    _interval: float
    function: Callable[[], object]
    armed: bool = False

    def start(self) -> None:
        """Arm the timer."""
        self.armed = True
        self._scheduler._arm(self, self._interval)

    def cancel(self) -> None:
        """Disarm the timer, and let go of what it was to call."""
        self.armed = False
        self.function = lambda: None
