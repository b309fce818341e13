"""Waiting for a change that another thread brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from ..forks import Home
from .scheduler import Clock


class Waits:
    """One condition for all waits of a monitor or executor; safe from any thread."""

    def __init__(self, clock: Clock) -> None:
        #: In a forked child no wait would end: there each raises a `MonitorStoppedError`.
        self.home = Home()
        self._clock = clock
        # Guards nothing but the list of waiters. It is taken by itself: an interrupt within the
        # condition's own `with`, which is Python code, can leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def notify(self) -> None:
        """Have every waiter look again at what it waits for."""
        with self._lock:
            self._changed.notify_all()

    def wait(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `predicate()` holds, at most `timeout` seconds; return whether it does."""
        self.home.check()
        return self._clock.wait(self._lock, self._changed, predicate, timeout)

    def done(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait until a future is done, at most `timeout` seconds; return whether it is."""
        self.home.check()
        if self._clock.sleep() is not None:
            return self.wait(future.done, timeout)
        bound = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        return bool(futures.wait((future,), bound).done)
