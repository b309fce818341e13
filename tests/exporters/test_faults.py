"""Exporters where values, registries and span processors are at fault."""

from __future__ import annotations

import json
import logging

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from support.events import Sender, event, send, told

from tinkex import signals
from tinkex.exporters import logging as records
from tinkex.exporters import opentelemetry, prometheus


class MuteError(Exception):
    """An error, or a value, without words."""

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.fixture
def kept():
    """All records of a logger that exports events."""
    logger = logging.Logger("kept", logging.DEBUG)  # noqa: LOG001 (one that no other test has)
    found = []
    handler = logging.Handler()
    handler.emit = found.append
    logger.addHandler(handler)
    with records.export(logger):
        yield found


def endless():
    made = {}
    made["again"] = made
    return made


class Secretive:
    """Shows a key."""

    def __repr__(self):
        return "tml-secret"


class MuteText(str):
    """A text without words."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("metadata", "told_as"),
    [
        ({Secretive(): 1, ("a", Secretive()): 2}, {"<Secretive>": 1, "['a', '<Secretive>']": 2}),
        ({"count": -(10**5000)}, {"count": "<int>"}),
        ({"count": 10**300}, {"count": 10**300}),
    ],
    ids=["a key that shows a secret", "a number that JSON refuses", "a large one"],
)
def test_metadata_of_any_kind_is_written(kept, metadata, told_as):
    told(Sender(), "missing", metadata=metadata)

    assert json.loads(json.dumps(kept[0].tinkex))["metadata"] == told_as


@pytest.mark.parametrize(
    "metadata", [endless(), {"it": MuteText("x")}], ids=["holds itself", "a mute text"]
)
def test_metadata_that_cannot_be_written_costs_no_record(kept, metadata):
    told(Sender(), "exhausted", metadata=metadata)

    (record,) = kept
    assert json.loads(json.dumps(record.tinkex))["metadata"] == "<dict>"
    assert record.tinkex["error"]["message"] == "it failed"


def test_an_error_without_words_costs_no_record(kept):
    told(Sender(), "exhausted", error=MuteError())

    assert kept[0].tinkex["error"] == {"type": "MuteError", "message": "MuteError"}


def scraped(value, registry=None):
    registry = registry or CollectorRegistry()
    with prometheus.export(registry=registry, labels=("team",)):
        told(Sender(), "missing", metadata={"team": value})
        return generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("value", "label"),
    [("a\udcff", "a?"), (MuteError(), "<MuteError>"), (3, "3"), (["x"], "['x']")],
)
def test_any_label_value_is_counted_and_can_be_scraped(value, label):
    assert f'tinkex_events_total{{event="missing",team="{label}"}} 1.0' in scraped(value)


def test_a_registry_that_was_emptied_holds_up_no_close():
    class Emptied(CollectorRegistry):
        def unregister(self, collector):
            raise KeyError(collector)

    registry = Emptied()
    exporter = prometheus.export(registry=registry)

    exporter.close()

    assert prometheus.export(registry=CollectorRegistry()).registry is not registry


def test_a_registry_that_refuses_leaves_nothing_behind():
    class Refusing(CollectorRegistry):
        def register(self, collector):
            raise RuntimeError("full")

    before = len(signals.missing.receivers)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="full"):
            prometheus.export(registry=Refusing())

    assert len(signals.missing.receivers) == before


def test_a_sender_that_cannot_be_told_apart_is_refused_and_nothing_is_begun():
    before = len(signals.missing.receivers)

    with pytest.raises(TypeError, match="sender must be"):
        prometheus.export(registry=CollectorRegistry(), sender=set())

    assert len(signals.missing.receivers) == before


@pytest.fixture
def tracers():
    return TracerProvider()


@pytest.fixture
def exporter(tracers):
    with opentelemetry.export(meter_provider=MeterProvider(), tracer_provider=tracers) as made:
        yield made


def test_an_error_without_words_ends_its_spans(tracers, exporter):
    exported = InMemorySpanExporter()
    tracers.add_span_processor(SimpleSpanProcessor(exported))

    send(Sender(), event("detected"), event("started"), event("failed", error=MuteError()))
    told(Sender(), "exhausted", error=MuteError())
    exporter.close()

    assert sorted(each.name for each in exported.get_finished_spans()) == [
        "tinkex.attempt",
        "tinkex.recovery",
        "tinkex.recovery",
    ]


def test_a_clock_that_is_set_back_makes_no_span_of_negative_length(tracers, exporter):
    exported = InMemorySpanExporter()
    tracers.add_span_processor(SimpleSpanProcessor(exported))
    sender = Sender()

    for run_id, names in {"a": ("failed", "exhausted"), "b": ("completed",)}.items():
        send(sender, *(event(each, 100, run_id=run_id) for each in ("detected", "started")))
        send(sender, *(event(each, -3600, run_id=run_id) for each in names))
    told(sender, "completed", duration=-5.0)

    spans = exported.get_finished_spans()
    assert len(spans) == 5
    assert min(each.end_time - each.start_time for each in spans) == 0


def test_a_processor_that_raises_keeps_no_span_open(tracers, exporter, caplog):
    ended = []

    class Raising(SpanProcessor):
        def on_end(self, span):
            ended.append(span.name)
            raise RuntimeError("no")

    tracers.add_span_processor(Raising())
    for number in range(3):
        send(Sender(), *(event(name, run_id=f"r{number}") for name in ("detected", "started")))

    exporter.close()

    assert sorted(ended) == ["tinkex.attempt"] * 3 + ["tinkex.recovery"] * 3


def test_a_meter_that_fails_keeps_no_span_open(tracers, monkeypatch):
    exported = InMemorySpanExporter()
    tracers.add_span_processor(SimpleSpanProcessor(exported))
    meters = MeterProvider()
    sender = Sender()
    with opentelemetry.export(meter_provider=meters, tracer_provider=tracers) as made:
        send(sender, event("detected"), event("started"))
        monkeypatch.setattr(made._metrics, "count", lambda *_: raised(RuntimeError("full")))
        send(sender, event("completed"))

        names = [each.name for each in exported.get_finished_spans()]
        assert names == ["tinkex.attempt", "tinkex.recovery"]


def raised(error):
    raise error
