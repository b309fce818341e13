"""Delivery of signals and callbacks: in order per run, apart from polls and recoveries."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from .daemon_pool import DaemonPool

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)

#: How many runs' receivers and callbacks may be at work at the same time.
LANES_AT_ONCE = 32

Delivery = Callable[[], object]


class Outbox:
    """Runs deliveries: those of one key one after the other, those of others meanwhile.

    Args:
        inline: Deliver on the thread that posts, all keys in one order, and no thread of ours.
        on_idle: Called each time that a lane is empty.

    Threads: `post` never waits and never raises. A delivery that raises is logged.
    """

    def __init__(self, *, inline: bool, on_idle: Callable[[], None]) -> None:
        self._pool = None if inline else DaemonPool(LANES_AT_ONCE, "tinkex-signals")
        self._on_idle = on_idle
        self._lock = threading.Lock()
        # Guarded by _lock: what waits per key, and which thread drains which key.
        self._lanes: dict[object, deque[Delivery]] = {}
        self._draining: dict[object, int] = {}
        self._closed = False

    def post(self, key: object, delivery: Delivery) -> None:
        """Have `delivery()` run after all that was posted for `key` before."""
        lane_key = None if self._pool is None else key
        with self._lock:
            if self._closed:
                return
            self._lanes.setdefault(lane_key, deque()).append(delivery)
            if lane_key in self._draining:
                return
            self._draining[lane_key] = 0
        if self._pool is None:
            self._drain(lane_key)
        else:
            try:
                self._pool.submit(self._drain, lane_key)
            except RuntimeError:  # closed just now, or no thread to be had: with the next post
                with self._lock:
                    self._draining.pop(lane_key, None)

    def is_idle(self) -> bool:
        """Whether nothing is left to deliver but what waits for the calling thread itself."""
        own = threading.get_ident()
        with self._lock:
            return all(self._draining.get(key) == own for key in self._lanes)

    def is_closed(self) -> bool:
        """Whether nothing more may be delivered."""
        return self._closed

    def close(self) -> None:
        """Deliver nothing more, ever; what is being delivered ends by itself."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def join(self, timeout: float) -> None:
        """Wait for the threads of a closed outbox, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    def _drain(self, key: object) -> None:
        own = threading.get_ident()
        with self._lock:
            self._draining[key] = own
        try:
            while (delivery := self._next(key)) is not None:
                try:
                    delivery()
                except (Exception, SystemExit):
                    logger.exception("a callback failed")
        finally:
            # Also after a KeyboardInterrupt: what is left then goes out with the next post.
            with self._lock:
                if self._draining.get(key) == own:
                    del self._draining[key]
            self._on_idle()

    def _next(self, key: object) -> Delivery | None:
        with self._lock:
            lane = self._lanes[key]
            if lane:
                return lane.popleft()
            # Both in one step, so that a post in between begins a new drain.
            del self._lanes[key]
            del self._draining[key]
            return None
