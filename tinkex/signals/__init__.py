"""The blinker signals that a monitor sends, and the records of their events.

A receiver is called as `receiver(sender, event=event)`. The sender is the `Monitor` for all
that it started and the `RecoveryExecutor` for what was asked of it directly. Receivers run on
threads of tinkex (`tinkex-signals_N`), never on the poll's or the recovery's: those of one run
one after the other, in order; those of different runs possibly at the same time. One that has not
returned for 10 seconds falls behind alone: later events wait for it, and nothing else does. With a
scheduler that was handed in they run on the thread that has the news.

The first eight signals and their order are those of the Elixir original.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from blinker import ANY, Namespace, Signal

from .events import (
    Cause,
    CheckpointSelected,
    ClientCreated,
    Completed,
    Detected,
    Event,
    Exhausted,
    Failed,
    Fenced,
    JournalFailed,
    Missing,
    Paused,
    PollError,
    Resumed,
    RolledBack,
    Started,
    Swept,
    Unprotected,
)

__all__ = [
    "EVENTS",
    "Cause",
    "CheckpointSelected",
    "ClientCreated",
    "Completed",
    "Detected",
    "Event",
    "Exhausted",
    "Failed",
    "Fenced",
    "JournalFailed",
    "Missing",
    "Paused",
    "PollError",
    "Resumed",
    "RolledBack",
    "Started",
    "Subscription",
    "Swept",
    "Unprotected",
    "checkpoint_selected",
    "client_created",
    "completed",
    "detected",
    "exhausted",
    "failed",
    "fenced",
    "journal_failed",
    "missing",
    "namespace",
    "paused",
    "poll_error",
    "resumed",
    "rolled_back",
    "started",
    "subscribe",
    "swept",
    "unprotected",
]

#: The namespace that holds every signal of tinkex.
namespace = Namespace()

#: Every event class by its signal's name.
EVENTS: dict[str, type[Event]] = {}


def _signal(kind: type[Event]) -> Signal:
    EVENTS[kind.name] = kind
    return namespace.signal(kind.name, doc=kind.__doc__)


detected = _signal(Detected)
poll_error = _signal(PollError)
started = _signal(Started)
checkpoint_selected = _signal(CheckpointSelected)
client_created = _signal(ClientCreated)
completed = _signal(Completed)
failed = _signal(Failed)
exhausted = _signal(Exhausted)
swept = _signal(Swept)
unprotected = _signal(Unprotected)
missing = _signal(Missing)
paused = _signal(Paused)
resumed = _signal(Resumed)
rolled_back = _signal(RolledBack)
journal_failed = _signal(JournalFailed)
fenced = _signal(Fenced)


class Subscription:
    """A receiver that is held until `close()`, or to the end of a `with` block."""

    def __init__(
        self, receiver: Callable[..., object], names: tuple[str, ...], sender: object
    ) -> None:
        def deliver(sent_by: object, **kwargs: Any) -> None:
            if self._is_open:  # an event may be on its way as it is closed
                receiver(sent_by, **kwargs)

        # A function of its own, so that two subscriptions of one receiver end separately.
        self._deliver = deliver
        self._is_open = True
        deliver.__wrapped__ = receiver  # type: ignore[attr-defined]
        self._names = names
        for name in names:
            namespace[name].connect(deliver, sender=ANY if sender is None else sender, weak=False)

    def __repr__(self) -> str:
        names = "all signals" if len(self._names) == len(EVENTS) else ", ".join(self._names)
        return f"<Subscription to {names}{'' if self._is_open else ', closed'}>"

    def close(self) -> None:
        """End the subscription; without effect the second time."""
        self._is_open = False
        for name in self._names:
            namespace[name].disconnect(self._deliver)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def subscribe(
    receiver: Callable[..., object], *names: str, sender: object | None = None
) -> Subscription:
    """Have `receiver(sender, event=event)` called, until `close()` or a `with` block's end.

    The receiver is held strongly; blinker itself holds receivers weakly, so that a lambda or a
    function made inside another disappears at once.

    Args:
        receiver: Any callable but a coroutine function, which would not be awaited.
        names: The signals' names, such as `"completed"`; all of them where none is given.
        sender: Only what this monitor or executor sends.

    Raises:
        TypeError: The receiver cannot be called, or is a coroutine function; or the sender is a
            run, which sends nothing itself.
        ValueError: There is no signal of that name.
    """
    if not callable(receiver):
        raise TypeError(f"a receiver must be callable; {receiver!r} is not")
    if inspect.iscoroutinefunction(receiver):
        raise TypeError(f"a receiver must be a plain function; {receiver!r} is a coroutine one")
    check_names(*names)
    check_sender(sender)
    return Subscription(receiver, names or tuple(EVENTS), sender)


def check_names(*names: str) -> None:
    """Refuse a name that is no signal's with a `ValueError`."""
    for name in names:
        if name not in EVENTS:
            import difflib  # noqa: PLC0415 (only a misspelt name needs it)

            near = difflib.get_close_matches(str(name), EVENTS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no signal {name!r}; {hint}there are {', '.join(EVENTS)}")


def check_sender(sender: object) -> None:
    """Refuse a run, its id and a class, which send nothing, with a `TypeError`."""
    if isinstance(sender, str | type) or hasattr(sender, "run_id"):
        allowed = "a tinkex.Monitor, a tinkex.RecoveryExecutor or None"
        raise TypeError(f"sender must be {allowed}, not {sender!r}; events have a run_id")


def receivers_of(sender: object, event: Event) -> list[Callable[..., object]]:
    """Who is to be called with an event of a sender, in their order."""
    signal = namespace[event.name]
    return [] if signal.is_muted else list(signal.receivers_for(sender))
