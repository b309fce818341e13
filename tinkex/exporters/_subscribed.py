"""The base of exporters: from which senders each receives; one for each destination."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from ..runtime import forks
from ..signals import Event, Swept, check_sender, subscribe

#: The upper bounds of the histograms' buckets, in seconds.
RECOVERY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
SWEEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class Exporter:
    """What `export` returns: it counts what monitors tell until `close()`, or a `with` block's end.

    Threads: every method is safe from any thread.
    """

    def __init__(self) -> None:
        #: `None` where it counts what any sender tells.
        self._senders: WeakSet[object] | None = WeakSet()
        # One subscription, so that a sender which is added twice is still received once.
        self._subscription = subscribe(self._receive)

    def close(self) -> None:
        """Count no more and leave the destination; without effect the second time."""
        with _table.lock:
            if self in _table.open:
                _table.open.remove(self)
                self._subscription.close()
                self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _add(self, sender: object | None) -> None:
        if sender is None:
            self._senders = None
        elif self._senders is not None:
            self._senders.add(sender)

    def _receive(self, sender: object, *, event: Event) -> None:
        senders = self._senders
        if senders is None or sender in senders:
            self._count(sender, event)

    def _count(self, sender: object, event: Event) -> None:
        """Take an event of a sender that is counted."""
        raise NotImplementedError

    def _leave(self) -> None:
        """Take back what the destination was told to hold; nothing may wait here."""


E = TypeVar("E", bound=Exporter)


class _Table:
    """The exporters of this process."""

    def __init__(self) -> None:
        forks.register(self)
        # Guarded by lock: the open exporters, and what they hold of their destinations. Receivers
        # never take it; a destination may, or who interrupts its making.
        self.open: list[Exporter] = []
        self.after_fork()

    def after_fork(self) -> None:
        # Guards what the one before it guarded.
        self.lock = threading.RLock()


_table = _Table()


def opened(
    kind: type[E], sender: object | None, *, is_same: Callable[[E], bool], make: Callable[[], E]
) -> E:
    """The open exporter of this kind and destination, made where there is none; it counts `sender`.

    Raises:
        TypeError: The sender is neither a `Monitor` nor a `RecoveryExecutor`.
    """
    check_sender(sender)
    try:
        WeakSet(() if sender is None else (sender,))
    except TypeError:
        allowed = "a tinkex.Monitor, a tinkex.RecoveryExecutor or None"
        raise TypeError(f"sender must be {allowed}, not {sender!r}") from None
    with _table.lock:
        for each in tuple(_table.open):
            if isinstance(each, kind) and is_same(each):
                found = each
                break
        else:
            found = make()
            _table.open.append(found)
        found._add(sender)
    return found


class LastSweeps:
    """The last sweep of each monitor that is not stopped."""

    def __init__(self) -> None:
        forks.register(self)
        # Guarded by _lock: _last.
        self._last: WeakKeyDictionary[object, Swept] = WeakKeyDictionary()
        self.after_fork()

    def after_fork(self) -> None:
        """Let a forked child count, and be scraped."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()

    def add(self, monitor: object, event: Swept) -> None:
        """Take a sweep."""
        with self._lock:
            self._last[monitor] = event

    def runs(self) -> int:
        """How many runs they had together."""
        return sum(swept.runs for swept in self._live())

    def time(self) -> float:
        """The Unix time, in seconds, of the one that ended the longest ago; 0 where there is none.

        So one silent monitor among others is seen.
        """
        return min((swept.time.timestamp() for swept in self._live()), default=0.0)

    def _live(self) -> list[Swept]:
        with self._lock:
            last = list(self._last.items())
        return [swept for monitor, swept in last if not getattr(monitor, "is_stopped", False)]
