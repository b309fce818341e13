"""Who says what happened: builds events and posts them, with the callbacks, to an outbox."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ..signals import (
    Completed,
    Detected,
    Event,
    Exhausted,
    Failed,
    Missing,
    Paused,
    PollError,
    Resumed,
    Unprotected,
    emit,
)
from .delivery import Outbox
from .scheduler import Clock

__all__ = ["Reporter"]

logger = logging.getLogger(__name__)

_LEVELS: dict[type[Event], int] = {
    Detected: logging.WARNING,
    PollError: logging.WARNING,
    Failed: logging.WARNING,
    Exhausted: logging.ERROR,
    Missing: logging.WARNING,
    Paused: logging.WARNING,
    Unprotected: logging.WARNING,
    Completed: logging.INFO,
    Resumed: logging.INFO,
}


def _in_words(event: Event) -> str:
    told = (f.name for f in fields(event) if f.name not in ("client", "metadata", "run", "run_id"))
    return " ".join([event.name, *(f"{name}={getattr(event, name)!s}" for name in told)])


class Reporter:
    """Publishes the events of one sender, a `Monitor` or a `RecoveryExecutor`.

    Args:
        sender: What receivers get as sender.
        clock: Gives the events' times.
        inline: Deliver on the thread that has the news; see `Outbox`.

    Threads: safe from any thread; never waits for a receiver unless `inline`.
    """

    def __init__(self, sender: object, clock: Clock, *, inline: bool) -> None:
        self._sender = sender
        self.clock = clock
        #: Set when the sender stops: nothing new is begun for it.
        self.closing = False
        # Guards nothing but its own waiters: notified after each change to wait for.
        self._changed = threading.Condition()
        self.outbox = Outbox(inline=inline, on_idle=self.notify)

    def publish(
        self,
        lane: object,
        kind: type[Event],
        run_id: str | None,
        metadata: Mapping[str, Any],
        **fields: Any,
    ) -> Event:
        """Post an event; those of one lane are delivered in the order they were posted."""
        event = kind(run_id=run_id, metadata=metadata, time=self.clock.utc(), **fields)
        self.outbox.post(lane, lambda: self._deliver(event))
        return event

    def _deliver(self, event: Event) -> None:
        level = _LEVELS.get(type(event), logging.DEBUG)
        if logger.isEnabledFor(level):
            logger.log(level, "run %s: %s", event.run_id, _in_words(event))
        emit(self._sender, event, self.outbox.is_closed)

    def call(self, lane: object, callback: Callable[..., object] | None, *args: object) -> None:
        """Post a call of a person's callback, if there is one."""
        if callback is not None:
            self.outbox.post(lane, lambda: callback(*args))

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for a change that makes `predicate()` true; say whether it is."""
        return self.clock.wait(self._changed, predicate, timeout)
