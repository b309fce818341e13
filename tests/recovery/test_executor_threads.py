"""With real threads: pools that are full or shut down, and attempts that hang."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic

from support.interrupts import interrupted_at
from support.real_threads import QUICK, path_of, wait_until
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Policy, RecoveryExecutor, signals
from tinkex.errors import (
    AttemptTimeoutError,
    MonitorStoppedError,
)
from tinkex.testing import FakeServiceClient, InlineExecutor

# The executor


def test_a_pool_that_is_shut_down_costs_the_recovery_and_not_the_run(bench):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monitor = bench.monitor(executor=pool)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.monitor_run(OTHER, FakeServiceClient())

    exhausted = bench.told.wait_for("exhausted", RUN)
    bench.server.wait_for_more_polls(OTHER)

    assert "after shutdown" in str(exhausted.error)
    assert {status.run_id for status in monitor.status()} == {RUN, OTHER}


def test_a_pool_that_is_full_is_asked_again_until_it_has_room(bench):
    class FullAtFirst(ThreadPoolExecutor):
        refused = 0

        def submit(self, function, /, *args, **kwargs):
            if self.refused < 2:
                self.refused += 1
                raise queue.Full
            return super().submit(function, *args, **kwargs)

    with FullAtFirst(1) as pool:
        monitor = bench.monitor(executor=pool)
        bench.server.corrupt(RUN)
        handle = monitor.monitor_run(RUN, FakeServiceClient())

        bench.told.wait_for("completed", RUN)

        assert [type(event.error) for event in bench.told.of("failed")] == [queue.Full] * 2
        assert handle.status().recoveries == 1


def test_an_attempt_that_hangs_gives_its_slot_back_and_what_it_brings_is_an_orphan(bench, caplog):
    service = bench.service()
    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.05, max_attempts=1)
    monitor = bench.monitor(policy)
    bench.server.corrupt(RUN, OTHER)
    handle = monitor.monitor_run(RUN, service)
    wait_until(service.entered)

    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.told.wait_for("completed", OTHER)
    failed = bench.told.wait_for("exhausted", RUN)
    service.gate.set()
    monitor.stop()
    bench.join(*service.threads)
    [client] = service.clients
    told_of_it = [r for r in caplog.records if client.model_id in r.getMessage()]

    assert isinstance(failed.error, AttemptTimeoutError)
    assert handle.client is None
    assert bench.told.of("client_created", RUN) == bench.told.of("completed", RUN) == []
    assert [record.levelno for record in told_of_it] == [logging.WARNING]
    assert handle.lineage[0].orphans == (client.model_id,)


def test_attempts_that_hang_stop_no_other_recovery(bench):
    services = [bench.service() for _ in range(4)]
    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.05, max_attempts=1)
    monitor = bench.monitor(policy)
    for number, service in enumerate(services):
        bench.server.corrupt(f"hung:train:{number}")
        monitor.monitor_run(f"hung:train:{number}", service)
    for number in range(len(services)):
        bench.told.wait_for("exhausted", f"hung:train:{number}")

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", OTHER)


def test_a_pool_whose_workers_all_hang_is_told_of_and_goes_on_when_one_returns(bench, caplog):
    service = bench.service()
    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.05, max_attempts=1)
    with ThreadPoolExecutor(1) as pool:
        monitor = bench.monitor(policy, executor=pool)
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, service)
        bench.told.wait_for("exhausted", RUN)

        bench.server.corrupt(OTHER)
        monitor.monitor_run(OTHER, FakeServiceClient())
        bench.told.wait_for("detected", OTHER)
        names_before = bench.told.names_of(OTHER)
        service.gate.set()
        bench.told.wait_for("completed", OTHER)
        monitor.stop()

    assert names_before == ["detected"]
    [error] = [r for r in caplog.records if r.levelno == logging.ERROR and "hang" in r.getMessage()]
    assert RUN in error.getMessage()


def test_an_exit_in_an_executor_ends_neither_the_loop_nor_the_run(bench):
    class Exits(ThreadPoolExecutor):
        submitted = 0

        def submit(self, function, /, *args, **kwargs):
            self.submitted += 1
            if self.submitted == 2:
                raise SystemExit(3)
            return super().submit(function, *args, **kwargs)

    policy = Policy(
        enabled=True, poll_interval=0.01, backoff=0.01, max_backoff=0.02, attempt_timeout=0.1
    )
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))
    with Exits(1) as pool:
        monitor = bench.monitor(policy, executor=pool)
        bench.server.corrupt(RUN)
        handle = monitor.monitor_run(RUN, service)
        monitor.monitor_run(OTHER, FakeServiceClient())

        bench.told.wait_for("completed", RUN)
        bench.server.wait_for_more_polls(OTHER)

        assert pool.submitted == 3
        assert handle.status().recoveries == 1


# An executor of one's own


def policy_for(path):
    return Policy(enabled=True, backoff=0.01, max_backoff=0.02, checkpoint_strategy=path)


def test_shutting_an_executor_down_leaves_no_thread(bench):
    executor = RecoveryExecutor(rest_module=bench.server)
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))

    future = executor.recover(RUN, service, policy_for(path_of(RUN)))
    event = future.result(timeout=PATIENCE)
    names = {thread.name.rpartition("_")[0] or thread.name for thread in bench.threads()}
    executor.shutdown()

    assert event.client is service.clients[0]
    assert names - {"tinkex-signals"} == {"tinkex-executor", "tinkex-recovery"}
    assert bench.threads() == set()


def test_what_an_executor_did_is_told_before_its_shutdown_returns(bench):
    gate = bench.gate()
    executor = RecoveryExecutor(rest_module=bench.server)

    def block(sender, *, event):
        gate.wait(PATIENCE)

    with (
        signals.subscribe(block, "started", sender=executor),
        signals.subscribe(bench.told, sender=executor),
    ):
        future = executor.recover(RUN, FakeServiceClient(), policy_for(path_of(RUN)))
        future.result(timeout=PATIENCE)
        stopping = threading.Thread(target=executor.shutdown, kwargs={"timeout": PATIENCE})
        stopping.start()
        gate.set()
        bench.join(stopping)

    assert bench.told.names_of(RUN)[-1] == "completed"


def test_shutting_an_executor_down_abandons_an_attempt_that_hangs(bench):
    service = bench.service()
    executor = RecoveryExecutor(rest_module=bench.server)
    future = executor.recover(RUN, service, policy_for(path_of(RUN)))
    wait_until(service.entered)

    began = monotonic()
    executor.shutdown(timeout=0.1)
    took = monotonic() - began

    assert took < 2.0
    assert isinstance(future.exception(timeout=0), MonitorStoppedError)
    assert bench.threads() == service.threads


# Interrupts of the caller


def test_an_interrupt_anywhere_in_recover_holds_up_no_other_recovery(bench):
    service = FakeServiceClient()
    for place in itertools.count():
        executor = RecoveryExecutor(rest_module=bench.server)
        recover = partial(executor.recover, f"run{place}:train:0", service, QUICK)

        was_interrupted = interrupted_at(place, recover)
        executor.recover(OTHER, service, QUICK).result(timeout=PATIENCE)
        executor.shutdown()
        if not was_interrupted:
            break

    assert place > 20


def test_an_interrupt_before_an_attempt_takes_no_slot_where_there_are_no_threads(world):
    world.corrupt(OTHER)
    for place in itertools.count():
        run_id = f"run{place}:train:0"
        executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)

        interrupted_at(place, partial(executor.recover, run_id, world.service, QUICK))
        if world.events.of("started", run_id):
            break
        assert executor.recover(OTHER, world.service, QUICK).done()
        executor.shutdown()

    assert place > 20


def test_a_recovery_begins_where_no_thread_can_be_had_for_it(bench, monkeypatch):
    service = bench.service()
    service.gate.set()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "tinkex-call":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    executor = RecoveryExecutor(rest_module=bench.server)

    assert executor.recover(RUN, service, QUICK).result(timeout=PATIENCE)
    executor.shutdown()
