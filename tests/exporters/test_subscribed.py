"""What all exporters have in common: whom they count, cells that are run again, and their end."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from support.events import Sender, told
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import signals
from tinkex.exporters import logging as records
from tinkex.exporters import opentelemetry, prometheus


class Prometheus:
    """Exports to a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()

    def export(self, **options):
        return prometheus.export(registry=self.registry, **options)

    def count(self, name="missing"):
        found = self.registry.get_sample_value("tinkex_events_total", {"event": name})
        return int(found or 0)


class OpenTelemetry:
    """Exports to providers of its own."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.meters, self.tracers = MeterProvider([self.reader]), TracerProvider()

    def export(self, **options):
        return opentelemetry.export(
            meter_provider=self.meters, tracer_provider=self.tracers, **options
        )

    def count(self, name="missing"):
        metrics = self.reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        points = next(m.data.data_points for m in metrics if m.name == "tinkex.events")
        return next(p.value for p in points if p.attributes["tinkex.event"] == name)


class Logging(logging.Handler):
    """Exports to a logger of its own."""

    def __init__(self):
        super().__init__()
        self.logger = logging.Logger("its", logging.DEBUG)  # noqa: LOG001 (no other test has it)
        self.logger.addHandler(self)
        self.records = []

    def emit(self, record):
        self.records.append(record.tinkex["event"])

    def export(self, **options):
        return records.export(self.logger, **options)

    def count(self, name="missing"):
        return self.records.count(name)


@pytest.fixture(params=[Prometheus, OpenTelemetry, Logging])
def target(request):
    made = request.param()
    yield made
    made.export().close()


def receivers():
    return len(signals.missing.receivers)


def test_without_a_sender_all_monitors_are_counted(target):
    target.export()

    told(Sender(), "missing")
    told(Sender(), "missing")

    assert target.count() == 2


def test_with_a_sender_that_one_alone_is_counted(target):
    mine, other = Sender(), Sender()
    target.export(sender=mine)

    told(mine, "missing")
    told(other, "missing")

    assert target.count() == 1


def test_a_run_is_no_sender(target, world):
    run = world.monitor().monitor_run(RUN, world.service)

    with pytest.raises(TypeError, match="sender must be a"):
        target.export(sender=run)


def test_a_cell_that_is_run_again_doubles_nothing(target):
    mine = Sender()

    first, again = target.export(sender=mine), target.export(sender=mine)
    told(mine, "missing")

    assert first is again
    assert target.count() == 1


def test_a_new_monitor_of_the_same_cell_is_counted_as_well(target):
    before, after = Sender(), Sender()

    for sender in (before, after):
        target.export(sender=sender)
    for sender in (before, after, Sender()):
        told(sender, "missing")

    assert target.count() == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["one, then all", "all, then one"])
def test_all_and_one_of_them_together_count_it_once(target, order):
    mine = Sender()
    for place in order:
        target.export(sender=(mine, None)[place])

    told(mine, "missing")
    told(Sender(), "missing")

    assert target.count() == 2


def test_close_ends_it_and_it_can_be_closed_twice_and_begun_again(target):
    before = receivers()
    exporter = target.export()
    told(Sender(), "failed")

    exporter.close()
    exporter.close()
    told(Sender(), "missing")
    assert receivers() == before

    with target.export() as anew:
        assert anew is not exporter
        told(Sender(), "missing")
        assert target.count() == 1
    assert receivers() == before


def test_the_close_of_an_old_one_does_not_end_the_new_one(target):
    old = target.export()
    old.close()
    target.export()

    old.close()
    told(Sender(), "missing")

    assert target.count() == 1


def test_an_exporter_keeps_no_monitor_alive(target):
    import gc
    import weakref

    sender = Sender()
    target.export(sender=sender)
    for name in ("swept", "poll_error", "detected", "started"):
        told(sender, name)
    gone = weakref.ref(sender)

    del sender
    gc.collect()

    assert gone() is None


@pytest.mark.parametrize("sender", ["a", 3, ("a",)])
def test_what_cannot_be_a_sender_is_refused_and_nothing_is_begun(target, sender):
    before = receivers()

    with pytest.raises(TypeError, match=r"sender must be a tinkex.Monitor.*, not"):
        target.export(sender=sender)

    assert receivers() == before


def test_many_threads_and_two_monitors_are_counted_exactly(target):
    each, threads = 25, 64
    senders = (Sender(), Sender())
    target.export(sender=senders[0])
    ready = threading.Barrier(threads, timeout=PATIENCE)
    errors = []

    def work(number):
        try:
            ready.wait()
            for count in range(each):
                told(senders[number % 2], "missing", run_id=f"run-{number}")
                told(senders[number % 2], "detected", run_id=f"run-{number}")
                told(senders[number % 2], "completed", run_id=f"run-{number}")
                if number % 8 == 0 and count % 5 == 0:
                    target.export(sender=senders[number % 16 == 0])
        except Exception as error:
            errors.append(error)

    target.export(sender=senders[1])
    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)

    assert errors == []
    assert [target.count(name) for name in ("missing", "detected", "completed")] == [
        threads * each
    ] * 3


def test_events_that_come_while_it_is_closed_and_begun_again_raise_nothing(target, caplog):
    threads = 16
    sender = Sender()
    ready = threading.Barrier(threads + 1, timeout=PATIENCE)
    is_over = threading.Event()
    errors = []

    def tell(number):
        try:
            ready.wait()
            while not is_over.is_set():
                for name in ("detected", "started", "failed", "exhausted", "swept"):
                    told(sender, name, run_id=f"run-{number}")
        except Exception as error:
            errors.append(error)

    def close():
        try:
            ready.wait()
            for _ in range(20):
                with target.export(sender=sender):
                    told(sender, "missing")
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=tell, args=(n,), daemon=True) for n in range(threads)]
    closer = threading.Thread(target=close, daemon=True)
    for worker in (*workers, closer):
        worker.start()
    closer.join(PATIENCE)
    is_over.set()
    for worker in workers:
        worker.join(PATIENCE)

    assert errors == []
    assert not closer.is_alive()
    # A receiver that raises is logged, with where it did.
    logged = [record for record in caplog.records if record.name.startswith("tinkex")]
    assert [record.getMessage() for record in logged if record.exc_info] == []
