"""Two monitors, or a monitor and a caller, on one recovery executor."""

from __future__ import annotations

import pytest
from support.world import RUN, ManualExecutor, World

from tinkex import Policy, RecoveryExecutor
from tinkex.errors import (
    AlreadyPendingError,
    MonitorStoppedError,
)
from tinkex.testing import InlineExecutor

ENABLED = Policy(enabled=True)

pytestmark = pytest.mark.usefixtures("no_environment")


# Two monitors


def shared(world):
    """Two monitors on one recovery executor, both with the same corrupted run."""
    world.corrupt()
    executor = RecoveryExecutor(InlineExecutor(), scheduler=world.fake, rest_module=world.rest)
    monitors = [world.monitor(executor) for _ in range(2)]
    runs = [monitor.monitor_run(RUN, world.service, client="first") for monitor in monitors]
    return executor, monitors, runs


def test_a_second_monitor_joins_the_incident_and_both_have_the_successor(world):
    _, monitors, runs = shared(world)
    world.service.fail(ConnectionResetError())

    world.fake.advance(20)

    assert len(world.service.created) == 1
    (client,) = world.service.clients
    assert [run.client for run in runs] == [client, client]
    assert [run.state for run in runs] == ["healthy", "healthy"]
    assert [event.name for event in world.events.of("detected")] == ["detected", "detected"]
    told = zip(world.events.senders, world.events.events, strict=True)
    assert [sender for sender, event in told if event.name == "completed"] == monitors


@pytest.mark.parametrize("whole", [True, False], ids=["the monitor", "its run"])
def test_who_joined_an_incident_goes_on_alone_when_the_other_stops(world, whole):
    _, monitors, runs = shared(world)
    world.service.fail(ConnectionResetError())
    world.fake.advance(10)

    if whole:
        monitors[0].stop()
    else:
        monitors[0].stop_monitoring(RUN)
    world.fake.advance(60)

    assert [run.state for run in runs] == ["stopped", "healthy"]
    assert runs[1].client is world.service.clients[0]
    assert len(world.service.created) == 1


def test_a_run_whose_executor_is_shut_down_by_its_owner_is_exhausted_and_not_stuck(world):
    executor, _, runs = shared(world)
    world.service.fail(ConnectionResetError(), times=9)
    future = executor.recover(RUN, world.service, ENABLED)
    world.fake.advance(10)
    assert {run.state for run in runs} <= {"recovering", "waiting"}

    executor.shutdown()

    assert isinstance(future.exception(0), MonitorStoppedError)
    assert [run.state for run in runs] == ["exhausted", "exhausted"]
    assert world.service.created == []


def test_an_executor_that_is_shut_down_exhausts_a_run_with_what_to_do(world):
    executor, monitors, runs = shared(world)

    executor.shutdown()
    world.fake.advance(10)

    assert [run.state for run in runs] == ["exhausted", "exhausted"]
    assert {type(event.error) for event in world.events.of("exhausted")} == {MonitorStoppedError}
    assert len(monitors[0].status()) == 1


# A monitor and a caller


def test_a_monitor_joins_a_recovery_that_was_asked_for_directly(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    monitor = world.monitor(executor, poll_interval=1.0)
    run = monitor.monitor_run(RUN, world.service, client="first")
    future = executor.recover(RUN, world.service, ENABLED)

    world.fake.advance(1)
    assert run.state in ("recovering", "waiting")
    world.fake.advance(10)

    assert len(world.service.created) == 1
    assert run.client is future.result(0).client
    told = zip(world.events.senders, world.events.events, strict=True)
    senders = [sender for sender, event in told if event.name == "completed"]
    assert senders == [executor, monitor]


def test_stopping_the_run_of_a_monitor_that_joined_leaves_the_direct_recovery_alone(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    run = world.monitor(executor, poll_interval=1.0).monitor_run(RUN, world.service)
    future = executor.recover(RUN, world.service, ENABLED)
    world.fake.advance(1)

    run.stop()
    world.fake.advance(10)

    assert future.result(0).run_id == RUN
    assert (run.run_id, run.state) == (RUN, "stopped")


def test_a_direct_recovery_is_refused_while_a_monitor_recovers_the_run(world):
    world.corrupt()
    executor = RecoveryExecutor(ManualExecutor(), rest_module=world.rest, scheduler=world.fake)
    world.monitor(executor).monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(AlreadyPendingError):
        executor.recover(RUN, world.service, ENABLED)


def test_runs_of_two_servers_that_go_by_one_id_end_each_with_its_monitor(world):
    world.corrupt()
    other = World()
    other.corrupt()
    shared = RecoveryExecutor(InlineExecutor(), scheduler=world.fake)
    world.service.fail(ConnectionResetError(), times=9)
    monitors = [
        world.monitor(shared, options={"rest_module": each.rest}) for each in (world, other)
    ]
    waiting = monitors[0].monitor_run(RUN, world.service).recover()
    made = monitors[1].monitor_run(RUN, other.service).recover()
    assert made.done()

    monitors[0].stop()

    assert isinstance(waiting.exception(timeout=0), MonitorStoppedError)
