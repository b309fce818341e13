"""Calls queued functions, in order for each run, on the signal threads."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from .daemon_pool import DaemonPool

logger = logging.getLogger(__name__)

#: How many lanes may be delivered at the same time.
LANES_AT_ONCE = 32


class Delivery:
    """Calls functions: those of one lane one after the other, other lanes meanwhile.

    `inline`: call them on the thread that flushes, all in one lane, and make no thread.
    `on_idle` is called each time that a lane is empty.

    Threads: every method is safe from any thread. `queue` only touches memory, `flush` never
    waits and never raises unless `inline`. A function that raises is logged.
    """

    def __init__(self, *, inline: bool, on_idle: Callable[[], None]) -> None:
        self._pool = None if inline else DaemonPool(LANES_AT_ONCE, "tinkex-signals")
        self._on_idle = on_idle
        self._lock = threading.Lock()
        # Guarded by _lock: _lanes, what is queued per lane; _waiting, the lanes that no thread
        # has taken yet; _draining, which thread delivers which lane; _closed. A lane is in
        # _lanes as long as it is in one of the other two. Other locks may be held around it.
        self._lanes: dict[object, deque[Callable[[], object]]] = {}
        self._waiting: deque[object] = deque()
        self._draining: dict[object, int] = {}
        self._closed = False

    def queue(self, lane: object, functions: Iterable[Callable[[], object]]) -> None:
        """Have functions called after all that was queued for `lane` before."""
        key = None if self._pool is None else lane
        added = tuple(functions)
        with self._lock:
            if self._closed or not added:
                return
            if key not in self._lanes:
                self._lanes[key] = deque()
                self._waiting.append(key)
            self._lanes[key].extend(added)

    def flush(self) -> None:
        """Start to call what is queued. The caller holds no lock."""
        while self._waiting:
            with self._lock:
                if not self._waiting:
                    return
                lane = self._waiting.popleft()
                self._draining[lane] = 0
            if self._pool is None:
                self._drain(lane)
                continue
            try:
                self._pool.submit(self._drain, lane)
            except RuntimeError:  # closed just now, or no thread to be had: with the next flush
                self._give_back(lane)
                return

    def post(self, lane: object, function: Callable[[], object]) -> None:
        """Queue one function and flush."""
        self.queue(lane, (function,))
        self.flush()

    def is_idle(self) -> bool:
        """Whether nothing is left to deliver but what waits for the calling thread itself."""
        own = threading.get_ident()
        with self._lock:
            return all(self._draining.get(lane) == own for lane in self._lanes)

    def is_closed(self) -> bool:
        """Whether nothing more may be delivered."""
        return self._closed

    def close(self) -> None:
        """Deliver nothing more, ever; a function that is running ends by itself."""
        with self._lock:
            self._closed = True
            while self._waiting:
                del self._lanes[self._waiting.popleft()]
            for functions in self._lanes.values():
                functions.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def join(self, timeout: float) -> None:
        """Wait for the threads of a closed delivery, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    def _drain(self, lane: object) -> None:
        own = threading.get_ident()
        with self._lock:
            self._draining[lane] = own
        try:
            while (function := self._next(lane)) is not None:
                try:
                    function()
                except (Exception, SystemExit):
                    logger.exception("a callback failed")
        finally:
            # After a KeyboardInterrupt the lane is not empty.
            if self._draining.get(lane) == own:
                self._give_back(lane)
            self._on_idle()

    def _next(self, lane: object) -> Callable[[], object] | None:
        with self._lock:
            functions = self._lanes[lane]
            if functions:
                return functions.popleft()
            # Both in one step, so that what is queued in between makes the lane wait again.
            del self._lanes[lane]
            del self._draining[lane]
            return None

    def _give_back(self, lane: object) -> None:
        with self._lock:
            self._draining.pop(lane, None)
            if self._closed:
                self._lanes.pop(lane, None)
            elif lane in self._lanes:
                self._waiting.append(lane)
