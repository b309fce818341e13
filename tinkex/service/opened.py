"""The service clients that recoveries opened themselves, and when they are closed."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..errors import heed
from ..runtime.daemon_pool import DaemonPool
from . import close_service_client

logger = logging.getLogger(__name__)

#: How many may be closed at the same time.
CLOSED_AT_ONCE = 8

#: Seconds that `join` waits at most, whatever it is given.
JOIN_AT_MOST = 5.0


class OwnServices:
    """Holds the service clients of one owner's recoveries, and closes them.

    Closing one ends its session, and with it every client that came from it. So one that made
    nothing that is used is closed at once; that of a generation that was replaced by another is
    held until `close`, but no longer than its training client lives; that of a live generation
    is never closed.

    `inline`: close on the caller's thread. Otherwise that is done on daemon threads: `close` of a
    service client may hang, and must hold up neither an attempt nor the end.

    Threads: every method is safe from any thread; only `join` waits, unless `inline`.
    """

    def __init__(self, *, inline: bool) -> None:
        self._pool = None if inline else DaemonPool(CLOSED_AT_ONCE, "tinkex-close")
        self._lock = threading.Lock()
        # Guarded by _lock: _held, the training clients in use that service clients of ours made.
        self._held: list[Made] = []

    def discard(self, services: Sequence[Any], run_id: str) -> None:
        """Close service clients that were opened to recover a run, and that nothing uses."""
        for service in services:
            self._close(service, "errored", run_id)

    def keep(self, services: Sequence[Any], client: Any, run_id: str, *, replaced: str) -> None:
        """Hold the last of an attempt's service clients, which made `client`; close the others.

        `client` trains run `run_id`, which carries on the run `replaced`.
        """
        self.discard(services[:-1], replaced)
        made: list[Made] = []
        # A client that cannot be referred to weakly would be held for too long.
        with suppress(TypeError):
            made += [_held(client, service, run_id) for service in services[-1:]]
        with self._lock:
            self._held = [each for each in self._held if each.made_by is not None] + made
            for each in self._held:
                each.is_replaced = each.is_replaced or each.trains == replaced

    def made(self, client: Any) -> Made | None:
        """What is held of a training client, for another owner that goes on with it."""
        with self._lock:
            return next((each for each in self._held if each() is client), None)

    def adopt(self, made: Made) -> None:
        """Hold what another owner held, which is closed."""
        with self._lock:
            self._held.append(made)

    def close(self) -> None:
        """Close the service clients of replaced generations, and let go of the others.

        What is discarded later, by an attempt that ends late, is closed on its own thread.
        """
        with self._lock:
            held, self._held = self._held, []
        for each in held:
            service = each.made_by
            if each.is_replaced and service is not None:
                self._close(service, "success", each.trains)
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def join(self, timeout: float) -> None:
        """Wait until all are closed after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(min(timeout, JOIN_AT_MOST))

    def _close(self, service: Any, status: str, run_id: str) -> None:
        # Refused where the pool is shut down, or no thread can start.
        with suppress(RuntimeError):
            if self._pool is not None:
                self._pool.submit(_close, service, status, run_id)
                return
        _close(service, status, run_id)


class Made(weakref.ref[Any]):
    """A training client, not kept alive, what it was made by while it lives, and its run's id."""

    __slots__ = ("is_replaced", "made_by", "trains")

    made_by: Any
    trains: str
    is_replaced: bool


def _held(client: Any, service: Any, run_id: str) -> Made:
    made = Made(client, _let_go)
    made.made_by, made.trains, made.is_replaced = service, run_id, False
    return made


def _let_go(held: Made) -> None:
    # May come from the garbage collection of a thread that has the lock: it is not taken here.
    held.made_by = None


def _close(service: Any, status: str, run_id: str) -> None:
    try:
        close_service_client(service, status)
    except BaseException as error:  # an exit in foreign code, too
        heed(error)
        # Not its message, which may hold a key.
        told = "run %s: a service client that was opened for it could not be closed: %s"
        logger.info(told, run_id, type(error).__name__)
