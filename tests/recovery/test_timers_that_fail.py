"""Timers that cannot be had: no run stays in the middle of a recovery, no slot is lost."""

from __future__ import annotations

import threading

import pytest
from support.real_threads import QUICK
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Monitor, Policy
from tinkex.polling.sweeper import STRAGGLER
from tinkex.testing import FakeScheduler, FakeServiceClient

#: So rare that sweeps come only when they are asked for.
SELDOM = Policy(enabled=True, poll_interval=1000.0)


class Unlucky:
    """Starts threads, but not the n-th whose name begins like this."""

    def __init__(self, monkeypatch, prefix):
        self._start, self._prefix, self.left = threading.Thread.start, prefix, 0
        self._lock = threading.Lock()

        def start(thread):
            self._started(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    def _started(self, thread):
        with self._lock:
            is_counted = thread.name.startswith(self._prefix)
            self.left -= is_counted
            fails = is_counted and self.left == 0
        if fails:
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.mark.parametrize(
    ("scheduler", "prefix"),
    [(threading.Timer, "tinkex-timer"), (threading.Timer, "tinkex-"), (None, "tinkex-")],
)
@pytest.mark.parametrize("number", range(1, 16))
def test_one_thread_that_cannot_be_started_costs_no_run(
    bench, monkeypatch, scheduler, prefix, number
):
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))
    bench.server.corrupt(RUN, OTHER)
    monitor = bench.monitor(QUICK, scheduler=scheduler)
    unlucky = Unlucky(monkeypatch, prefix)

    unlucky.left = number
    monitor.monitor_run(RUN, service)
    monitor.monitor_run(OTHER, FakeServiceClient())
    monitor.monitor_run("healthy:train:0", FakeServiceClient())
    bench.told.wait_for("completed", RUN)
    bench.told.wait_for("completed", OTHER)

    bench.server.wait_for_more_polls("healthy:train:0", 3)


@pytest.mark.parametrize("number", range(1, 12))
def test_a_scheduler_that_raises_once_leaves_no_run_recovering(world, number):
    class Raises(FakeScheduler):
        left = 0

        def __call__(self, interval, function):
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("no timer")
            return super().__call__(interval, function)

    world.fake = Raises()
    world.corrupt()
    world.corrupt(OTHER)
    world.service.fail(ConnectionResetError(), times=2)
    world.corrupt("third:train:0")
    monitor = world.monitor(backoff=1.0)
    runs = [monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER)]
    futures = [run.recover() for run in runs[:1]]

    world.fake.left = number
    world.fake.advance(3600)
    futures += [run.recover() for run in runs if run.state == "exhausted"]
    world.fake.advance(3600)

    assert all(future.done() for future in futures)
    assert {str(run.state) for run in runs} <= {"healthy", "exhausted"}
    assert monitor.monitor_run("third:train:0", world.service).recover().result(PATIENCE)


@pytest.mark.parametrize("workers", [0, 8])
@pytest.mark.parametrize("number", range(1, 7))
def test_a_scheduler_that_raises_once_ends_no_polls(bench, number, workers):
    left = iter(range(number - 1, -1000000, -1))

    def scheduler(interval, function):
        if next(left) == 0:
            raise RuntimeError("no timer")
        return threading.Timer(interval, function)

    monitor = bench.monitor(QUICK, scheduler=scheduler, poll_workers=workers)
    monitor.monitor_run(RUN, FakeServiceClient())

    bench.server.wait_for_more_polls(RUN, 5)
    bench.server.wait_for_more_polls(RUN, 5)


def test_a_request_that_hangs_ends_its_sweep_though_the_scheduler_raised(bench):
    gate, fails = bench.gate(), threading.Event()

    class Hangs:
        def get_training_run(self, config, run_id):
            gate.wait(3 * PATIENCE)
            return {"training_run_id": run_id}

    def scheduler(interval, function):
        if fails.is_set() and interval <= STRAGGLER:
            raise RuntimeError("no timer")
        return threading.Timer(interval, function)

    monitor = Monitor(SELDOM, rest_module=Hangs(), scheduler=scheduler, poll_workers=8).start()
    bench._stack.callback(monitor.stop, 0.0)
    monitor.monitor_run(RUN, FakeServiceClient())
    fails.set()
    polling = threading.Thread(target=monitor.poll_now, daemon=True)
    polling.start()

    bench.join(polling)
    assert monitor.status(RUN).state == "healthy"
