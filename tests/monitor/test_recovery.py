"""From the detection of a corrupted run to its successor: one incident at a time."""

from __future__ import annotations

import logging

import pytest
from support.lives import polls_of, two_generations
from support.world import ATTEMPT, OTHER, RECOVERY, RUN, ManualExecutor, weights

from tinkex import signals
from tinkex.errors import (
    AlreadyPendingError,
    ApiTimeoutError,
)
from tinkex.testing import FakeServiceClient

pytestmark = pytest.mark.usefixtures("no_environment")


# From detection to a successor


def test_a_corrupted_run_is_detected_and_recovered_in_the_order_of_the_contract(world):
    path = world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service, {"team": "a"})

    world.fake.advance(10)

    assert world.events.names == RECOVERY
    assert {event.run_id for event in world.events.events if event.name != "swept"} == {RUN}
    assert world.service.created == [(path, True)]
    (client,) = world.service.clients
    completed = world.events.one("completed")
    assert completed.client is run.client is client
    assert completed.successor_id == run.run_id == client.model_id
    assert completed.checkpoint.tinker_path == path
    assert (completed.attempt, completed.duration) == (1, 0.0)
    assert completed.metadata == {"team": "a"}
    assert (run.root_id, run.state, run.status().recoveries) == (RUN, "healthy", 1)


def test_the_sender_of_all_events_is_the_monitor(world):
    world.corrupt()
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)

    world.fake.advance(10)

    assert {id(sender) for sender in world.events.senders} == {id(monitor)}


def test_the_handle_shows_the_new_client_before_completed_and_that_before_on_recovery(world):
    world.corrupt()
    log = []

    def on_recovery(old, new, checkpoint):
        log.append(("on_recovery", old, new, checkpoint.tinker_path, run.client is new))

    run = world.monitor(on_recovery=on_recovery).monitor_run(RUN, world.service, client="before")
    with signals.subscribe(
        lambda _, event: log.append((event.name, run.client is event.client, run.run_id)),
        "completed",
    ):
        world.fake.advance(10)

    (client,) = world.service.clients
    assert log == [
        ("completed", True, client.model_id),
        ("on_recovery", "before", client, weights("000100"), True),
    ]


def test_the_old_client_of_on_recovery_is_that_of_the_generation_before(world):
    world.corrupt()
    pairs = []
    monitor = world.monitor(on_recovery=lambda old, new, _: pairs.append((old, new)))
    run = monitor.monitor_run(RUN, world.service, client="first")
    world.fake.advance(10)

    world.corrupt(run.run_id)
    world.fake.advance(10)

    second, third = world.service.clients
    assert pairs == [("first", second), (second, third)]


@pytest.mark.parametrize("failing", [True, False], ids=["on_failure", "on_recovery"])
def test_a_callback_that_raises_is_logged_and_changes_nothing(world, caplog, failing):
    def callback(*_):
        raise RuntimeError("the callback's own fault")

    name = "on_failure" if failing else "on_recovery"
    world.corrupt()
    if failing:
        world.service.fail(ValueError("no"), times=3)
    monitor = world.monitor(**{name: callback})
    run = monitor.monitor_run(RUN, world.service)
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    other = monitor.monitor_run(OTHER, FakeServiceClient())

    with caplog.at_level(logging.ERROR):
        world.fake.advance(60)

    assert (run.state, other.state) == ("exhausted" if failing else "healthy", "healthy")
    assert any(record.exc_info for record in caplog.records)


def test_the_successor_is_polled_from_then_on_and_the_old_run_never_again(world):
    world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(50)

    assert polls_of(world, RUN) == 1
    assert polls_of(world, run.run_id) == 4


def test_a_successor_that_is_corrupted_in_its_turn_is_recovered(world):
    world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)
    second = run.run_id

    world.corrupt(second, "000200")
    world.fake.advance(10)

    assert world.events.names == [*RECOVERY, *RECOVERY]
    assert [event.run_id for event in world.events.of("completed")] == [RUN, second]
    assert world.service.created[1] == (weights("000200", second), True)
    assert (run.root_id, run.status().generation) == (RUN, 2)


def test_a_lineage_tells_each_generation_and_how_it_ended(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)
    (only,) = run.lineage
    world.fake.advance(30)

    first, live = run.lineage
    assert (only.run_id, only.checkpoint, only.ended_at) == (RUN, None, None)
    assert (first.run_id, first.attempts, first.orphans) == (RUN, 2, ())
    assert first.cause
    assert first.started_at == only.started_at
    assert first.ended_at == live.started_at > first.started_at
    assert (live.run_id, live.checkpoint) == (run.run_id, weights("000100"))
    assert (live.ended_at, live.cause, live.attempts) == (None, None, 0)


@pytest.mark.parametrize("generation", [0, 1], ids=["the first id", "the live id"])
def test_any_id_of_a_lineage_means_the_run(world, generation):
    monitor, run = two_generations(world)
    run_id = run.lineage[generation].run_id

    assert monitor.monitor_run(run_id, world.service) is run
    assert monitor.status(run_id) == run.status()
    assert len(monitor.status()) == 1
    monitor.stop_monitoring(run_id)

    assert run.state == "stopped"
    assert monitor.status() == ()


def test_a_client_that_is_not_of_the_live_generation_is_ignored(world):
    monitor, run = two_generations(world)
    live, old = run.client, type("Client", (), {"model_id": RUN})()

    monitor.monitor_run(RUN, world.service, client=old)

    assert run.client is live


@pytest.mark.parametrize("generation", [0, 1], ids=["by the first id", "by the live id"])
def test_a_client_of_the_live_generation_is_taken(world, generation):
    monitor, run = two_generations(world)
    new = type("Client", (), {"model_id": run.run_id})()

    monitor.monitor_run(run.lineage[generation].run_id, world.service, client=new)

    assert run.client is new


def test_metadata_given_for_an_old_id_is_carried_from_then_on(world):
    monitor, run = two_generations(world)

    monitor.monitor_run(RUN, world.service, {"team": "b"})

    assert run.status().metadata == {"team": "b"}


def test_the_runs_metadata_and_the_lineage_travel_to_the_successor(world):
    world.corrupt(user_metadata={"team": "a"})
    world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10)

    (metadata,) = world.service.metadata
    assert metadata["team"] == "a"
    assert all(isinstance(value, str) for value in metadata.values())
    assert RUN in metadata.values()
    assert weights("000100") in metadata.values()


# One incident per run


def test_sweeps_that_see_a_run_again_while_it_is_recovered_start_no_second_incident(world):
    world.corrupt()
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    monitor.monitor_run(RUN, world.service)

    world.fake.advance(50)
    monitor.poll_now()
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(50)

    assert world.events.names == ["detected", "started"]
    assert len(pool.waiting) == 1


def test_two_polls_that_see_the_same_corruption_start_one_incident(watched):
    """The second poll is answered while the answer to the first is still on its way."""
    watched.corrupt()
    monitor = watched.monitor()
    run = monitor.monitor_run(RUN, watched.service)
    outcomes = []

    def during(run_id):
        watched.rest.during = lambda run_id: None
        outcomes.append(run.recover())

    watched.rest.during = during
    watched.fake.advance(10)

    assert [future.done() for future in outcomes] == [True]
    assert watched.events.names == [*ATTEMPT, "completed"]
    assert len(watched.service.created) == 1


def test_a_poll_answered_for_a_generation_before_says_nothing_of_the_live_one(watched):
    watched.rest.set_run(RUN, last_checkpoint=weights("000100"))
    monitor = watched.monitor()
    run = monitor.monitor_run(RUN, watched.service)

    def during(run_id):
        watched.rest.during = lambda run_id: None
        run.recover().result(0)
        watched.rest.fail(ApiTimeoutError("of the run before"))

    watched.rest.during = during
    watched.fake.advance(10)

    assert run.status().generation == 1
    assert run.state == "healthy"
    assert "poll_error" not in watched.events.names


def test_recovering_a_run_by_hand_while_it_is_recovered_is_an_error(world):
    world.corrupt()
    run = world.monitor(ManualExecutor()).monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(AlreadyPendingError) as caught:
        run.recover()

    assert caught.value.run_id == RUN
    assert world.events.names == ["detected", "started"]


def test_a_healthy_run_may_be_recovered_by_hand(world):
    world.rest.set_run(RUN, last_checkpoint=weights("000100"))
    run = world.monitor().monitor_run(RUN, world.service)

    event = run.recover().result(0)

    assert event is world.events.one("completed")
    assert world.events.names == [*ATTEMPT, "completed"]
    assert run.run_id == event.successor_id
