"""When sweeps come: one interval after the sweep before ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..runtime.scheduler import Clock, Timer

logger = logging.getLogger(__name__)


class SweepTimer:
    """Has a function called one interval (seconds) after `arm()`; at most one timer at a time.

    Threads: every method is safe from any thread.
    """

    def __init__(self, clock: Clock, interval: float, function: Callable[[], object]) -> None:
        self._clock = clock
        self._interval = interval
        self._function = function
        self._lock = threading.Lock()
        # Guarded by _lock: whether timers may be armed (`None`: not yet), the timer, and which
        # arming or sweep is the newest; `None` where the timer may be armed.
        self._running: bool | None = None
        self._timer: Timer | None = None
        self._newest: object | None = None

    def start(self) -> None:
        """Let timers be armed from now on, unless it was stopped."""
        with self._lock:
            self._running = self._running is not False

    def stop(self) -> None:
        """Arm no timer any more."""
        with self._lock:
            self._running = False
        self.hold()

    def arm(self) -> None:
        """Have the function called in one interval, unless that is so already."""
        # One look, so that most calls take no lock: the end of a sweep arms it again.
        if self._newest is not None:
            return
        this = object()
        with self._lock:
            if not self._running or self._newest is not None:
                return
            self._newest = this
        try:
            timer = self._clock.call_surely(self._interval, lambda: self._fire(this))
        except Exception:
            logger.exception("the next sweep could not be scheduled")
            self.release()
            return
        with self._lock:
            is_newest = self._is_newest_locked(this)
            if is_newest:
                self._timer = timer
        if not is_newest:
            timer.cancel()

    def hold(self) -> None:
        """Disarm: a sweep begins, whatever has begun it."""
        with self._lock:
            timer, self._timer = self._timer, None
            self._newest = object()
        if timer is not None:
            timer.cancel()

    def release(self) -> None:
        """Let the timer be armed again: the sweep has ended."""
        with self._lock:
            self._newest = None

    def _fire(self, this: object) -> None:
        with self._lock:
            is_newest = self._is_newest_locked(this)
        if is_newest:
            self._function()

    def _is_newest_locked(self, this: object) -> bool:
        return this is self._newest and bool(self._running)
