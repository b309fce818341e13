"""Each scenario of faults passes, and a scrape and an export say of it what the signals said."""

from __future__ import annotations

from collections import Counter

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.recorder import Recorder

from tinkex import signals
from tinkex.exporters import opentelemetry, prometheus
from tinkex.rehearsal.scenarios.catalog import SCENARIOS, play


def expected(events):
    """The figures of both exporters, by the signals alone."""
    sweeps = [event for event in events if event.name == "swept"]
    durations = [event.duration for event in events if event.name == "completed"]
    names = Counter(event.name for event in events)
    causes = Counter(event.cause.value for event in events if event.name == "detected")
    return {
        "events": {name: names[name] for name in signals.EVENTS},
        "detections": {c.value: causes[c.value] for c in signals.Cause if c.is_detected},
        "recoveries": (len(durations), pytest.approx(sum(durations))),
        "sweeps": (len(sweeps), pytest.approx(sum(event.duration for event in sweeps))),
        "requests": sum(event.requests for event in sweeps),
        "errors": sum(event.errors for event in sweeps),
    }


def scraped(registry):
    """The same figures of a scrape's text."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]

    def by(name, label):
        return {s.labels[label]: s.value for s in samples if s.name == name}

    def one(name):
        return next(s.value for s in samples if s.name == name)

    return {
        "events": by("tinkex_events_total", "event"),
        "detections": by("tinkex_detections_total", "cause"),
        "recoveries": (one("tinkex_recovery_seconds_count"), one("tinkex_recovery_seconds_sum")),
        "sweeps": (one("tinkex_sweep_seconds_count"), one("tinkex_sweep_seconds_sum")),
        "requests": one("tinkex_sweep_requests_total"),
        "errors": one("tinkex_sweep_errors_total"),
    }


def exported(reader):
    """The same figures of OpenTelemetry's metrics."""
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    points = {metric.name: metric.data.data_points for metric in metrics}

    def histogram(name):
        (point,) = points.get(name) or [None]
        return (point.count, point.sum) if point else (0, 0)

    return {
        "events": {p.attributes["tinkex.event"]: p.value for p in points["tinkex.events"]},
        "detections": {p.attributes["tinkex.cause"]: p.value for p in points["tinkex.detections"]},
        "recoveries": histogram("tinkex.recovery.duration"),
        "sweeps": histogram("tinkex.sweep.duration"),
        "requests": points["tinkex.sweep.requests"][0].value,
        "errors": points["tinkex.sweep.errors"][0].value,
    }


def spans_of(events):
    """How many spans of each name and outcome there must be."""
    ends = ("completed", "exhausted")
    names = Counter(event.name for event in events)
    roots = {end: names[end] for end in ends if names[end]}
    return roots, names["started"]


def traced(spans):
    roots = [span for span in spans if span.name == "tinkex.recovery"]
    return dict(Counter(r.attributes["tinkex.outcome"] for r in roots)), len(spans) - len(roots)


@pytest.mark.scenario
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scenario_passes_and_the_exporters_equal_the_signals(name):
    registry, reader, spans = CollectorRegistry(), InMemoryMetricReader(), InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    recorder = Recorder()
    with (
        signals.subscribe(recorder),
        prometheus.export(registry=registry),
        opentelemetry.export(meter_provider=MeterProvider([reader]), tracer_provider=tracers),
    ):
        result = play(name, seed=1)
        scrape, export = scraped(registry), exported(reader)

    assert result.passed, result.reason
    assert result.reason
    events = recorder.events
    assert scrape == export == expected(events)
    assert traced(spans.get_finished_spans()) == spans_of(events)
    counts = Counter(event.name for event in events)
    assert counts["detected"] + counts["poll_error"]
    assert counts["swept"]
