"""Waiting for a change that another thread brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from .forks import Home
from .scheduler import Clock

#: What is waited for where it is about no run: that all events are delivered and no attempt is
#: under way.
QUIET: Final = "quiet"


class Waits:
    """The waits of a monitor or executor; each is for news of one thing, such as a run's record.

    Who changes a thing calls `notify` with it, after the change.

    Threads: safe from any thread.
    """

    def __init__(self, clock: Clock) -> None:
        #: In a forked child no wait would end: there each raises a `MonitorStoppedError`.
        self.home = Home()
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock: a bell for each wait, by what it is about. A bell is a lock that is
        # held until it rings: an interrupt cannot leave it half done, as it can a condition.
        self._bells: dict[Hashable, set[threading.Lock]] = {}

    def notify(self, about: Hashable) -> None:
        """Have those look again who wait for news of a thing."""
        if about not in self._bells:
            return  # who waits from here on looks first
        with self._lock:
            bells = tuple(self._bells.get(about, ()))
        _ring(bells)

    def notify_all(self) -> None:
        """Have everyone look again."""
        with self._lock:
            bells = tuple(bell for each in self._bells.values() for bell in each)
        _ring(bells)

    def wait(self, about: Hashable, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `predicate()` holds, at most `timeout` seconds; return whether it does.

        It is looked at again after each `notify(about)`, on this thread, without a lock.
        """
        self.home.check()
        bell = threading.Lock()
        bell.acquire()
        try:
            with self._lock:
                self._bells.setdefault(about, set()).add(bell)
            return self._clock.wait(bell, predicate, timeout)
        finally:
            self._forget(about, bell)

    def _forget(self, about: Hashable, bell: threading.Lock) -> None:
        with self._lock:
            bells = self._bells.get(about, set())
            bells.discard(bell)
            if not bells:
                self._bells.pop(about, None)

    def done(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait until a future is done, at most `timeout` seconds; return whether it is."""
        self.home.check()
        if self._clock.sleep() is not None:
            return self.wait(future, future.done, timeout)
        bound = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        return bool(futures.wait((future,), bound).done)


def _ring(bells: tuple[threading.Lock, ...]) -> None:
    for bell in bells:
        with suppress(RuntimeError):  # it rings already
            bell.release()
