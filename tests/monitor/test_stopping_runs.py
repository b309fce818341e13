"""Runs that are stopped: no poll, no attempt and no client of theirs counts any more."""

from __future__ import annotations

import logging

import pytest
from support.lives import Meanwhile, polls_of
from support.world import ATTEMPT, OTHER, RUN, ManualExecutor, weights

from tinkex import signals
from tinkex.errors import (
    MonitorStoppedError,
)

pytestmark = pytest.mark.usefixtures("no_environment")


def test_stop_monitoring_is_idempotent_and_takes_ids_handles_and_what_is_unknown(world):
    monitor = world.monitor()
    run, other = (monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER))

    monitor.stop_monitoring("unknown:train:0")
    monitor.stop_monitoring(RUN)
    monitor.stop_monitoring(RUN)
    monitor.stop_monitoring(other)
    other.stop()

    assert [run.state, other.state] == ["stopped", "stopped"]
    assert monitor.status() == ()


def test_a_stopped_run_is_polled_no_more_and_the_others_are(world):
    monitor = world.monitor()
    for run_id in (RUN, OTHER):
        world.rest.set_run(run_id)
        monitor.monitor_run(run_id, world.service)

    monitor.stop_monitoring(RUN)
    world.fake.advance(20)

    assert (polls_of(world, RUN), polls_of(world, OTHER)) == (0, 2)


def test_what_an_attempt_brings_after_stop_monitoring_is_not_adopted(world, caplog):
    world.corrupt()
    service, calls = Meanwhile(), []
    monitor = world.monitor(on_recovery=lambda *_: calls.append("on_recovery"))
    run = monitor.monitor_run(RUN, service, client="mine")
    service.during = lambda: monitor.stop_monitoring(RUN)

    with caplog.at_level(logging.WARNING):
        world.fake.advance(100)

    assert (run.run_id, run.client, run.state) == (RUN, "mine", "stopped")
    assert world.events.names == ["detected", "started", "checkpoint_selected"]
    assert calls == []
    (orphan,) = service.clients
    assert any(f"made run {orphan.model_id} " in r.getMessage() for r in caplog.records)
    assert monitor.status() == ()


def test_an_attempt_that_was_stopped_before_its_client_was_made_makes_none(world):
    world.corrupt()
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    pool.begin_next()

    monitor.stop_monitoring(RUN)
    pool.finish_next()

    assert world.service.created == []
    assert world.events.names == ["detected", "started"]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("detected", ["detected"]),
        ("started", ["detected", "started"]),
        ("checkpoint_selected", ["detected", "started", "checkpoint_selected"]),
    ],
)
def test_a_run_that_a_receiver_stops_is_not_recovered(world, name, names):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)

    with signals.subscribe(lambda _, event: monitor.stop_monitoring(event.run_id), name):
        world.fake.advance(100)

    assert world.events.names == names
    assert world.service.created == []
    assert run.state == "stopped"


def test_stopping_a_run_that_waits_frees_the_slot_for_the_next(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    monitor.monitor_run(RUN, world.service)
    other = monitor.monitor_run(OTHER, world.service)
    world.fake.advance(10)
    assert len(pool.waiting) == 1

    monitor.stop_monitoring(RUN)
    while pool.waiting:
        pool.run_next()

    assert other.status().recoveries == 1
    assert [event.run_id for event in world.events.of("completed")] == [OTHER]


def test_the_future_of_a_recovery_that_was_stopped_says_so(world):
    world.corrupt()
    monitor = world.monitor(ManualExecutor())
    future = monitor.monitor_run(RUN, world.service).recover()

    monitor.stop_monitoring(RUN)

    assert isinstance(future.exception(0), MonitorStoppedError)


def test_a_run_that_was_stopped_may_be_given_again_and_has_a_new_handle(world):
    world.rest.set_run(RUN)
    monitor = world.monitor()
    old = monitor.monitor_run(RUN, world.service)
    monitor.stop_monitoring(RUN)

    new = monitor.monitor_run(RUN, world.service)

    assert new is not old
    assert (old.state, new.state) == ("stopped", "healthy")


def test_the_handle_of_before_does_not_stop_the_run_that_was_given_again(world):
    monitor = world.monitor()
    old = monitor.monitor_run(RUN, world.service)
    monitor.stop_monitoring(RUN)
    new = monitor.monitor_run(RUN, world.service)

    old.stop()

    assert new.state == "healthy"


def test_a_run_that_was_stopped_cannot_be_recovered_by_hand(world):
    run = world.monitor().monitor_run(RUN, world.service)
    run.stop()

    with pytest.raises(MonitorStoppedError):
        run.recover()
    assert world.events.names == []


def test_a_run_that_a_receiver_stops_when_its_client_is_there_does_not_adopt_it(world):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service, client="mine")

    with signals.subscribe(lambda *_, **__: run.stop(), "client_created"):
        world.fake.advance(100)

    assert world.events.names == ["detected", *ATTEMPT]
    assert (run.run_id, run.client, run.state) == (RUN, "mine", "stopped")
