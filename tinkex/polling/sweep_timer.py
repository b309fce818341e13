"""Starts a sweep one interval after the last ended, or when one is asked for."""

from __future__ import annotations

import logging
import threading

from ..runs.run_map import RunMap
from ..runtime.publisher import Publisher
from ..runtime.scheduler import Clock, Timer
from ..runtime.undisturbed import undisturbed
from ..runtime.waits import Waits
from ..signals import Swept
from .sweeper import STRAGGLER, Sweeper

logger = logging.getLogger(__name__)


class Sweeps:
    """The sweeps of one monitor, at most `interval` seconds apart; at most one timer at a time.

    Threads: every method is safe from any thread, and none but `make` waits for a sweep.
    """

    def __init__(
        self,
        sweeper: Sweeper,
        runs: RunMap,
        publisher: Publisher,
        waits: Waits,
        *,
        clock: Clock,
        interval: float,
    ) -> None:
        self._sweeper = sweeper
        self._runs = runs
        self._publisher = publisher
        self._waits = waits
        self._clock = clock
        self._interval = interval
        self._lock = threading.Lock()
        # Guarded by _lock: whether timers may be armed (`None`: not yet), the timer, and which
        # arming or sweep is the newest; `None` where the timer may be armed.
        self._running: bool | None = None
        self._timer: Timer | None = None
        self._newest: object | None = None

    def start(self) -> None:
        """Let sweeps come from now on, unless they were stopped."""
        with self._lock:
            self._running = self._running is not False
        self.arm()

    def stop(self) -> None:
        """Let no sweep come any more by itself."""
        with self._lock:
            self._running = False
        self._hold()

    def arm(self) -> None:
        """Have a sweep come in one interval, unless one does already or there is no run."""
        # One look, so that most calls take no lock: the end of a sweep arms it again.
        if self._newest is not None or not len(self._runs):
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
            self._release()
            return
        with self._lock:
            is_newest = self._is_newest_locked(this)
            if is_newest:
                self._timer = timer
        if not is_newest:
            timer.cancel()

    def make(self) -> None:
        """Sweep now and return when the sweep has ended; where one is under way, when that has."""
        sweeper = self._sweeper
        # On poll threads an interrupt of the caller must not leave a sweep half begun.
        if sweeper.makes_threads:
            undisturbed(self._begin)
        else:
            self._begin()
        if not sweeper.is_own_thread():
            self._waits.wait(sweeper, lambda: not sweeper.is_sweeping, None)
            # No sweep waits for accounts that hang; but their answers may come.
            self._waits.wait(sweeper, lambda: sweeper.is_at_rest, STRAGGLER)

    def _begin(self) -> None:
        self._hold()
        self._sweeper.begin(self._runs.polled(), self._ended)

    def _ended(self, event: Swept) -> None:
        self._publisher.publish("swept", event)
        self._waits.notify(self._sweeper)
        self._release()
        self.arm()

    def _hold(self) -> None:
        """Disarm: a sweep begins, whatever has begun it."""
        with self._lock:
            timer, self._timer = self._timer, None
            self._newest = object()
        if timer is not None:
            timer.cancel()

    def _release(self) -> None:
        with self._lock:
            self._newest = None

    def _fire(self, this: object) -> None:
        with self._lock:
            is_newest = self._is_newest_locked(this)
        if is_newest:
            self._begin()

    def _is_newest_locked(self, this: object) -> bool:
        return this is self._newest and bool(self._running)
