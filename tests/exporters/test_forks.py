"""Exporters in forked children, and where they are used while they are being made."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, generate_latest
from support.events import Sender, told
from support.forks import in_child
from support.recorder import PATIENCE

from tinkex.exporters import logging as records
from tinkex.exporters import opentelemetry, prometheus


class Held:
    """Holds up the threads that reach it, until the test is over."""

    def __init__(self):
        self.is_reached, self._gate = threading.Event(), threading.Event()
        self._thread = None

    def by(self, function):
        """Have a thread of its own call it, and wait until that is held up."""
        self._thread = threading.Thread(target=function, daemon=True)
        self._thread.start()
        assert self.is_reached.wait(PATIENCE)

    def here(self):
        if threading.current_thread() is self._thread:
            self.is_reached.set()
            self._gate.wait(PATIENCE)

    def end(self):
        self._gate.set()
        self._thread.join(PATIENCE)

    def in_child(self, function):
        """What a forked child raised that was made meanwhile; then the thread goes on."""
        try:
            return in_child(function)
        finally:
            self.end()


@pytest.fixture
def held():
    made = Held()
    yield made
    made.end()


def slow(held, kind, *arguments):
    """A key that is being looked up for long."""

    class Slow(kind):
        def __hash__(self):
            held.here()
            return super().__hash__()

        __eq__ = kind.__eq__

    return Slow(*arguments)


def test_a_forked_child_exports_although_one_is_being_made(held):
    class Registry(CollectorRegistry):
        def register(self, collector):
            held.here()
            super().register(collector)

    with prometheus.export(registry=CollectorRegistry()) as before:
        held.by(lambda: prometheus.export(registry=Registry()).close())

        def child():
            before.close()
            prometheus.export(registry=CollectorRegistry()).close()

        assert held.in_child(child) == ""


def test_a_forked_child_counts_and_is_scraped_although_a_sweep_is_being_counted(held):
    registry = CollectorRegistry()
    with prometheus.export(registry=registry):
        held.by(lambda: told(slow(held, Sender), "swept"))

        def child():
            sender = Sender()
            told(sender, "swept", runs=7)
            assert "tinkex_runs 7.0" in generate_latest(registry).decode()

        assert held.in_child(child) == ""


def test_a_forked_child_writes_records_although_one_is_being_written(held):
    with records.export(logging.Logger("its")):  # noqa: LOG001 (no other test has it)
        held.by(lambda: told(slow(held, Sender), "missing"))

        assert held.in_child(lambda: told(Sender(), "missing")) == ""


def test_a_forked_child_traces_although_an_incident_begins(held):
    providers = {"meter_provider": MeterProvider(), "tracer_provider": TracerProvider()}
    with opentelemetry.export(**providers):
        held.by(lambda: told(Sender(), "detected", run_id=slow(held, str, "3f0c:train:0")))

        assert held.in_child(lambda: told(Sender(), "detected")) == ""


@pytest.mark.timeout(20)
def test_while_an_exporter_is_being_made_its_thread_may_use_others():
    """As a signal handler does, which closes all before the process ends."""
    other = prometheus.export(registry=CollectorRegistry())

    class Registry(CollectorRegistry):
        def register(self, collector):
            super().register(collector)
            other.close()

    with prometheus.export(registry=Registry()) as made:
        assert prometheus.export(registry=made.registry) is made
