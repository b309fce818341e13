"""Two monitors, or a monitor and a caller, on one recovery executor."""

from __future__ import annotations

import pytest
from support.world import RUN

from tinkex import Policy, RecoveryExecutor
from tinkex.errors import (
    MonitorStoppedError,
)
from tinkex.testing import InlineExecutor

pytestmark = pytest.mark.usefixtures("no_environment")


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
    completed = world.events.events.index(world.events.one("completed"))
    assert world.events.senders[completed] is monitors[0]


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
    future = executor.recover(RUN, world.service, Policy(enabled=True))
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
