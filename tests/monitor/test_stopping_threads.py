"""With real threads: `stop` keeps its timeout, and what it and a monitor at rest leave."""

from __future__ import annotations

import itertools
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import pytest
from support.interrupts import interrupted_at
from support.real_threads import HEALTHY, QUICK, Server, wait_until
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Policy, signals
from tinkex.errors import (
    ApiTimeoutError,
    MonitorStoppedError,
)
from tinkex.testing import FakeServiceClient

# Stopping


def test_stop_leaves_no_thread_of_a_monitor_that_worked(bench):
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    for run_id in (RUN, *HEALTHY):
        monitor.monitor_run(run_id, FakeServiceClient())
    bench.told.wait_for("completed", RUN)

    monitor.stop()

    assert bench.threads() == set()


def test_stop_keeps_to_its_timeout_and_leaves_only_what_hangs_in_a_service_client(bench):
    service = bench.service()
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    handle = monitor.monitor_run(RUN, service)
    wait_until(service.entered)
    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.server.wait_for_poll(OTHER)

    began = monotonic()
    monitor.stop(timeout=0.5)
    took = monotonic() - began

    assert took < PATIENCE / 2
    bench.join(*bench.threads() - service.threads)
    assert bench.threads() == service.threads
    assert handle.state == "stopped"


def test_stop_keeps_to_its_timeout_whatever_hangs(bench):
    blocked, entered = bench.gate(), threading.Event()
    service = bench.service()
    bench.server.hang(OTHER)
    bench.server.corrupt(RUN)
    monitor = bench.monitor()

    def block(sender, *, event):
        entered.set()
        blocked.wait(PATIENCE)

    with signals.subscribe(block, "started", sender=monitor):
        monitor.monitor_run(OTHER, FakeServiceClient())
        monitor.monitor_run(RUN, service)
        wait_until(service.entered)
        wait_until(entered)

        began = monotonic()
        monitor.stop(timeout=1.0)
        took = monotonic() - began

    assert took < PATIENCE / 2


def test_an_attempt_under_way_may_end_before_stop_does(bench):
    service = bench.service()
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    handle = monitor.monitor_run(RUN, service)
    wait_until(service.entered)
    stopping = threading.Thread(target=monitor.stop, args=(PATIENCE,), daemon=True)
    stopping.start()

    service.gate.set()
    bench.join(stopping)

    assert bench.told.names_of(RUN)[-1] == "completed"
    assert handle.client is service.clients[0]
    assert bench.threads() == set()


def test_what_an_attempt_brings_after_stop_is_an_orphan_and_never_published(bench, caplog):
    service = bench.service()
    monitor = bench.monitor()
    handle = monitor.monitor_run(RUN, service)
    future = handle.recover()
    wait_until(service.entered)

    monitor.stop(timeout=0.1)
    told = bench.told.names_of(RUN)
    service.gate.set()
    bench.join(*service.threads)
    [client] = service.clients
    told_of_it = [r for r in caplog.records if client.model_id in r.getMessage()]

    assert isinstance(future.exception(timeout=0), MonitorStoppedError)
    assert [record.levelno for record in told_of_it] == [logging.WARNING]
    assert bench.told.names_of(RUN) == told
    assert handle.client is None


def test_nothing_is_delivered_after_stop_has_returned(bench):
    blocked, entered = bench.gate(), threading.Event()
    called = []

    def receiver(name):
        def receive(sender, *, event):
            called.append((name, event.name))
            entered.set()
            blocked.wait(PATIENCE)

        return receive

    monitor = bench.monitor()
    with (
        signals.subscribe(receiver("one"), "detected", "started", sender=monitor),
        signals.subscribe(receiver("two"), "detected", "started", sender=monitor),
    ):
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(entered)

        monitor.stop(timeout=0.2)
        left = bench.threads()
        blocked.set()
        bench.join(*left)

    assert len(called) == 1


@pytest.mark.parametrize("name", ["swept", "detected", "completed"])
def test_stop_may_be_called_from_a_receiver(bench, name):
    returned = threading.Event()

    def stop(sender, *, event):
        sender.stop(timeout=PATIENCE)
        returned.set()

    monitor = bench.monitor()
    with signals.subscribe(stop, name, sender=monitor):
        began = monotonic()
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(returned)

    assert monotonic() - began < PATIENCE / 2
    assert monitor.is_stopped


def test_stop_may_be_called_from_a_callback(bench):
    returned = threading.Event()

    def on_recovery(old_client, new_client, checkpoint):
        monitor.stop(timeout=PATIENCE)
        returned.set()

    policy = Policy(enabled=True, poll_interval=0.01, on_recovery=on_recovery)
    monitor = bench.monitor(policy)
    began = monotonic()
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    wait_until(returned)

    assert monotonic() - began < PATIENCE / 2
    assert monitor.is_stopped


def test_stop_may_be_called_from_a_service_client_and_from_a_rest_module(bench):
    returned = threading.Semaphore(0)

    class StopsTheMonitor(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            monitor.stop(timeout=PATIENCE)
            returned.release()
            return super().create_training_client_from_state_with_optimizer(path)

    class StopsTheOther(Server):
        def get_training_run(self, config, run_id):
            other.stop(timeout=PATIENCE)
            returned.release()
            return super().get_training_run(config, run_id)

    monitor = bench.monitor()
    other = bench.monitor(rest_module=StopsTheOther())
    began = monotonic()
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, StopsTheMonitor())
    other.monitor_run(OTHER, FakeServiceClient())

    for _ in range(2):
        assert returned.acquire(timeout=PATIENCE)

    assert monotonic() - began < PATIENCE / 2


def test_stop_during_a_backoff_does_not_wait_for_it(bench):
    policy = Policy(enabled=True, poll_interval=0.01, backoff=60.0)
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))
    monitor = bench.monitor(policy)
    handle = monitor.monitor_run(RUN, service)
    future = handle.recover()
    bench.told.wait_for("failed", RUN)

    began = monotonic()
    monitor.stop(timeout=PATIENCE)
    took = monotonic() - began

    assert took < 1.0
    assert isinstance(future.exception(timeout=0), MonitorStoppedError)
    assert bench.threads() == set()


def test_what_waits_for_a_run_is_woken_by_stop(bench):
    bench.server.hang(RUN)
    monitor = bench.monitor()
    handle = monitor.monitor_run(RUN, FakeServiceClient())
    waiting = ThreadPoolExecutor(1)
    waited = waiting.submit(handle.wait, 3 * PATIENCE)

    monitor.stop(timeout=0.1)

    assert isinstance(waited.exception(timeout=PATIENCE), MonitorStoppedError)
    waiting.shutdown()


# Interrupts


def test_a_stop_that_was_interrupted_anywhere_can_be_made_again(bench):
    policy = replace(QUICK, backoff=60.0, max_backoff=60.0)
    for place in itertools.count():
        service = FakeServiceClient()
        service.fail(RuntimeError("no capacity"))
        monitor = bench.monitor(policy, rest_module=Server())
        run = monitor.monitor_run(f"run{place}:train:0", service)
        monitor.monitor_run(OTHER, service)
        future = run.recover()
        bench.told.wait_for("failed", run.run_id)

        was_interrupted = interrupted_at(place, monitor.stop)
        assert monitor.is_stopped or place < 3
        monitor.stop()

        assert monitor.is_stopped
        assert run.state == "stopped"
        assert future.done()
        assert bench.threads() == set(), place
        if not was_interrupted:
            break

    assert place > 20


# Threads as such


def test_every_thread_is_daemon_and_named(bench):
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    service = bench.service()
    service.gate.set()
    for run_id in (RUN, *HEALTHY):
        monitor.monitor_run(run_id, service)

    bench.told.wait_for("completed", RUN)
    threads = bench.threads() | bench.told.threads  # these end as soon as all is told

    assert {thread.name.rstrip("0123456789") for thread in threads} == {
        "tinkex-monitor",
        "tinkex-poll_",
        "tinkex-recovery_",
        "tinkex-signals_",
    }
    assert all(thread.daemon for thread in threads)
    assert {t.name.rpartition("_")[0] for t in bench.server.threads} == {"tinkex-poll"}
    assert {t.name.rpartition("_")[0] for t in service.threads} == {"tinkex-recovery"}
    assert {t.name.rpartition("_")[0] for t in bench.told.threads} == {"tinkex-signals"}


def test_a_monitor_at_rest_has_no_thread(bench):
    monitor = bench.monitor()

    monitor.status()

    assert bench.threads() == set()


def test_the_timer_of_threading_is_a_scheduler(bench):
    service = bench.service()
    service.gate.set()
    monitor = bench.monitor(scheduler=threading.Timer)
    bench.server.corrupt(RUN)
    handle = monitor.monitor_run(RUN, service)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", RUN)
    bench.server.wait_for_more_polls(OTHER)
    threads = bench.threads() | bench.server.threads
    monitor.stop()
    bench.join(*bench.threads())

    assert handle.status().recoveries == 1
    assert {thread.name for thread in bench.server.threads} == {"tinkex-timer"}
    assert all(thread.daemon for thread in threads)


def test_a_timer_of_threading_is_not_left_behind_by_a_poll_that_hung(bench):
    bench.server.hang(RUN)
    monitor = bench.monitor(scheduler=threading.Timer, poll_workers=2)
    monitor.monitor_run(RUN, FakeServiceClient())
    bench.server.wait_for_poll(RUN)

    monitor.stop(timeout=0.1)
    began = monotonic()
    bench.join(*(thread for thread in bench.threads() if thread.name == "tinkex-timer"))

    assert monotonic() - began < 0.5


class Fast:
    """A scheduler whose seconds pass in a fraction of one."""

    FACTOR = 20

    def __call__(self, interval, function):
        return threading.Timer(interval / self.FACTOR, function)

    def now(self):
        return monotonic() * self.FACTOR


def test_a_poll_over_its_bound_is_a_poll_error_even_if_it_never_returns(bench):
    time = Fast()
    bench.server.hang(RUN)
    monitor = bench.monitor(scheduler=time, poll_workers=2)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.monitor_run(OTHER, FakeServiceClient())

    began = time.now()
    error = bench.told.wait_for("poll_error", RUN).error
    took = time.now() - began
    bench.server.wait_for_more_polls(OTHER)

    assert isinstance(error, ApiTimeoutError)
    assert 5.0 <= took < 5.0 + 15.0
    assert monitor.status(RUN).state == "failing"
    assert bench.server.polls[RUN] == 1
