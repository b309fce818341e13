"""Exports what monitors tell to OpenTelemetry: metrics, and a trace of each incident.

It needs the extra `opentelemetry`, which is the API alone: an application brings an SDK.
"""

from __future__ import annotations

import atexit
import os

from ..signals import EVENTS, Cause, Completed, Detected, Event, Swept
from ._subscribed import RECOVERY_BUCKETS, SWEEP_BUCKETS, Exporter, LastSweeps, opened

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import TracerProvider, get_tracer_provider
except ModuleNotFoundError as error:
    needed = 'tinkex.exporters.opentelemetry needs an extra: pip install "tinkex[opentelemetry]"'
    raise ModuleNotFoundError(needed, name=error.name) from error

from ._incidents import Incidents

__all__ = ["OpenTelemetryExporter", "export"]

#: The name of the meter and the tracer.
_SCOPE = "tinkex"


def export(
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    sender: object | None = None,
) -> OpenTelemetryExporter:
    """Count what monitors tell, and trace incidents; docs/operations.md has the tables.

    Each incident is a span `tinkex.recovery`, from `detected`, or the first `started` where nothing
    was detected, to `completed`, `exhausted` or `fenced`, with a span `tinkex.attempt` for each
    attempt. One whose end is not told, since its run was stopped, ends with the outcome "unknown"
    at its last event: when the same monitor finds the run lost again, at the first sweep of any
    monitor an hour after that event or after its own monitor is gone, with `close()`, or with the
    process.

    Called again with the same providers it returns the same exporter, which then counts `sender` as
    well: nothing is counted twice.

    Args:
        meter_provider: Where the metrics go; `None`: the global provider.
        tracer_provider: Where the spans go; `None`: the global provider.
        sender: The monitor or executor to count; `None`: all of the process.

    Raises:
        TypeError: The sender cannot be one.
        ValueError: One of the providers is in use together with another one.
    """

    def is_same(known: OpenTelemetryExporter) -> bool:
        same = (
            _meters(known.meter_provider) is _meters(meter_provider),
            _tracers(known.tracer_provider) is _tracers(tracer_provider),
        )
        if any(same) and not all(same):
            used, other = ("meter", "tracer") if same[0] else ("tracer", "meter")
            raise ValueError(
                f"this {used}_provider is in use already, with another {other}_provider; "
                "close() that exporter first"
            )
        return all(same)

    return opened(
        OpenTelemetryExporter,
        sender,
        is_same=is_same,
        make=lambda: OpenTelemetryExporter(meter_provider, tracer_provider),
    )


def _meters(given: MeterProvider | None) -> MeterProvider:
    return get_meter_provider() if given is None else given


def _tracers(given: TracerProvider | None) -> TracerProvider:
    return get_tracer_provider() if given is None else given


class OpenTelemetryExporter(Exporter):
    """The metrics and spans of tinkex; `close()` ends the spans that are open.

    OpenTelemetry has no way to take a metric back: what was counted stays with the provider.
    """

    def __init__(
        self, meter_provider: MeterProvider | None, tracer_provider: TracerProvider | None
    ) -> None:
        #: Where the metrics and the spans go; `None`: to the global providers.
        self.meter_provider = meter_provider
        self.tracer_provider = tracer_provider
        self._metrics = _Metrics(_meters(meter_provider))
        self._incidents = Incidents(_tracers(tracer_provider).get_tracer(_SCOPE))
        self._process = os.getpid()
        super().__init__()
        # The SDK drops spans that are open when the process ends.
        atexit.register(self.close)

    def close(self) -> None:
        """Count no more and end the spans that are open; without effect the second time.

        In a forked child it does nothing: the spans are its parent's.
        """
        if os.getpid() != self._process:
            return
        super().close()
        atexit.unregister(self.close)
        self._incidents.close()

    def _count(self, sender: object, event: Event) -> None:
        try:
            self._metrics.count(sender, event)
        finally:  # a meter that fails leaves no span open
            self._incidents.tell(sender, event)


class _Metrics:
    """The instruments of one meter."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(_SCOPE)
        self._sweeps = LastSweeps()
        self._events = meter.create_counter("tinkex.events", "{event}", "Signals of tinkex.")
        self._detections = meter.create_counter(
            "tinkex.detections", "{detection}", "Runs found to be lost."
        )
        self._recovery = meter.create_histogram(
            "tinkex.recovery.duration",
            "s",
            "From what began an incident to the recovered run.",
            explicit_bucket_boundaries_advisory=RECOVERY_BUCKETS,
        )
        self._sweep = meter.create_histogram(
            "tinkex.sweep.duration",
            "s",
            "How long sweeps took.",
            explicit_bucket_boundaries_advisory=SWEEP_BUCKETS,
        )
        self._requests = meter.create_counter(
            "tinkex.sweep.requests", "{request}", "Requests of sweeps."
        )
        self._errors = meter.create_counter("tinkex.sweep.errors", "{error}", "Polls that failed.")
        self._runs = meter.create_gauge("tinkex.runs", "{run}", "Runs of the last sweep.")
        self._last = meter.create_gauge(
            "tinkex.sweep.last_time", "s", "When the last sweep ended, in Unix time."
        )
        for name in EVENTS:
            self._events.add(0, {"tinkex.event": name})
        for cause in Cause:
            if cause.is_detected:
                self._detections.add(0, {"tinkex.cause": cause.value})
        self._requests.add(0)
        self._errors.add(0)

    def count(self, sender: object, event: Event) -> None:
        """Count an event."""
        self._events.add(1, {"tinkex.event": event.name})
        match event:
            case Detected():
                self._detections.add(1, {"tinkex.cause": event.cause.value})
            case Completed():
                self._recovery.record(event.duration)
            case Swept():
                self._sweep.record(event.duration)
                self._requests.add(event.requests)
                self._errors.add(event.errors)
                self._sweeps.add(sender, event)
                self._runs.set(self._sweeps.runs())
                self._last.set(self._sweeps.time())
