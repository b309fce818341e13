"""With real threads: receivers and callbacks that hang or exit silence nobody."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
from support.real_threads import QUICK, wait_until
from support.recorder import PATIENCE, Recorder
from support.world import OTHER, RUN

from tinkex import Monitor, signals
from tinkex.runtime import delivery
from tinkex.testing import FakeServiceClient

#: What a caller's own code may end with, beside errors.
EXITS = [KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError, ValueError]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE", 0.05, raising=False)


class Hanging:
    """Receivers that hang on a gate, as many as are asked for; they are kept by `subscriptions`."""

    def __init__(self, bench, count, *names, sender):
        self.gate = bench.gate()
        self.entered = [threading.Event() for _ in range(count)]
        self.told = [[] for _ in range(count)]
        for number in range(count):
            subscription = signals.subscribe(self._receiver(number), *names, sender=sender)
            bench._stack.callback(subscription.close)

    def _receiver(self, number):
        def hung_receiver(sender, *, event):
            self.entered[number].set()
            self.gate.wait(3 * PATIENCE)
            self.told[number].append(event)

        return hung_receiver


def quiet_monitor(bench, **policy):
    """A monitor that polls once, when it is told to, and whose recorder comes last."""
    monitor = Monitor(
        replace(QUICK, poll_interval=3600.0, **policy), rest_module=bench.server
    ).start()
    bench._stack.callback(monitor.stop, 0.0)
    return monitor


@pytest.mark.parametrize("count", [1, 33, 1000])
def test_receivers_that_hang_keep_no_event_and_no_callback_from_others(bench, impatient, count):
    called = threading.Event()
    monitor = quiet_monitor(bench, on_recovery=lambda *_: called.set())
    hanging = Hanging(bench, count, sender=monitor)
    bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
    bench.server.corrupt(RUN, OTHER)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.monitor_run(OTHER, FakeServiceClient())

    monitor.poll_now()
    bench.told.wait_for("completed", RUN)
    bench.told.wait_for("completed", OTHER)
    wait_until(called)

    assert bench.told.names_of(RUN) == RECOVERY
    assert len(bench.threads()) < count + 2 * delivery.LANES_AT_ONCE + 16
    hanging.gate.set()


RECOVERY = ["detected", "started", "checkpoint_selected", "client_created", "completed"]


def test_one_receiver_that_hangs_for_many_runs_has_few_threads(bench, impatient):
    monitor = quiet_monitor(bench)
    hanging = Hanging(bench, 1, "detected", sender=monitor)
    bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
    runs = [f"{number}:train:0" for number in range(200)]
    bench.server.corrupt(*runs)
    for run_id in runs:
        monitor.monitor_run(run_id, FakeServiceClient())

    monitor.poll_now()
    for run_id in runs:
        bench.told.wait_for("completed", run_id)

    assert len(bench.threads()) < 3 * delivery.LANES_AT_ONCE + 16
    assert all(bench.told.names_of(run_id) == RECOVERY for run_id in runs)
    hanging.gate.set()


def test_a_receiver_that_comes_back_gets_all_that_it_missed_in_order(bench, impatient):
    monitor = quiet_monitor(bench)
    hanging = Hanging(bench, 1, sender=monitor)
    bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())

    monitor.poll_now()
    bench.told.wait_for("completed", RUN)
    hanging.gate.set()
    monitor.stop(PATIENCE)

    told = [event.name for event in hanging.told[0] if event.run_id == RUN]
    assert told == RECOVERY


def test_a_receiver_that_hangs_is_named_once_in_the_log_as_an_error(bench, impatient, caplog):
    monitor = quiet_monitor(bench)
    hanging = Hanging(bench, 1, sender=monitor)
    bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
    bench.server.corrupt(RUN, OTHER)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.monitor_run(OTHER, FakeServiceClient())

    monitor.poll_now()
    bench.told.wait_for("completed", RUN)
    bench.told.wait_for("completed", OTHER)
    hanging.gate.set()
    monitor.stop(PATIENCE)

    told = [r for r in caplog.records if "hung_receiver" in r.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]


def test_callbacks_that_hang_for_many_runs_are_still_called_for_the_next(bench, impatient):
    gate, called = bench.gate(), set()

    def on_recovery(old_client, new_client, checkpoint):
        called.add(checkpoint.tinker_path)
        if RUN not in checkpoint.tinker_path:
            gate.wait(3 * PATIENCE)

    monitor = quiet_monitor(bench, on_recovery=on_recovery)
    bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
    runs = [f"{number}:train:0" for number in range(40)]
    bench.server.corrupt(*runs)
    for run_id in runs:
        monitor.monitor_run(run_id, FakeServiceClient())
    monitor.poll_now()
    for run_id in runs:
        bench.told.wait_for("completed", run_id)

    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.poll_now()
    bench.told.wait_for("completed", RUN)
    monitor.stop(1.0)

    assert len(called) == 41


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("name", [*RECOVERY, "swept"])
def test_an_exit_in_a_receiver_is_logged_and_all_else_goes_on(bench, caplog, kind, name):
    called = threading.Event()

    def leaving_receiver(sender, *, event):
        raise kind

    monitor = quiet_monitor(bench, on_recovery=lambda *_: called.set())
    with signals.subscribe(leaving_receiver, name, sender=monitor):
        bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())
        monitor.poll_now()
        bench.told.wait_for("completed", RUN)
        bench.told.wait_for("swept")
        wait_until(called)

    assert bench.told.names_of(RUN) == RECOVERY
    assert f"leaving_receiver of signal {name} failed" in caplog.text


@pytest.mark.parametrize("kind", EXITS)
def test_an_exit_in_a_callback_is_logged_and_the_next_is_called(bench, caplog, kind):
    called = []

    def on_recovery(*_):
        called.append(1)
        raise kind

    monitor = quiet_monitor(bench, on_recovery=on_recovery)
    bench._stack.enter_context(signals.subscribe(bench.told, sender=monitor))
    bench.server.corrupt(RUN)
    run = monitor.monitor_run(RUN, FakeServiceClient())
    monitor.poll_now()
    bench.told.wait_for("completed", RUN)
    run.recover().result(PATIENCE)
    monitor.stop(PATIENCE)

    assert called == [1, 1]
    assert "on_recovery failed" in caplog.text


def test_a_stop_waits_for_no_more_than_its_timeout_beside_receivers_that_left(bench):
    def leaving_receiver(sender, *, event):
        raise KeyboardInterrupt

    monitor = quiet_monitor(bench)
    with signals.subscribe(leaving_receiver, sender=monitor):
        bench.server.corrupt(RUN)
        run = monitor.monitor_run(RUN, FakeServiceClient())
        run.recover().result(PATIENCE)
        stopping = threading.Thread(target=monitor.stop, args=(3 * PATIENCE,), daemon=True)
        stopping.start()
        bench.join(stopping)


# Inline


def test_an_interrupt_of_the_caller_loses_nothing_that_was_queued(world):
    called = []
    world.corrupt()
    monitor = world.monitor(on_recovery=lambda *_: called.append("on_recovery"))
    run = monitor.monitor_run(RUN, world.service, client="first")

    def interrupted(sender, *, event):
        raise KeyboardInterrupt

    later = Recorder()
    first = signals.subscribe(interrupted, "client_created", sender=monitor)
    with first, signals.subscribe(later, sender=monitor):
        with pytest.raises(KeyboardInterrupt):
            run.recover()
        world.fake.advance(10)

    assert later.names_of(RUN) == RECOVERY[1:]
    assert called == ["on_recovery"]


def test_a_cancellation_in_an_inline_callback_does_not_reach_the_caller(world, caplog):
    def on_failure(run_id, error):
        raise CancelledError

    world.corrupt()
    world.service.fail(ValueError("no"), times=9)
    run = world.monitor(on_failure=on_failure, max_attempts=1).monitor_run(RUN, world.service)
    world.fake.advance(60)

    assert run.state == "exhausted"
    assert "on_failure failed" in caplog.text
