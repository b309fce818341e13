"""Each way in which the Elixir original was seen to break does not break here."""

from __future__ import annotations

import threading
from concurrent.futures.process import BrokenProcessPool
from time import monotonic

import pytest
from support.real_threads import QUICK, HeldExecutor, HungService, Server, path_of, wait_until
from support.recorder import PATIENCE, Recorder
from support.world import OTHER, RUN

from tinkex import Monitor, Policy, RecoveryExecutor, signals
from tinkex.errors import (
    AlreadyPendingError,
    AttemptTimeoutError,
)
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

POLICY = Policy(enabled=True, poll_interval=10.0, backoff=1.0, max_backoff=2.0)


class Bench:
    """A monitor on fakes, without a thread."""

    def __init__(self, policy=POLICY, *, rest=None, executor=None):
        self.time = FakeScheduler()
        self.rest = FakeRest() if rest is None else rest
        self.service = FakeServiceClient()
        self.told = Recorder()
        self.monitor = Monitor(
            policy,
            rest_module=self.rest,
            executor=InlineExecutor() if executor is None else executor,
            scheduler=self.time,
        )
        self.subscription = signals.subscribe(self.told, sender=self.monitor)
        self.monitor.start()

    def add(self, *run_ids, corrupted=False):
        for run_id in run_ids:
            self.rest.set_run(run_id, corrupted=corrupted, last_checkpoint=path_of(run_id))
        return [self.monitor.monitor_run(run_id, self.service) for run_id in run_ids]


@pytest.fixture
def bench():
    made = []

    def make(*args, **kwargs):
        made.append(Bench(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.subscription.close()
        each.monitor.stop(timeout=0.0)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.release()


# Calls made during a sweep


def test_monitor_run_during_a_sweep_that_hangs_returns_the_handle_at_once(server):
    server.hang(RUN)
    with Monitor(QUICK, rest_module=server) as monitor:
        monitor.monitor_run(RUN, FakeServiceClient())
        server.wait_for_poll(RUN)

        began = monotonic()
        handle = monitor.monitor_run(OTHER, FakeServiceClient())
        took = monotonic() - began

        assert took < 1.0
        assert monitor.status(OTHER).run_id == handle.run_id == OTHER
        server.release()


def test_a_run_stopped_during_a_sweep_is_neither_detected_nor_recovered(bench):
    class StopsTheNext(FakeRest):
        def get_training_run(self, config, run_id):
            if run_id == RUN:
                made.monitor.stop_monitoring(OTHER)
                self.set_run(OTHER, corrupted=True, last_checkpoint=path_of(OTHER))
            return super().get_training_run(config, run_id)

    made = bench(rest=StopsTheNext())
    made.add(RUN, OTHER)

    made.monitor.poll_now()
    made.time.advance(60.0)

    assert made.told.names_of(OTHER) == []
    assert made.service.created == []


def test_a_run_stopped_while_its_own_poll_is_under_way_is_not_recovered(bench):
    class StopsItself(FakeRest):
        def get_training_run(self, config, run_id):
            made.monitor.stop_monitoring(run_id)
            return super().get_training_run(config, run_id)

    made = bench(rest=StopsItself())
    [handle] = made.add(RUN, corrupted=True)

    made.monitor.poll_now()

    assert handle.state == "stopped"
    assert made.told.names_of(RUN) == []
    assert made.service.created == []


def test_stop_monitoring_during_a_sweep_that_hangs_returns_at_once(server):
    server.hang(RUN)
    with Monitor(QUICK, rest_module=server) as monitor:
        handle = monitor.monitor_run(RUN, FakeServiceClient())
        server.wait_for_poll(RUN)

        began = monotonic()
        monitor.stop_monitoring(RUN)
        took = monotonic() - began

        assert took < 1.0
        assert handle.state == "stopped"
        server.release()


# An executor that is dead or slow


def test_a_dead_executor_loses_no_run_and_is_heard_of(bench):
    dead = InlineExecutor()
    dead.shutdown()
    made = bench(executor=dead)
    made.add(RUN, corrupted=True)
    healthy = made.add(*(f"healthy:train:{number}" for number in range(20)))

    made.time.advance(60.0)

    assert len(made.monitor.status()) == 21
    assert made.monitor.status(RUN).state == "exhausted"
    assert "shut down" in str(made.told.of("exhausted", RUN)[0].error)
    assert all(handle.state == "healthy" for handle in healthy)
    polls = made.rest.calls.count(("get_training_run", healthy[0].run_id))
    assert polls == 6


def test_a_run_that_a_dead_executor_left_is_recovered_by_a_live_one_later(bench):
    class Revived(InlineExecutor):
        is_dead = True

        def submit(self, function, /, *args, **kwargs):
            if self.is_dead:
                raise RuntimeError("cannot schedule new futures after shutdown")
            return super().submit(function, *args, **kwargs)

    executor = Revived()
    made = bench(executor=executor)
    [handle] = made.add(RUN, corrupted=True)
    made.time.advance(60.0)
    executor.is_dead = False

    handle.recover()

    assert handle.state == "healthy"
    assert handle.client is made.service.clients[0]


def test_a_slow_callback_neither_stops_the_monitor_nor_the_next_recovery(server):
    entered, gate = threading.Event(), threading.Event()

    def on_recovery(old_client, new_client, checkpoint):
        if RUN in checkpoint.tinker_path:
            entered.set()
            gate.wait(3 * PATIENCE)

    policy = Policy(enabled=True, poll_interval=0.01, on_recovery=on_recovery)
    told = Recorder()
    with (
        Monitor(policy, rest_module=server) as monitor,
        signals.subscribe(told, sender=monitor),
    ):
        for number in range(98):
            monitor.monitor_run(f"healthy:train:{number}", FakeServiceClient())
        server.corrupt(RUN, OTHER)
        monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(entered)

        monitor.monitor_run(OTHER, FakeServiceClient())
        told.wait_for("completed", OTHER)
        server.wait_for_more_polls("healthy:train:97")

        assert len(monitor.status()) == 100
        gate.set()


def test_a_long_recovery_does_not_hold_up_monitor_run_on_the_same_service_client(server):
    server.corrupt(RUN)
    service, told = HungService(), Recorder()
    with (
        Monitor(QUICK, rest_module=server) as monitor,
        signals.subscribe(told, sender=monitor),
    ):
        monitor.monitor_run(RUN, service)
        wait_until(service.entered)

        began = monotonic()
        monitor.monitor_run(OTHER, service)
        took = monotonic() - began
        server.wait_for_more_polls(OTHER)
        service.gate.set()
        told.wait_for("completed", RUN)

        assert took < 1.0
        assert len(monitor.status()) == 2


# One slow request


def test_one_poll_that_hangs_delays_the_detection_of_no_other_run(server):
    server.hang(RUN)
    told = Recorder()
    with (
        Monitor(QUICK, rest_module=server) as monitor,
        signals.subscribe(told, sender=monitor),
    ):
        for run_id in (RUN, OTHER, *(f"healthy:train:{number}" for number in range(98))):
            monitor.monitor_run(run_id, FakeServiceClient())
        server.wait_for_poll(RUN)

        began = monotonic()
        server.corrupt(OTHER)
        told.wait_for("completed", OTHER)
        took = monotonic() - began

        assert took < 5.0
        assert server.polls[RUN] == 1
        server.release()


# After the recovery


def test_the_successor_of_a_run_is_monitored_and_recovered_in_its_turn(bench):
    made = bench()
    [handle] = made.add(RUN, corrupted=True)
    made.time.advance(10.0)
    successor = handle.run_id
    made.rest.set_run(successor, corrupted=True, last_checkpoint=path_of(successor))

    made.time.advance(10.0)

    assert successor != RUN
    assert [event.run_id for event in made.told.of("completed")] == [RUN, successor]
    assert handle.status().recoveries == 2
    assert [generation.run_id for generation in handle.lineage] == [
        RUN,
        successor,
        handle.run_id,
    ]


def test_an_exhausted_run_is_not_forgotten_and_can_be_begun_anew(bench):
    made = bench()
    [handle] = made.add(RUN, corrupted=True)
    made.service.fail(RuntimeError("no capacity"), times=3)
    made.time.advance(30.0)
    before = handle.status()

    handle.recover()

    assert before.state == "exhausted"
    assert str(before.last_error) == "no capacity"
    assert handle.state == "healthy"
    assert handle.client is made.service.clients[0]


def test_a_corrupted_run_is_detected_once_while_its_recovery_is_pending(bench):
    executor = HeldExecutor()
    made = bench(executor=executor)
    [handle] = made.add(RUN, corrupted=True)
    made.time.advance(10.0)

    again = made.monitor.monitor_run(RUN, made.service)
    made.time.advance(300.0)

    assert again is handle
    assert made.told.names_of(RUN) == ["detected", "started"]
    with pytest.raises(AlreadyPendingError):
        handle.recover()


def test_a_recovery_that_never_returns_gives_its_slot_to_the_next_run(bench):
    executor = HeldExecutor()
    policy = Policy(
        enabled=True, poll_interval=10.0, attempt_timeout=60.0, backoff=500.0, max_backoff=500.0
    )
    made = bench(policy, executor=RecoveryExecutor(executor, max_concurrent=1))
    made.add(RUN, OTHER, corrupted=True)
    made.time.advance(10.0)
    waiting = made.told.names_of(OTHER)

    made.time.advance(60.0)
    executor.finish(1)

    assert waiting == ["detected"]
    assert isinstance(made.told.of("failed", RUN)[0].error, AttemptTimeoutError)
    assert made.told.names_of(OTHER)[-1] == "completed"


def test_an_attempt_that_was_killed_frees_its_slot_and_is_made_again(bench):
    executor = HeldExecutor()
    made = bench(executor=RecoveryExecutor(executor, max_concurrent=1))
    [handle] = made.add(RUN, corrupted=True)
    made.time.advance(10.0)

    executor.kill(0, BrokenProcessPool("a worker was killed"))
    made.time.advance(2.0)
    executor.finish(1)

    assert isinstance(made.told.of("failed", RUN)[0].error, BrokenProcessPool)
    assert handle.state == "healthy"
    assert handle.status().recoveries == 1


def test_an_attempt_that_ends_in_an_exit_frees_its_slot(server):
    class Exits(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            raise SystemExit(3)

    server.corrupt(RUN, OTHER)
    told = Recorder()
    with (
        Monitor(QUICK, rest_module=server) as monitor,
        signals.subscribe(told, sender=monitor),
    ):
        monitor.monitor_run(RUN, Exits())
        monitor.monitor_run(OTHER, FakeServiceClient())

        told.wait_for("exhausted", RUN)
        told.wait_for("completed", OTHER)

        assert isinstance(told.of("failed", RUN)[0].error, SystemExit)


@pytest.mark.parametrize("checkpoint", ["tinker://a/weights/b", ["x"], 7, {"tinker_path": 7}])
def test_a_last_checkpoint_of_the_wrong_type_is_left_out_and_harms_nobody(bench, checkpoint):
    class Odd(FakeRest):
        def get_training_run(self, config, run_id):
            if run_id == RUN:
                return {"training_run_id": run_id, "last_checkpoint": checkpoint}
            return super().get_training_run(config, run_id)

    made = bench(rest=Odd())
    made.add(RUN)
    made.add(*(f"healthy:train:{number}" for number in range(20)))
    made.add(OTHER, corrupted=True)

    made.time.advance(30.0)

    assert made.told.of("poll_error", RUN) == []
    assert made.monitor.status(RUN).last_checkpoint is None
    assert made.told.names_of(OTHER)[-1] == "completed"
    assert len(made.monitor.status()) == 22
