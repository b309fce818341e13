"""Sends events as blinker signals and log lines, through `Delivery`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

from ..signals import Event, receivers_of
from .delivery import Delivery
from .jobs import Job, identity_of, name_of

logger = logging.getLogger(__name__)

#: How many runs the log line of an event names.
NAMED = 5


class Call(NamedTuple):
    """A call of a policy's callback, to be made after the events queued before it."""

    function: Callable[..., object]
    arguments: tuple[Any, ...]


class Late(NamedTuple):
    """An event that is made when it is about to be sent: to make it takes a while."""

    make: Callable[[], Event]


#: What a publisher delivers.
Notice = Event | Call | Late


class Publisher:
    """Publishes the events of one sender, a `Monitor` or a `RecoveryExecutor`.

    `inline`: deliver on the thread that publishes. `on_idle` is called each time that all
    events of a lane are delivered. `complete` gets each event where it is about to be sent, and
    returns what is sent: there it may wait.

    Threads: every method is safe from any thread; none waits for a receiver unless `inline`.
    """

    def __init__(
        self,
        sender: object,
        *,
        inline: bool,
        on_idle: Callable[[], None],
        complete: Callable[[Event], Event] = lambda event: event,
    ) -> None:
        self._sender = sender
        self._complete = complete
        self._delivery = Delivery(inline=inline, on_idle=on_idle)
        # In the order of the calls. One by one, so that to add waits for no other thread.
        self._queued: deque[tuple[object, Iterable[Notice]]] = deque()
        self._lock = threading.Lock()
        # Guarded by _lock: that what is taken from _queued is handed on in that order. The
        # delivery's lock may be taken within.
        self.close = self._delivery.close
        self.join = self._delivery.join

    def queue(self, lane: object, notices: Iterable[Notice]) -> None:
        """Line notices up behind those of the same lane; `flush` delivers them.

        It takes no lock, so the caller may hold that of what the notices are about.
        """
        self._queued.append((lane, notices))

    def flush(self) -> None:
        """Start to deliver what is queued. The caller holds no lock."""
        while self._queued:
            with self._lock:
                if self._queued:
                    lane, notices = self._queued.popleft()
                    groups = [partial(self._jobs, lane, notice) for notice in notices]
                    self._delivery.queue(lane, groups)
        self._delivery.flush()

    def is_idle(self) -> bool:
        """Whether nothing is left to deliver but what waits for the calling thread itself."""
        with self._lock:
            return not self._queued and self._delivery.is_idle()

    def publish(self, lane: object, notice: Notice) -> None:
        """Queue a notice and start to deliver it. The caller holds no lock."""
        self.queue(lane, (notice,))
        self.flush()

    def _jobs(self, lane: object, notice: Notice) -> list[Job]:
        """The calls that deliver a notice: the log line, then the receivers; or a callback."""
        if isinstance(notice, Call):
            # One that hangs for a run is called for the others.
            key = (lane, identity_of(notice.function))
            name = f"callback {name_of(notice.function)}"
            return [Job(partial(notice.function, *notice.arguments), name, key)]
        event = self._complete(notice.make() if isinstance(notice, Late) else notice)
        jobs = []
        if logger.isEnabledFor(event.level):
            line = partial(_log, event)
            jobs.append(Job(line, f"the log of signal {event.name}", _log))
        for receiver in receivers_of(self._sender, event):
            call = partial(receiver, self._sender, event=event)
            name = f"receiver {name_of(receiver)} of signal {event.name}"
            jobs.append(Job(call, name, identity_of(receiver)))
        return jobs


def _log(event: Event) -> None:
    told = (f.name for f in fields(event) if f.name not in ("client", "metadata", "run", "run_id"))
    words = " ".join([event.name, *(f"{name}={_text(getattr(event, name))}" for name in told)])
    logger.log(event.level, "run %s: %s", event.run_id, words)


def _text(value: object) -> str:
    """A field's value; of many things only the first and their number."""
    if isinstance(value, tuple) and len(value) > NAMED:
        return f"{', '.join(map(_text, value[:NAMED]))} and {len(value) - NAMED:,} more"
    try:
        return str(value)
    except Exception:  # of a caller's own class
        return f"<{type(value).__qualname__}>"
