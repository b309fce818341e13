"""Writes what monitors tell as log records, one for each event, with its values in `extra`."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import in_words, status_of
from ..runtime import forks
from ..signals import Event, Missing, PollError, Swept
from ..types import Checkpoint
from ._subscribed import Exporter, opened

__all__ = ["LogExporter", "export"]

#: What is never written: live objects, and what the server said of the run at length.
_LEFT_OUT = {"client", "run"}

#: How many runs of an account a record names.
_NAMED = 20


def export(
    logger: str | logging.Logger = "tinkex.events", *, sender: object | None = None
) -> LogExporter:
    """Write a record for each event, whose values are in the record's attribute `tinkex`.

    Each has the level of its event. But of failing polls only the first is a WARNING and the
    others DEBUG, until a sweep without an error, which is an INFO.

    Called again with the same logger it returns the same exporter, which then tells of `sender` as
    well: nothing is written twice.

    Args:
        logger: The logger or its name.
        sender: The monitor or executor to tell of; `None`: all of the process.

    Raises:
        TypeError: The sender cannot be one, or `logger` is neither a logger nor a text.
    """
    if not isinstance(logger, str | logging.Logger):
        raise TypeError(f"logger must be a logging.Logger or its name, not {logger!r}")
    target = logging.getLogger(logger) if isinstance(logger, str) else logger
    return opened(
        LogExporter,
        sender,
        is_same=lambda known: known.logger is target,
        make=lambda: LogExporter(target),
    )


class LogExporter(Exporter):
    """Writes to one logger, until `close()`."""

    def __init__(self, logger: logging.Logger) -> None:
        #: Where the records go.
        self.logger = logger
        # Guarded by _lock: _polls, with all that is in them.
        self._polls: WeakKeyDictionary[object, _Polls] = WeakKeyDictionary()
        forks.register(self)
        self.after_fork()
        super().__init__()

    def after_fork(self) -> None:
        """Let a forked child write records."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()

    def _count(self, sender: object, event: Event) -> None:
        with self._lock:
            polls = self._polls.setdefault(sender, _Polls())
            level = polls.level_of(event)
        if self.logger.isEnabledFor(level):
            body = _body(event)
            works = "polls work again, " if level > logging.DEBUG and event.name == "swept" else ""
            self.logger.log(level, "%s%s", works, _message(body), extra={"tinkex": body})


@dataclass(slots=True, eq=False)
class _Polls:
    """How the polls of a monitor go: since when none has failed, and which runs are missing."""

    are_failing: bool = False
    worked_at: datetime | None = None
    missing: set[str | None] = field(default_factory=set)

    def level_of(self, event: Event) -> int:
        match event:
            case PollError():
                # A run that was told as missing goes on to be; what comes late may be over by now.
                is_known = event.run_id in self.missing and status_of(event.error) == 404
                is_late = self.worked_at is not None and event.time < self.worked_at
                if self.are_failing or is_known or is_late:
                    return logging.DEBUG
                self.are_failing = True
            case Swept(errors=0):
                self.worked_at = event.time
                was_failing, self.are_failing = self.are_failing, False
                if was_failing:
                    return logging.INFO
            case Missing():
                self.missing.add(event.run_id)
        return event.level


def _body(event: Event) -> dict[str, Any]:
    """The values of an event, as JSON has them."""
    body: dict[str, Any] = {"event": event.name}
    for each in fields(event):
        if each.name not in _LEFT_OUT:
            value = getattr(event, each.name)
            try:
                body[each.name] = _plain(value)
            except Exception:  # of a caller's value, which may hold itself
                body[each.name] = f"<{type(value).__qualname__}>"
    if "strategy" in body:
        body["strategy"] = str(getattr(event, "strategy", None))
    runs = getattr(event, "runs", None)
    if isinstance(runs, tuple):
        body |= {"runs": len(runs), "run_ids": list(runs[:_NAMED])}
    return body


def _plain(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case int():
            # Of a larger one Python makes no text.
            return value if value.bit_length() < 4096 else "<int>"
        case str():
            return str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime():
            return value.isoformat()
        case Checkpoint():
            return value.tinker_path
        case BaseException():
            return {"type": type(value).__qualname__, "message": in_words(value)}
        case Mapping():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
    # An object of the caller, whose words may hold anything.
    return f"<{type(value).__qualname__}>"


def _message(body: Mapping[str, Any]) -> str:
    told = [f"{body['event']}: {body['run_id']}" if body["run_id"] else f"{body['event']}:"]
    for name, value in body.items():
        if name not in ("event", "run_id", "metadata", "time", "run_ids") and value is not None:
            shown = f"{value['type']}: {value['message']}" if name == "error" else value
            told.append(f"{name}={shown}")
    return " ".join(told)
