"""When sweeps come: one interval after the sweep before ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..runtime.scheduler import Clock, Timer

__all__ = ["SweepTimer"]

logger = logging.getLogger(__name__)


class SweepTimer:
    """Arms the timer of the next sweep, at most one at a time; safe from any thread.

    `function` is called `interval` seconds after the timer was armed.
    """

    def __init__(self, clock: Clock, interval: float, function: Callable[[], object]) -> None:
        self._clock = clock
        self._interval = interval
        self._function = function
        self._lock = threading.Lock()
        # Guarded by _lock: the timer, and which arming of it counts (_round).
        self._timer: Timer | None = None
        self._round = 0
        self._armed = False
        self._running = False
        self._stopped = False

    def start(self) -> None:
        """Let timers be armed from now on."""
        with self._lock:
            self._running = not self._stopped

    def stop(self) -> None:
        """Arm no timer any more."""
        with self._lock:
            self._running = False
            self._stopped = True
            timer = self._timer
        if timer is not None:
            timer.cancel()

    def arm(self) -> None:
        """Have the function called in one interval, unless that is so already."""
        with self._lock:
            if not self._running or self._armed:
                return
            self._armed = True
            self._round += 1
            this = self._round
        try:
            timer = self._clock.call_later(self._interval, lambda: self._fire(this))
        except Exception:
            logger.exception("the next sweep could not be scheduled")
            with self._lock:
                self._armed = False
            return
        with self._lock:
            stale = this != self._round or not self._running
            if not stale:
                self._timer = timer
        if stale:
            timer.cancel()

    def hold(self) -> None:
        """Disarm: a sweep begins."""
        with self._lock:
            timer, self._timer = self._timer, None
            self._round += 1
            self._armed = True
        if timer is not None:
            timer.cancel()

    def release(self) -> None:
        """Let the timer be armed again: the sweep has ended."""
        with self._lock:
            self._armed = False

    def _fire(self, this: int) -> None:
        with self._lock:
            if this != self._round or not self._running:
                return
        self._function()
