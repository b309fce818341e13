"""Metrics and spans of OpenTelemetry: what an incident becomes, and how it always ends."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.events import CHECKPOINT, START, Sender, event, send, told

from tinkex.exporters import opentelemetry
from tinkex.signals import EVENTS, Cause

RUN, NEXT = "3f0c:train:0", "3f0c:train:1"
HOUR = 3600


class Telemetry:
    """Providers of its own, and what came to them."""

    def __init__(self):
        self.reader, self.exported = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters, self.tracers = MeterProvider([self.reader]), TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exported))

    def export(self, **options):
        given = {"meter_provider": self.meters, "tracer_provider": self.tracers, **options}
        return opentelemetry.export(**given)

    def read(self):
        """The data points of all metrics by name."""
        data = self.reader.get_metrics_data()
        found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return {metric.name: metric.data.data_points for metric in found}

    def counts(self, name, attribute):
        return {point.attributes[attribute]: point.value for point in self.read()[name]}

    @property
    def spans(self):
        return self.exported.get_finished_spans()

    @property
    def outcomes(self):
        roots = (span for span in self.spans if span.name == "tinkex.recovery")
        return [root.attributes["tinkex.outcome"] for root in roots]


@pytest.fixture
def telemetry():
    made = Telemetry()
    with made.export():
        yield made


def seconds(nanoseconds):
    """Seconds after the start of the test's events."""
    return nanoseconds / 1e9 - START.timestamp()


def stretch(span):
    return seconds(span.start_time), seconds(span.end_time)


# Metrics


def test_every_event_and_cause_is_there_at_zero_from_the_start(telemetry):
    detected = {cause.value for cause in Cause if cause.is_detected}

    assert telemetry.counts("tinkex.events", "tinkex.event") == dict.fromkeys(EVENTS, 0)
    assert telemetry.counts("tinkex.detections", "tinkex.cause") == dict.fromkeys(detected, 0)
    points = telemetry.read()
    assert [points[f"tinkex.sweep.{each}"][0].value for each in ("requests", "errors")] == [0, 0]


def test_recoveries_and_sweeps_are_counted(telemetry):
    sender = Sender()
    told(sender, "detected", cause=Cause.UNUSABLE)
    told(sender, "completed", duration=0.3)
    told(sender, "swept", 10, runs=3, requests=4, errors=1, duration=0.2)
    told(sender, "swept", 20, runs=2, requests=2, errors=0, duration=0.3)

    points = telemetry.read()
    detected = {p.attributes["tinkex.cause"]: p.value for p in points["tinkex.detections"]}
    events = {p.attributes["tinkex.event"]: p.value for p in points["tinkex.events"]}
    assert (detected["unusable"], events["swept"]) == (1, 2)
    (recovery,), (sweep,) = points["tinkex.recovery.duration"], points["tinkex.sweep.duration"]
    assert (recovery.count, recovery.sum, recovery.explicit_bounds[-1]) == (1, 0.3, 3600)
    assert (sweep.count, sweep.sum, sweep.explicit_bounds[0]) == (2, 0.5, 0.01)
    plain = ("tinkex.sweep.requests", "tinkex.sweep.errors", "tinkex.runs")
    assert [[p.value for p in points[name]] for name in plain] == [[6], [1], [2]]
    assert [p.value for p in points["tinkex.sweep.last_time"]] == [1767312020.0]


# Spans


def test_a_recovery_is_a_span_with_a_child_for_each_attempt(telemetry):
    send(
        Sender(),
        event("detected", 1, cause=Cause.ERROR),
        event("rolled_back", 1),
        event("started", 2, attempt=1),
        event("checkpoint_selected", 3),
        event("failed", 4.5, error=KeyError("lost"), retry_in=5.0),
        event("started", 9, attempt=2),
        event("checkpoint_selected", 10),
        event("client_created", 11),
        event("completed", 12),
    )

    first, second, root = telemetry.spans
    assert (root.name, stretch(root), root.parent) == ("tinkex.recovery", (1, 12), None)
    assert root.attributes == {
        "tinkex.run_id": RUN,
        "tinkex.cause": "error",
        "tinkex.successor_id": NEXT,
        "tinkex.outcome": "completed",
    }
    assert [each.name for each in root.events] == ["rolled_back"]
    assert root.status.status_code is StatusCode.UNSET
    assert [(each.name, stretch(each)) for each in (first, second)] == [
        ("tinkex.attempt", (2, 4.5)),
        ("tinkex.attempt", (9, 12)),
    ]
    assert {each.parent.span_id for each in (first, second)} == {root.context.span_id}
    assert first.status.status_code is StatusCode.ERROR
    assert [each.name for each in first.events] == ["checkpoint_selected", "exception"]
    assert first.events[1].attributes["exception.type"] == "KeyError"
    assert second.status.status_code is StatusCode.UNSET
    selected, created = second.events
    assert selected.attributes == {"tinkex.checkpoint": CHECKPOINT.tinker_path}
    assert created.attributes["tinkex.successor_id"] == NEXT
    assert [seconds(each.timestamp) for each in second.events] == [10, 11]
    assert second.attributes == {"tinkex.run_id": RUN, "tinkex.attempt": 2}


def test_where_nothing_was_detected_it_begins_with_the_first_attempt(telemetry):
    send(Sender(), event("started", 2), event("completed", 3))

    attempt, root = telemetry.spans
    assert stretch(root) == stretch(attempt) == (2, 3)
    assert "tinkex.cause" not in root.attributes


def test_a_monitor_that_is_only_told_of_the_end_has_a_span_as_long_as_the_incident(telemetry):
    told(Sender(), "completed", 10, duration=4.0)

    (root,) = telemetry.spans
    assert stretch(root) == (6, 10)


def test_a_run_that_is_given_up_is_an_error(telemetry):
    send(
        Sender(),
        event("detected", 1),
        event("started", 2),
        event("failed", 3),
        event("exhausted", 3, error=KeyError("no more")),
    )

    _, root = telemetry.spans
    assert telemetry.outcomes == ["exhausted"]
    assert root.status.status_code is StatusCode.ERROR
    assert root.status.description == "'no more'"
    assert [each.attributes["exception.type"] for each in root.events] == ["KeyError"]


def test_a_run_that_another_owner_has_ends_its_incident_and_its_attempt(telemetry):
    send(Sender(), event("detected", 1), event("started", 2), event("fenced", 3))

    assert [stretch(span) for span in telemetry.spans] == [(2, 3), (1, 3)]
    assert telemetry.outcomes == ["fenced"]


def test_an_attempt_whose_end_is_not_told_ends_with_the_next_one(telemetry):
    send(Sender(), event("started", 1), event("started", 5, attempt=2), event("completed", 6))

    assert [stretch(span) for span in telemetry.spans] == [(1, 5), (5, 6), (1, 6)]


def test_what_is_told_outside_an_incident_makes_no_span(telemetry):
    for name in sorted(EVENTS.keys() - {"detected", "started", "completed", "exhausted"}):
        told(Sender(), name)

    assert telemetry.spans == ()


def test_each_monitor_has_incidents_of_its_own(telemetry):
    first, second = Sender(), Sender()
    for sender in (first, second):
        told(sender, "detected", 1)

    told(first, "completed", 2)
    told(second, "exhausted", 3)

    assert telemetry.outcomes == ["completed", "exhausted"]
    assert len({span.context.trace_id for span in telemetry.spans}) == 2


# Incidents whose end is not told


@pytest.fixture
def stopped(telemetry):
    """A monitor whose run was stopped in the middle of an attempt, after three seconds."""
    sender = Sender()
    send(sender, event("detected", 1), event("started", 2), event("checkpoint_selected", 3))
    assert telemetry.spans == ()
    return sender


def assert_ended_at_its_last_event(telemetry):
    assert telemetry.outcomes[:1] == ["unknown"]
    assert [stretch(span) for span in telemetry.spans[:2]] == [(2, 3), (1, 3)]


def test_it_ends_when_the_run_is_found_lost_again(telemetry, stopped):
    told(stopped, "detected", 60)

    assert_ended_at_its_last_event(telemetry)
    told(stopped, "completed", 61)
    assert telemetry.outcomes == ["unknown", "completed"]


def test_it_ends_at_a_sweep_of_any_monitor_an_hour_after(telemetry, stopped):
    told(Sender(), "swept", HOUR + 3)
    assert telemetry.spans == ()

    told(Sender(), "swept", HOUR + 4)

    assert_ended_at_its_last_event(telemetry)


def test_it_ends_at_a_sweep_after_its_monitor_is_gone(telemetry):
    sender = Sender()
    send(sender, event("detected", 1), event("started", 2), event("checkpoint_selected", 3))
    del sender
    gc.collect()

    told(Sender(), "swept", 4)

    assert_ended_at_its_last_event(telemetry)


def test_it_ends_when_the_exporter_is_closed(telemetry, stopped):
    telemetry.export().close()

    assert_ended_at_its_last_event(telemetry)


@pytest.mark.parametrize("name", ["tinkex.recovery", "tinkex.attempt"])
def test_what_begins_while_the_exporter_is_closed_ends_too(telemetry, name):
    begun = []

    class Closing(SpanProcessor):
        def on_start(self, span, parent_context=None):
            begun.append(span)
            if span.name == name:
                telemetry.export().close()

    telemetry.tracers.add_span_processor(Closing())

    told(Sender(), "started", 1)

    assert {span.name for span in begun} == {"tinkex.recovery", "tinkex.attempt"}
    assert [stretch(span) for span in begun] == [(1, 1), (1, 1)]


def outcomes_of(lines):
    """The outcomes of the spans of a process that has a detection and then runs these lines."""
    code = f"""
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from support.events import Sender, told
from tinkex.exporters import opentelemetry

tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
opentelemetry.export(tracer_provider=tracers)
sender = Sender()
told(sender, "detected")
{lines}
"""
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    return re.findall(r'"tinkex.outcome": "(\w+)"', done.stdout)


def test_it_ends_with_the_process():
    assert outcomes_of("") == ["unknown"]


def test_it_does_not_end_with_a_forked_child():
    lines = """
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
told(sender, "completed")
"""
    assert outcomes_of(lines) == ["completed"]


def test_an_account_that_is_held_for_long_goes_on_in_a_second_span(telemetry, stopped):
    told(stopped, "swept", 2 * HOUR)
    send(stopped, event("started", 2 * HOUR + 1), event("completed", 2 * HOUR + 2))

    assert telemetry.outcomes == ["unknown", "completed"]


# Providers


def test_the_global_providers_are_the_default_and_are_the_same_when_they_are_named():
    with opentelemetry.export() as exporter:
        assert opentelemetry.export(meter_provider=metrics.get_meter_provider()) is exporter


def test_without_an_sdk_nothing_fails(caplog):
    with opentelemetry.export():
        for name in EVENTS:
            told(Sender(), name)

    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("shared", ["meter", "tracer"])
def test_a_provider_that_is_in_use_with_another_one_is_refused(telemetry, shared):
    other = {"meter": "tracer", "tracer": "meter"}[shared]
    made = {"meter": MeterProvider, "tracer": TracerProvider}[other]()

    with pytest.raises(ValueError, match=rf"this {shared}_provider is in use .* {other}_provider"):
        telemetry.export(**{f"{other}_provider": made})


def test_times_are_exact_to_the_microsecond(telemetry):
    time = START + timedelta(microseconds=1)
    send(Sender(), event("detected", time=time), event("completed", time=time))

    assert telemetry.spans[0].start_time == 1767312000_000001_000
