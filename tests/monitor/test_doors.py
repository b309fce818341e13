"""With real threads: foreign code that hangs, at each door that it has, holds up nobody."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from types import SimpleNamespace

import pytest
import tenacity
from support.real_threads import QUICK, Server, wait_until
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Config, Policy, RecoveryExecutor
from tinkex.errors import MonitorStoppedError
from tinkex.testing import FakeServiceClient, FakeTrainingClient

HEALTHY = "healthy:train:0"

#: Under which an attempt is given up soon.
HASTY = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.2, max_attempts=1)


class Door:
    """Where foreign code hangs, until the test ends."""

    def __init__(self, bench):
        self.entered, self._gate, self.threads = threading.Event(), bench.gate(), set()

    def __call__(self, *_, **__):
        self.threads.add(threading.current_thread().name.rpartition("_")[0])
        self.entered.set()
        self._gate.wait(3 * PATIENCE)


@pytest.fixture
def door(bench):
    return Door(bench)


def two_at_once(bench):
    executor = RecoveryExecutor(max_concurrent=2)
    bench._stack.callback(executor.shutdown, wait=False)
    return executor


def nobody_waits(bench, monitor, door, *, recovers=True):
    """With the door entered: polls, other recoveries, `stop_monitoring` and `stop` go on."""
    wait_until(door.entered)
    monitor.monitor_run(HEALTHY, FakeServiceClient())
    bench.server.wait_for_more_polls(HEALTHY, 3)
    if recovers:
        bench.server.corrupt(OTHER)
        monitor.monitor_run(OTHER, FakeServiceClient())
        bench.told.wait_for("completed", OTHER)
    for end in (lambda: monitor.stop_monitoring(RUN), lambda: monitor.stop(0.1)):
        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        bench.join(ending)
    assert "tinkex-monitor" not in door.threads


class Fast:
    """A scheduler whose seconds pass in a fraction of one."""

    FACTOR = 20

    def __call__(self, interval, function):
        return threading.Timer(interval / self.FACTOR, function)

    def now(self):
        return monotonic() * self.FACTOR


class BadTextError(RuntimeError):
    """An error whose texts hang."""

    def __init__(self, door):
        super().__init__("no")
        self.door = door

    def __str__(self):
        self.door()
        return "no"

    __repr__ = __str__


# Executors


class Blocks(ThreadPoolExecutor):
    """An executor that takes the job of one run only when it is let go."""

    def __init__(self, door):
        super().__init__(4)
        self.door = door

    def submit(self, function, /, *args, **kwargs):
        if args and args[0].request.run_id == RUN:
            self.door()
        return super().submit(function, *args, **kwargs)


@pytest.mark.parametrize("asked", [True, False])
def test_an_executor_whose_submit_blocks(bench, door, asked):
    with Blocks(door) as pool:
        monitor = bench.monitor(executor=pool)
        if asked:
            run = monitor.monitor_run(RUN, FakeServiceClient())
            asking = threading.Thread(target=run.recover, daemon=True)
            asking.start()
            bench.join(asking)
        else:
            bench.server.corrupt(RUN)
            monitor.monitor_run(RUN, FakeServiceClient())

        nobody_waits(bench, monitor, door)
        door._gate.set()


def test_a_submit_that_blocks_when_an_attempt_is_made_again(bench, door):
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))

    class BlocksLater(Blocks):
        submitted = 0

        def submit(self, function, /, *args, **kwargs):
            self.submitted += 1
            if self.submitted == 1:
                return ThreadPoolExecutor.submit(self, function, *args, **kwargs)
            return super().submit(function, *args, **kwargs)

    with BlocksLater(door) as pool:
        monitor = bench.monitor(executor=pool)
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, service)

        nobody_waits(bench, monitor, door)
        door._gate.set()


def test_a_run_whose_executor_never_takes_its_attempt_is_given_up(bench, door):
    with Blocks(door) as pool:
        monitor = bench.monitor(HASTY, executor=pool)
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())

        bench.told.wait_for("exhausted", RUN)
        door._gate.set()


class SlowToCancel(Future):
    """A future whose `cancel` hangs."""

    door = None

    def cancel(self):
        self.door()
        return False


@pytest.mark.parametrize("end", ["stop_monitoring", "time out"])
def test_an_executor_whose_futures_hang_as_they_are_cancelled(bench, door, end):
    class Pool(ThreadPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            if args and args[0].request.run_id == RUN:
                made = SlowToCancel()
                made.door = door
                made.set_running_or_notify_cancel()
                return made
            return super().submit(function, *args, **kwargs)

    with Pool(4) as pool:
        monitor = bench.monitor(HASTY if end == "time out" else QUICK, executor=pool)
        run = monitor.monitor_run(RUN, FakeServiceClient())
        run.recover()
        if end == "stop_monitoring":
            stopping = threading.Thread(target=run.stop, daemon=True)
            stopping.start()
            bench.join(stopping)

        nobody_waits(bench, monitor, door)
        door._gate.set()


@pytest.mark.parametrize("hangs", [True, False])
def test_an_executor_whose_futures_hang_or_raise_as_they_are_asked(bench, door, hangs):
    class Asked(Future):
        def running(self):
            if hangs:
                door()
            raise NotImplementedError

    class Pool(ThreadPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            return Asked()

    with Pool(1) as pool:
        monitor = bench.monitor(HASTY, executor=pool)
        monitor.monitor_run(RUN, FakeServiceClient()).recover()

        bench.told.wait_for("exhausted", RUN)


# Service clients, and their credentials


def test_a_service_callable_that_hangs(bench, door):
    monitor = bench.monitor(executor=two_at_once(bench))
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, lambda: door() or FakeServiceClient())

    nobody_waits(bench, monitor, door)


def test_a_rest_client_fun_that_hangs_for_one_run(bench, door):
    hung = FakeServiceClient()

    def config_of(service):
        if service is hung:
            door()
        return SimpleNamespace(config=Config("tml-key"))

    monitor = bench.monitor(rest_client_fun=config_of)

    def give():
        with suppress(MonitorStoppedError):
            monitor.monitor_run(RUN, hung)

    giving = threading.Thread(target=give, daemon=True)
    giving.start()

    nobody_waits(bench, monitor, door)


# Errors


def test_a_poll_s_error_whose_text_hangs(bench, door):
    class Failing(Server):
        def get_training_run(self, config, run_id):
            if run_id.startswith("bad"):
                raise BadTextError(door)
            return super().get_training_run(config, run_id)

    bench.server = Failing()
    monitor = bench.monitor(scheduler=Fast(), poll_workers=4)
    for number in range(12):
        monitor.monitor_run(f"bad{number}:train:0", FakeServiceClient())

    nobody_waits(bench, monitor, door)


def test_an_attempt_s_error_whose_text_hangs(bench, door):
    monitor = bench.monitor(executor=two_at_once(bench))
    service = FakeServiceClient()
    service.fail(BadTextError(door), times=9)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, service)

    nobody_waits(bench, monitor, door)


def test_an_executor_s_error_whose_text_hangs(bench, door):
    class Refuses(ThreadPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            if args and args[0].request.run_id == RUN:
                raise BadTextError(door)
            return super().submit(function, *args, **kwargs)

    with Refuses(2) as pool:
        monitor = bench.monitor(executor=pool)
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())

        nobody_waits(bench, monitor, door)


def test_a_loop_s_error_whose_text_hangs(bench, door):
    monitor = bench.monitor()
    run = monitor.monitor_run(RUN, FakeServiceClient(), client=FakeTrainingClient(RUN))
    reporting = threading.Thread(target=run.report_failure, args=(BadTextError(door),), daemon=True)
    reporting.start()

    nobody_waits(bench, monitor, door)


# Policies


def test_a_strategy_that_hangs_after_an_attempt_timed_out(bench, door):
    class Hangs(tenacity.wait.wait_base):
        def __call__(self, state):
            door()
            return 0.0

    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=2.0, wait=Hangs())
    monitor = bench.monitor(policy)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, bench.service())

    nobody_waits(bench, monitor, door)


# Values


class BadValue:
    """A value that hangs as it is compared, hashed, looked at or shown."""

    def __init__(self, door):
        self._door = door

    def __eq__(self, other):
        self._door()
        return False

    def __hash__(self):
        self._door()
        return 1

    def __bool__(self):
        self._door()
        return True

    def __repr__(self):
        self._door()
        return "value"


def test_metadata_is_never_compared_or_shown(bench, door):
    monitor = bench.monitor()
    value = BadValue(door)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient(), {"value": value})
    run = monitor.monitor_run(RUN, FakeServiceClient(), {"value": value})

    bench.told.wait_for("completed", RUN)
    monitor.stop()

    assert run.status().metadata["value"] is value
    assert not door.entered.is_set()


def test_training_clients_are_never_compared(bench, door):
    class BadClient(FakeTrainingClient, BadValue):
        def __init__(self, model_id, path=None):
            FakeTrainingClient.__init__(self, model_id, path)
            self._door = door

        __eq__, __hash__ = BadValue.__eq__, BadValue.__hash__
        __bool__, __repr__ = BadValue.__bool__, BadValue.__repr__

    class Service(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            return BadClient(f"made:{len(self.created)}", path)

    monitor, later = bench.monitor(), bench.monitor()
    bench.server.corrupt(RUN)
    run = monitor.monitor_run(RUN, Service(), client=BadClient(RUN))
    bench.told.wait_for("completed", RUN)
    second = later.monitor_run(RUN, Service(), client=BadClient(RUN))
    bench.told.wait_for("completed", RUN, count=2)
    is_one = run.client is second.client

    assert is_one
    assert not door.entered.is_set()


def test_the_time_of_a_stop_is_kept_beside_all_of_these(bench, door):
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, door)
    wait_until(door.entered)

    began = monotonic()
    monitor.stop(0.1)

    assert monotonic() - began < PATIENCE / 2
