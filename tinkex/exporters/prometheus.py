"""Exports what monitors tell as metrics of prometheus_client; it needs the extra `prometheus`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain

from ..signals import EVENTS, Cause, Completed, Detected, Event, Swept
from ._subscribed import RECOVERY_BUCKETS, SWEEP_BUCKETS, Exporter, LastSweeps, opened

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    needed = 'tinkex.exporters.prometheus needs an extra: pip install "tinkex[prometheus]"'
    raise ModuleNotFoundError(needed, name=error.name) from error

__all__ = ["PrometheusExporter", "export"]

#: Labels that the metrics have already.
_TAKEN = ("event", "cause", "le")


def export(
    *,
    registry: CollectorRegistry | None = None,
    sender: object | None = None,
    labels: Iterable[str] = (),
) -> PrometheusExporter:
    """Count what monitors tell, as metrics in a registry; docs/operations.md has their table.

    Called again with the same registry it returns the same exporter, which then counts `sender`
    as well: nothing is counted twice.

    Args:
        registry: Where the metrics are registered; `None`: that of the process.
        sender: The monitor or executor to count; `None`: all of the process.
        labels: Keys of the `metadata` given to `monitor_run`, and `"run_id"`, by which events,
            detections and recoveries are told apart. What an event does not have is "". Each
            value is a time series of its own, and each recovery makes a new run id.

    Raises:
        TypeError: The sender cannot be one, or `labels` are no texts.
        ValueError: A label cannot be used, the registry has these metrics with other labels, or
            has others of the same name.
    """
    checked = _checked(labels)
    target = REGISTRY if registry is None else registry

    def is_same(known: PrometheusExporter) -> bool:
        if known.registry is target and set(known.labels) != set(checked):
            raise ValueError(
                f"this registry has the metrics of tinkex with the labels {known.labels!r}, "
                f"not {checked!r}; close() that exporter first, or use another registry"
            )
        return known.registry is target

    return opened(
        PrometheusExporter,
        sender,
        is_same=is_same,
        make=lambda: PrometheusExporter(target, checked),
    )


class PrometheusExporter(Exporter):
    """The metrics of tinkex in one registry; `close()` takes them out of it."""

    def __init__(self, registry: CollectorRegistry, labels: tuple[str, ...]) -> None:
        #: Where the metrics are registered.
        self.registry = registry
        #: By what they are told apart.
        self.labels = labels
        self._metrics = _Metrics(labels)
        registry.register(self._metrics)
        super().__init__()

    def _count(self, sender: object, event: Event) -> None:
        self._metrics.count(sender, event)

    def _leave(self) -> None:
        with suppress(KeyError):  # where the registry was emptied
            self.registry.unregister(self._metrics)


class _Metrics(Collector):
    """The metrics, registered and unregistered as one."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._sweeps = LastSweeps()
        self._events = Counter(
            "tinkex_events", "Signals of tinkex.", ("event", *labels), registry=None
        )
        self._detections = Counter(
            "tinkex_detections", "Runs found to be lost.", ("cause", *labels), registry=None
        )
        self._recovery = Histogram(
            "tinkex_recovery_seconds",
            "From what began an incident to the recovered run.",
            labels,
            registry=None,
            buckets=RECOVERY_BUCKETS,
        )
        self._sweep = Histogram(
            "tinkex_sweep_seconds", "How long sweeps took.", registry=None, buckets=SWEEP_BUCKETS
        )
        self._requests = Counter("tinkex_sweep_requests", "Requests of sweeps.", registry=None)
        self._errors = Counter("tinkex_sweep_errors", "Polls that failed.", registry=None)
        self._runs = Gauge("tinkex_runs", "Runs of the last sweep.", registry=None)
        self._last = Gauge(
            "tinkex_last_sweep_timestamp_seconds", "When the last sweep ended.", registry=None
        )
        self._runs.set_function(self._sweeps.runs)
        self._last.set_function(self._sweeps.time)
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Rates and alerts see only the rise of a series that is there before."""
        none = [""] * len(self._labels)
        for name in EVENTS:
            self._events.labels(name, *none)
        for cause in Cause:
            if cause.is_detected:
                self._detections.labels(cause.value, *none)
        if none:
            self._recovery.labels(*none)

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        return chain.from_iterable(each.collect() for each in self._all())

    def describe(self) -> Iterable[Metric]:
        """Their names, which no other metric of the registry may have."""
        return chain.from_iterable(each.describe() for each in self._all())

    def _all(self) -> tuple[Counter | Gauge | Histogram, ...]:
        return (
            self._events,
            self._detections,
            self._recovery,
            self._sweep,
            self._requests,
            self._errors,
            self._runs,
            self._last,
        )

    def count(self, sender: object, event: Event) -> None:
        """Count an event."""
        own = [self._value(event, name) for name in self._labels]
        self._events.labels(event.name, *own).inc()
        match event:
            case Detected():
                self._detections.labels(event.cause.value, *own).inc()
            case Completed():
                (self._recovery.labels(*own) if own else self._recovery).observe(event.duration)
            case Swept():
                self._sweep.observe(event.duration)
                self._requests.inc(event.requests)
                self._errors.inc(event.errors)
                self._sweeps.add(sender, event)

    @staticmethod
    def _value(event: Event, label: str) -> str:
        value = event.run_id if label == "run_id" else event.metadata.get(label)
        try:
            # One text that is no UTF-8 would fail each scrape of the whole registry.
            return "" if value is None else str(value).encode("utf-8", "replace").decode()
        except Exception:  # of a caller's own class
            return f"<{type(value).__qualname__}>"


def _checked(labels: Iterable[str]) -> tuple[str, ...]:
    checked = () if isinstance(labels, str) else tuple(labels)
    if isinstance(labels, str) or not all(isinstance(each, str) for each in checked):
        raise TypeError(f'labels must be a tuple of texts such as ("team",), not {labels!r}')
    for place, label in enumerate(checked):
        if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", label):
            raise ValueError(f"{label!r} is no label: use letters, digits and single underscores")
        if label in _TAKEN or label in checked[:place]:
            raise ValueError(f"the label {label!r} is taken already")
    return checked
