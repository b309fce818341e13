"""The setup of a rehearsal: a server, clients of the official SDK, monitors, their events."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import tinker

from ..monitor import Monitor
from ..policy import Policy
from ..signals import Event, subscribe
from .web.server import RehearsalServer

#: The default poll interval of monitors, in seconds.
POLL_INTERVAL = 0.1
#: The most seconds that a wait may take, and the end of a client's session.
PATIENCE = 30.0
CLOSING = 5.0


class Events:
    """A receiver that keeps all events in the order of delivery; `swept` is only counted.

    Threads: safe from any.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._events: list[Event] = []
        self._sweeps = 0

    def __call__(self, sender: object, *, event: Event) -> None:
        """Take an event."""
        with self._changed:
            if event.name == "swept":
                self._sweeps += 1
            else:
                self._events.append(event)
            self._changed.notify_all()

    def named(self, *names: str) -> list[Any]:
        """The events of these names."""
        with self._changed:
            return [event for event in self._events if event.name in names]

    def wait_for(self, name: str, count: int = 1, *, timeout: float = PATIENCE) -> bool:
        """Wait for `count` events of a name; false if they do not come in time."""
        return self._wait(lambda: len(self.named(name)) >= count, timeout)

    def wait_for_sweeps(self, count: int, *, timeout: float = PATIENCE) -> bool:
        """Wait for `count` more sweeps."""
        with self._changed:
            wanted = self._sweeps + count
        return self._wait(lambda: self._sweeps >= wanted, timeout)

    def _wait(self, predicate: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(predicate, timeout)


class Stage:
    """A rehearsal server with clients and monitors on it, all ended by its `with` block."""

    def __init__(self, **server_options: Any) -> None:
        self.server = RehearsalServer(**server_options)
        self.events = Events()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.server)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def service(self, kind: type[Any] | None = None) -> Any:
        """Open a service client: the official SDK's own class, or the class `kind`."""
        made = kind or tinker.ServiceClient
        service = made(base_url=self.server.url, api_key=self.server.api_key)
        self._stack.callback(_end, service)
        return service

    def monitor(self, *receivers: Callable[..., object], **policy: Any) -> Monitor:
        """Start a monitor; the keywords are fields of its policy.

        `events` and `receivers` get all its signals.
        """
        policy = {"enabled": True, "poll_interval": POLL_INTERVAL, "backoff": 0.1, **policy}
        monitor = Monitor(Policy(**policy))
        told: tuple[Callable[..., object], ...] = (self.events, *receivers)
        for receiver in told:
            self._stack.enter_context(subscribe(receiver, sender=monitor))
        return self._stack.enter_context(monitor)


def _end(service: Any) -> None:
    """Close a service client; in older versions of the SDK only its holder has `close`."""
    if "status" in inspect.signature(getattr(service, "close", _end)).parameters:
        # A session that is over cannot be finished.
        with suppress(tinker.APIStatusError):
            service.close("success").result(timeout=CLOSING)
    else:
        service.holder.close()
