"""Runs that are given up: how they stay, how they begin anew, and what `wait` makes of it."""

from __future__ import annotations

import pytest
from support.lives import exhausted_run, polls_of, two_generations
from support.world import ATTEMPT, RECOVERY, RUN

from tinkex import signals
from tinkex.errors import (
    IncidentBudgetError,
    MonitorStoppedError,
    RecoveryExhaustedError,
)

pytestmark = pytest.mark.usefixtures("no_environment")


# Exhaustion


def test_an_exhausted_run_stays_in_the_map_and_is_not_polled(world):
    monitor, run = exhausted_run(world)
    polls = polls_of(world, RUN)

    world.fake.advance(100)

    assert polls_of(world, RUN) == polls == 1
    assert [status.state for status in monitor.status()] == ["exhausted"]
    assert str(run.status().last_error) == "no"
    assert len(world.events.of("exhausted")) == 1


def test_exhausted_comes_before_on_failure(world):
    log = []
    monitor = world.monitor(on_failure=lambda run_id, error: log.append((run_id, str(error))))
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)
    monitor.monitor_run(RUN, world.service)

    with signals.subscribe(lambda _, event: log.append(event.name), "exhausted"):
        world.fake.advance(60)

    assert log == ["exhausted", (RUN, "no")]


def test_monitor_run_begins_an_exhausted_run_anew(world):
    monitor, run = exhausted_run(world)
    world.events.clear()

    assert monitor.monitor_run(RUN, world.service) is run
    assert (run.state, run.status().last_error) == ("healthy", None)
    world.fake.advance(10)

    assert world.events.names == RECOVERY
    assert run.status().recoveries == 1


def test_recover_begins_an_exhausted_run_anew(world):
    _, run = exhausted_run(world)
    world.events.clear()

    event = run.recover().result(0)

    assert world.events.names == [*ATTEMPT, "completed"]
    assert event.attempt == 1
    assert run.state == "healthy"


def test_a_lineage_that_is_corrupted_too_often_is_left_alone(world):
    _, run = two_generations(world, max_incidents=2)
    world.corrupt(run.run_id)
    world.fake.advance(10)
    world.corrupt(run.run_id)
    world.events.clear()

    world.fake.advance(10)

    assert world.events.names == ["detected", "exhausted"]
    assert run.state == "exhausted"
    event = world.events.one("exhausted")
    assert (event.attempt, type(event.error)) == (0, IncidentBudgetError)
    assert event.error.incidents == 2
    assert len(world.service.created) == 2


def test_a_run_over_its_budget_calls_on_failure(world):
    calls = []
    _, run = two_generations(world, max_incidents=1, on_failure=lambda *args: calls.append(args))
    second = run.run_id
    world.corrupt(second)

    world.fake.advance(10)

    assert [(run_id, type(error)) for run_id, error in calls] == [(second, IncidentBudgetError)]


def test_incidents_outside_the_window_do_not_count(world):
    _, run = two_generations(world, max_incidents=1, incident_window=100.0)
    world.fake.advance(100)

    world.corrupt(run.run_id)
    world.fake.advance(10)

    assert run.status().recoveries == 2


@pytest.mark.parametrize("by_hand", [True, False], ids=["recover", "monitor_run"])
def test_beginning_anew_restores_the_budget(world, by_hand):
    monitor, run = two_generations(world, max_incidents=1)
    world.corrupt(run.run_id)
    world.fake.advance(10)
    assert run.state == "exhausted"

    if by_hand:
        run.recover()
    else:
        monitor.monitor_run(RUN, world.service)
        world.fake.advance(10)

    assert (run.state, run.status().recoveries) == ("healthy", 2)


# Waiting


def test_wait_returns_the_client_of_a_healthy_run_at_once(world):
    run = world.monitor().monitor_run(RUN, world.service, client="mine")

    assert run.wait(0) == "mine"
    assert world.fake.now() == 0.0


def test_wait_steps_to_the_moment_when_the_run_is_recovered(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)
    assert run.state == "waiting"

    client = run.wait(60)

    assert client is run.client is world.service.clients[0]
    assert 10.0 < world.fake.now() <= 15.0


def test_wait_gives_up_after_its_timeout(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(TimeoutError, match="waiting"):
        run.wait(2.0)
    assert world.fake.now() == 12.0


def test_wait_for_an_exhausted_run_raises_with_the_story_of_its_attempts(world):
    _, run = exhausted_run(world)

    with pytest.raises(RecoveryExhaustedError) as caught:
        run.wait(1.0)

    assert (caught.value.run_id, caught.value.attempts) == (RUN, 3)
    assert [str(n) in line and "no" in line for n, line in enumerate(caught.value.history, 1)] == [
        True,
        True,
        True,
    ]


def test_wait_for_a_stopped_run_raises(world):
    run = world.monitor().monitor_run(RUN, world.service, client="mine")
    run.stop()

    with pytest.raises(MonitorStoppedError):
        run.wait(1.0)
