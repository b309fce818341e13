"""Makes a trace of each incident from its events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from weakref import ReferenceType, ref

from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, Tracer, set_span_in_context

from ..errors import in_words
from ..runtime import forks
from ..signals import (
    CheckpointSelected,
    ClientCreated,
    Completed,
    Detected,
    Event,
    Exhausted,
    Failed,
    Fenced,
    RolledBack,
    Started,
    Swept,
)

logger = logging.getLogger(__name__)

#: Nanoseconds after its last event in which an incident is waited for.
_SILENT_FOR = 3_600_000_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _nanoseconds(time: datetime) -> int:
    """A time as OpenTelemetry has it."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


@dataclass(slots=True, eq=False)
class _Incident:
    """The spans of an incident, and when its last event was, in nanoseconds.

    Where the clock was set back its time stands still.
    """

    sender: ReferenceType[object]
    root: Span
    told: int
    attempt: Span | None = None

    def end_attempt(self, at: int, error: BaseException | None = None) -> None:
        """End the span of the attempt, if one is open."""
        span, self.attempt = self.attempt, None
        if span is not None:
            _end(span, max(at, self.told), error)

    def end(self, outcome: str, at: int, error: BaseException | None = None) -> None:
        """End all spans."""
        try:
            self.end_attempt(at)
        finally:
            self.root.set_attribute("tinkex.outcome", outcome)
            _end(self.root, max(at, self.told), error)


class Incidents:
    """The incidents that are under way; of a monitor each run has one at a time.

    Threads: safe from any. No span is ended, begun or changed under the lock, since what processes
    spans may wait.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # Guarded by _lock: both. The key is the sender's id and the run's.
        self._open: dict[tuple[int, str | None], _Incident] = {}
        self._is_closed = False
        forks.register(self)
        self.after_fork()

    def after_fork(self) -> None:
        """Let a forked child trace what it does; the spans that are open are its parent's."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the spans that are open."""
        with self._lock:
            self._is_closed = True
            left = list(self._open.values())
            self._open.clear()
        _end_all(left)

    def tell(self, sender: object, event: Event) -> None:
        """Take the next event of a sender."""
        at = _nanoseconds(event.time)
        match event:
            case Swept():
                self._end_silent(at)
            case Detected():
                self._detected(sender, event, at)
            case Started():
                self._started(sender, event, at)
            case CheckpointSelected() | ClientCreated() | RolledBack():
                self._went_on(sender, event, at)
            case Failed():
                incident = self._find(sender, event, at)
                if incident is not None:
                    incident.end_attempt(at, event.error)
            case Completed():
                begun = at - int(event.duration * 1e9)
                incident = self._take(sender, event) or self._begun(sender, event, begun)
                incident.root.set_attribute("tinkex.successor_id", event.successor_id)
                incident.end("completed", at)
            case Exhausted():
                incident = self._take(sender, event) or self._begun(sender, event, at)
                incident.end("exhausted", at, event.error)
            case Fenced():
                incident = self._take(sender, event)
                if incident is not None:
                    incident.end("fenced", at)

    def _detected(self, sender: object, event: Detected, at: int) -> None:
        incident = self._begun(sender, event, at)
        incident.root.set_attribute("tinkex.cause", event.cause.value)
        self._keep(sender, event, incident)

    def _started(self, sender: object, event: Started, at: int) -> None:
        incident = self._find(sender, event, at)
        if incident is None:
            incident = self._begun(sender, event, at)
            self._keep(sender, event, incident)
        incident.end_attempt(at)
        incident.attempt = self._tracer.start_span(
            "tinkex.attempt",
            context=set_span_in_context(incident.root, Context()),
            start_time=incident.told,
            attributes={"tinkex.run_id": event.run_id or "", "tinkex.attempt": event.attempt},
        )
        if self._find(sender, event, at) is not incident:  # ended just now
            incident.end_attempt(at)

    def _went_on(
        self, sender: object, event: CheckpointSelected | ClientCreated | RolledBack, at: int
    ) -> None:
        incident = self._find(sender, event, at)
        if incident is None:
            return
        told = {}
        if event.checkpoint is not None:
            told["tinkex.checkpoint"] = event.checkpoint.tinker_path
        if isinstance(event, ClientCreated):
            told["tinkex.successor_id"] = event.successor_id
        if isinstance(event, RolledBack):
            told["tinkex.evidence"] = event.evidence
        (incident.attempt or incident.root).add_event(event.name, told, at)

    def _end_silent(self, now: int) -> None:
        """End incidents of which nothing was told for long, or whose monitor is gone."""
        with self._lock:
            over = {
                key: incident
                for key, incident in self._open.items()
                if incident.told + _SILENT_FOR < now or incident.sender() is None
            }
            for key in over:
                del self._open[key]
        _end_all(over.values())

    def _begun(self, sender: object, event: Event, at: int) -> _Incident:
        root = self._tracer.start_span(
            "tinkex.recovery",
            context=Context(),
            start_time=at,
            attributes={"tinkex.run_id": event.run_id or ""},
        )
        return _Incident(ref(sender), root, told=at)

    def _keep(self, sender: object, event: Event, incident: _Incident) -> None:
        """Wait for what becomes of an incident; one of that run that was open is over."""
        key = (id(sender), event.run_id)
        with self._lock:
            over = incident if self._is_closed else self._open.get(key)
            if not self._is_closed:
                self._open[key] = incident
        if over is not None:
            over.end("unknown", over.told)

    def _find(self, sender: object, event: Event, at: int) -> _Incident | None:
        """The incident that an event belongs to."""
        with self._lock:
            incident = self._open.get((id(sender), event.run_id))
            if incident is None or incident.sender() is not sender:
                return None
            incident.told = max(at, incident.told)
            return incident

    def _take(self, sender: object, event: Event) -> _Incident | None:
        """The incident that an event ends, which is not kept any more."""
        with self._lock:
            incident = self._open.get((id(sender), event.run_id))
            if incident is None or incident.sender() is not sender:
                return None
            return self._open.pop((id(sender), event.run_id))


def _end(span: Span, at: int, error: BaseException | None) -> None:
    try:
        if error is not None:
            span.set_status(StatusCode.ERROR, in_words(error))
            span.record_exception(error, timestamp=at)
    finally:
        span.end(at)


def _end_all(incidents: Iterable[_Incident]) -> None:
    """End those whose end is not told; what a processor of spans raises stops none of them."""
    for incident in incidents:
        try:
            incident.end("unknown", incident.told)
        except Exception:
            logger.exception("the spans of an incident could not be ended")
