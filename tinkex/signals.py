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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from blinker import ANY, Namespace, Signal

from .types import Checkpoint, TrainingRun

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


class Cause(StrEnum):
    """What began an incident."""

    #: The server flagged the run as corrupted.
    CORRUPTED = "corrupted"
    #: The training client of the run is of no more use, flagged or not.
    UNUSABLE = "unusable"
    #: A request that changes the run's state failed, for a reason that lies with the server.
    ERROR = "error"
    #: The server is back with an older state of the run, or may be: it was down, or says so.
    ROLLED_BACK = "rolled_back"
    #: The training loop was interrupted after it had submitted more than was saved.
    INTERRUPTED = "interrupted"
    #: The process that trained the run has ended, and another one goes on.
    RESTARTED = "restarted"
    #: A caller asked for it.
    REQUESTED = "requested"

    @property
    def is_detected(self) -> bool:
        """Whether it was noticed rather than asked for: it is sent as `detected`, and counted."""
        return self not in (Cause.INTERRUPTED, Cause.RESTARTED, Cause.REQUESTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have in common.

    `run_id` is the id of the corrupted run (`None` where an event is not about one run),
    `metadata` what was given to `monitor_run`, `time` an aware UTC time. `name` is its signal's:
    that of its class in lower case, with underscores.
    """

    name: ClassVar[str]

    run_id: str | None
    metadata: Mapping[str, Any]
    time: datetime

    def __init_subclass__(cls) -> None:
        words = (f"_{each}" if each.isupper() else each for each in cls.__name__)
        cls.name = "".join(words).removeprefix("_").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected(Event):
    """Sent when a run was found to be lost; `cause` says how.

    `run` is the run as a poll saw it, `None` where its training loop noticed. `reason` is what the
    server told that loop, or tells of the flagged run's session: a failed one's category and
    message. It is `None` where the server says nothing of it, or not within a second.
    """

    checkpoint: Checkpoint | None
    run: TrainingRun | None
    cause: Cause
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollError(Event):
    """Sent when a run's polls begin to fail, then at most once a minute until one succeeds."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """Sent when an attempt began; `attempt` counts from 1 within an incident."""

    attempt: int
    strategy: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSelected(Event):
    """Sent when an attempt has chosen what to restore."""

    attempt: int
    strategy: Any
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCreated(Event):
    """Sent when the new training client exists and has loaded."""

    attempt: int
    checkpoint: Checkpoint
    client: Any = field(repr=False)
    successor_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Event):
    """Sent when a run is recovered; `duration` is in seconds since the incident began."""

    attempt: int
    checkpoint: Checkpoint
    client: Any = field(repr=False)
    successor_id: str
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """Sent when an attempt failed; the next comes in `retry_in` seconds, none where `None`."""

    attempt: int
    error: BaseException
    retry_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted(Event):
    """Sent when no attempt is left; `attempt` says how many there were."""

    attempt: int
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept(Event):
    """Sent when a sweep ended: how many runs, requests, errors, and seconds it took."""

    runs: int
    requests: int
    duration: float
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unprotected(Event):
    """Sent when a healthy run has no checkpoint that a recovery could use, or soon none.

    `since` is since when, `checkpoint` the one that is about to expire, if any.
    """

    since: datetime
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(Event):
    """Sent once when a run cannot be found any more."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """Sent when the recoveries of an account wait until the account works again."""

    error: BaseException
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Sent when a paused account works again; `error` is what had paused it."""

    error: BaseException
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack(Event):
    """Sent when a run is back at an older state: its weights show it, or the server says so.

    `checkpoint` is that state; `None` is the beginning of the run, or that the server named none.
    `evidence` tells what was seen, or is what the server said.
    """

    checkpoint: Checkpoint | None
    evidence: str


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
        TypeError: The receiver cannot be called, or is a coroutine function.
        ValueError: There is no signal of that name.
    """
    if not callable(receiver):
        raise TypeError(f"a receiver must be callable; {receiver!r} is not")
    if inspect.iscoroutinefunction(receiver):
        raise TypeError(f"a receiver must be a plain function; {receiver!r} is a coroutine one")
    for name in names:
        if name not in EVENTS:
            import difflib  # noqa: PLC0415 (only a misspelt name needs it)

            near = difflib.get_close_matches(str(name), EVENTS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no signal {name!r}; {hint}there are {', '.join(EVENTS)}")
    return Subscription(receiver, names or tuple(EVENTS), sender)


def receivers_of(sender: object, event: Event) -> list[Callable[..., object]]:
    """Who is to be called with an event of a sender, in their order."""
    signal = namespace[event.name]
    return [] if signal.is_muted else list(signal.receivers_for(sender))
