"""Events that a test makes itself, and how it has them sent."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta

from tinkex import signals
from tinkex.runtime.publisher import Publisher
from tinkex.types import Checkpoint

START = datetime(2026, 1, 2, tzinfo=UTC)

CHECKPOINT = Checkpoint.from_path("tinker://3f0c:train:0/weights/000100")

#: What the fields of events are where a test does not say otherwise.
DEFAULTS = {
    "attempt": 1,
    "cause": signals.Cause.CORRUPTED,
    "checkpoint": CHECKPOINT,
    "client": object(),
    "duration": 1.5,
    "error": ValueError("it failed"),
    "errors": 0,
    "evidence": "the weights show it",
    "metadata": {},
    "owner": None,
    "reason": None,
    "requests": 1,
    "retry_in": None,
    "run": None,
    "run_id": "3f0c:train:0",
    "runs": 1,
    "since": START,
    "strategy": "latest",
    "successor_id": "3f0c:train:1",
    "time": START,
}


class Sender:
    """What sends events, as a monitor does."""

    is_stopped = False


def event(name, seconds=0, **values):
    """An event of a name, so many seconds after the start."""
    kind = signals.EVENTS[name]
    if name in ("paused", "resumed"):
        values.setdefault("runs", ("3f0c:train:0",))
    if name in ("paused", "resumed", "swept"):
        values.setdefault("run_id", None)
    known = {**DEFAULTS, "time": START + timedelta(seconds=seconds), **values}
    return kind(**{each.name: known[each.name] for each in fields(kind)})


def send(sender, *events):
    """Send events on this thread, one after the other."""
    publisher = Publisher(sender, inline=True, on_idle=lambda: None)
    for each in events:
        publisher.publish("lane", each)


def told(sender, name, seconds=0, **values):
    """Send one event."""
    send(sender, event(name, seconds, **values))
