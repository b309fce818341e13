"""With real threads: done-callbacks of our futures run on none of our working threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from time import monotonic

import pytest
from support.real_threads import QUICK, wait_until
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Policy, RecoveryExecutor
from tinkex.runtime import delivery
from tinkex.testing import FakeServiceClient, FakeTrainingClient

WORKING = ("tinkex-monitor", "tinkex-recovery", "tinkex-poll", "tinkex-result", "tinkex-signals")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE", 0.05, raising=False)


class Hung:
    """A done-callback that hangs, and the thread it came on."""

    def __init__(self, bench):
        self.entered, self._gate, self.threads = threading.Event(), bench.gate(), []

    def __call__(self, future):
        self.threads.append(threading.current_thread())
        self.entered.set()
        self._gate.wait(3 * PATIENCE)


def test_a_done_callback_that_hangs_holds_up_no_stop_monitoring(bench):
    service, hung = bench.service(), Hung(bench)
    monitor = bench.monitor()
    run = monitor.monitor_run(RUN, service)
    run.recover().add_done_callback(hung)
    wait_until(service.entered)

    stopping = threading.Thread(target=monitor.stop_monitoring, args=(RUN,), daemon=True)
    stopping.start()

    bench.join(stopping)
    wait_until(hung.entered)
    assert hung.threads[0] is not stopping


@pytest.mark.parametrize("count", [1, 40])
def test_done_callbacks_that_hang_hold_up_no_stop(bench, count):
    service, hung = bench.service(), [Hung(bench) for _ in range(count)]
    executor = RecoveryExecutor(max_concurrent=count)
    bench._stack.callback(executor.shutdown, wait=False)
    monitor = bench.monitor(executor=executor)
    for number, each in enumerate(hung):
        run = monitor.monitor_run(f"{number}:train:0", service)
        run.recover().add_done_callback(each)
    wait_until(service.entered)

    began = monotonic()
    monitor.stop(0.1)
    took = monotonic() - began

    for each in hung:
        wait_until(each.entered)
    assert took < PATIENCE / 2


def test_done_callbacks_that_hang_exhaust_no_healthy_run(bench):
    """As many as there are threads for attempts; the last run is then recovered as any."""
    monitor = bench.monitor()
    for number in range(40):
        service = bench.service()
        future = monitor.monitor_run(f"{number}:train:0", service).recover()
        future.add_done_callback(Hung(bench))
        service.gate.set()
        future.result(PATIENCE)

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", OTHER)


def test_a_done_callback_that_hangs_when_an_attempt_times_out_holds_up_no_timer(bench):
    service, hung = bench.service(), Hung(bench)
    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.05, max_attempts=1)
    monitor = bench.monitor(policy)
    monitor.monitor_run(OTHER, FakeServiceClient())
    monitor.monitor_run(RUN, service).recover().add_done_callback(hung)
    wait_until(hung.entered)

    bench.server.wait_for_more_polls(OTHER)

    assert not hung.threads[0].name.startswith(WORKING)


def test_what_waits_for_the_result_does_not_wait_for_done_callbacks(bench):
    hung = Hung(bench)
    service = bench.service()
    future = bench.monitor().monitor_run(RUN, service).recover()
    future.add_done_callback(hung)
    service.gate.set()

    assert future.result(PATIENCE).run_id == RUN
    wait_until(hung.entered)


def test_done_callbacks_are_called_in_order_and_one_that_raises_stops_none(bench, caplog):
    called, done = [], threading.Event()
    service = bench.service()
    future = bench.monitor().monitor_run(RUN, service).recover()

    def leave(_):
        raise KeyboardInterrupt

    future.add_done_callback(lambda each: called.append(("first", each)))
    future.add_done_callback(leave)
    future.add_done_callback(lambda each: called.append(("second", each)))
    future.add_done_callback(lambda _: done.set())
    service.gate.set()
    wait_until(done)

    assert called == [("first", future), ("second", future)]
    assert "leave failed" in caplog.text


def test_a_done_callback_that_comes_late_is_called_at_once_by_its_caller(bench):
    threads = []
    future = bench.monitor().monitor_run(RUN, FakeServiceClient()).recover()
    future.result(PATIENCE)

    future.add_done_callback(lambda _: threads.append(threading.current_thread()))

    assert threads == [threading.current_thread()]


def test_our_futures_serve_the_standard_library(bench):
    future = bench.monitor().monitor_run(RUN, FakeServiceClient()).recover()

    assert list(as_completed([future], PATIENCE)) == [future]
    assert wait([future], PATIENCE).done == {future}
    assert isinstance(future, Future)
    assert not future.cancel()
    assert asyncio.run(_awaited(future)).run_id == RUN


async def _awaited(future):
    return await asyncio.wrap_future(future)


def test_an_executor_s_done_callbacks_hang_beside_its_recoveries(bench):
    executor = RecoveryExecutor(rest_module=bench.server)
    service, hung, policy = bench.service(), Hung(bench), Policy(enabled=True)
    first = executor.recover(RUN, service, policy)
    first.add_done_callback(hung)
    service.gate.set()
    first.result(PATIENCE)

    assert executor.recover(OTHER, FakeServiceClient(), policy).result(PATIENCE)
    stopping = threading.Thread(target=executor.shutdown, kwargs={"timeout": 0.1}, daemon=True)
    stopping.start()
    bench.join(stopping)


# The futures of segment.client


def test_a_hung_done_callback_of_one_request_keeps_no_other_from_its_end(bench):
    client = FakeTrainingClient(RUN)
    pending = [Future() for _ in range(3)]
    futures = iter(pending)
    client.forward_backward = lambda *_: next(futures)
    run = bench.monitor(QUICK).monitor_run(RUN, FakeServiceClient(), client=client)
    hung = [Hung(bench), Hung(bench)]
    with ThreadPoolExecutor(1) as pool, next(run.segments()) as segment:
        raced = [segment.client.forward_backward([]) for _ in pending]
        for each, future in zip(hung, raced, strict=False):
            future.future().add_done_callback(each)
        answering = pool.submit(pending[0].set_result, "answer")
        answering.result(PATIENCE)
        assert raced[0].result(PATIENCE) == "answer"
        bench.server.corrupt(RUN)
        ended = [future.future().exception(PATIENCE) for future in raced]

    wait_until(hung[0].entered)
    wait_until(hung[1].entered)
    assert [type(error).__name__ for error in ended] == [
        "NoneType",
        *["SegmentSupersededError"] * 2,
    ]
    assert not any(t.name.startswith(WORKING) for each in hung for t in each.threads)


def test_a_monitor_stops_though_a_done_callback_of_a_request_hangs(bench):
    client, hung = FakeTrainingClient(RUN), Hung(bench)
    client.forward_backward = lambda *_: Future()
    service = bench.service()
    monitor = bench.monitor()
    run = monitor.monitor_run(RUN, service, client=client)
    segment = next(run.segments())
    segment.client.forward_backward([]).future().add_done_callback(hung)
    bench.server.corrupt(RUN)
    wait_until(service.entered)

    stopping = threading.Thread(target=monitor.stop, args=(0.1,), daemon=True)
    stopping.start()

    bench.join(stopping)
    wait_until(hung.entered)


# Inline


def test_inline_a_done_callback_is_called_on_the_thread_that_has_the_news(world):
    threads = []
    world.corrupt()
    world.service.fail(ValueError("no"))
    run = world.monitor(backoff=5.0).monitor_run(RUN, world.service)
    future = run.recover()
    future.add_done_callback(lambda _: threads.append(threading.current_thread()))

    world.fake.advance(10)

    assert threads == [threading.current_thread()]
