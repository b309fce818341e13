"""Warnings in time: runs that could not be restored are told of before they must be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.loops import begin
from support.world import RUN, weights

DAY = 86_400.0


def sweeps(world, count, *, every=10.0):
    for _ in range(count):
        world.fake.advance(every)


def test_a_healthy_run_is_warned_about_once_it_has_gone_too_long_without_a_checkpoint(world):
    begin(world, unprotected_after=100.0)
    sweeps(world, 9)
    before = world.events.of("unprotected")

    sweeps(world, 1)

    event = world.events.one("unprotected")
    assert before == []
    assert (event.run_id, event.checkpoint) == (RUN, None)
    assert event.time - event.since == timedelta(seconds=100)


def test_the_warning_is_not_said_at_every_sweep(world):
    begin(world, unprotected_after=100.0)

    sweeps(world, 100)

    assert 2 <= len(world.events.of("unprotected")) <= 10


def test_a_saved_state_protects_a_run_whose_server_tells_no_checkpoints(world):
    run, _ = begin(world, unprotected_after=100.0)
    with next(run.segments()) as segment:
        segment.save_state("a", step=1)

    sweeps(world, 100)

    assert world.events.of("unprotected") == []


def test_a_sampler_checkpoint_protects_no_run(world):
    path = f"tinker://{RUN}/sampler_weights/s"
    begin(world, unprotected_after=100.0)
    world.rest.set_run(RUN, last_sampler_checkpoint={"tinker_path": path})

    sweeps(world, 10)

    assert world.events.one("unprotected").checkpoint is None


@pytest.mark.parametrize("recorded", [False, True], ids=["seen", "seen and recorded"])
@pytest.mark.parametrize(("left", "warned"), [(50.0, True), (DAY, False), (-60.0, True)])
def test_a_checkpoint_that_expires_within_that_time_is_warned_about(world, recorded, left, warned):
    run, _ = begin(world, unprotected_after=100.0)
    now = datetime.now(UTC)
    last = {
        "tinker_path": weights("a"),
        "time": now - timedelta(hours=1),
        "expires_at": now + timedelta(seconds=left),
    }
    if recorded:
        with next(run.segments()) as segment:
            segment.save_state("a", step=1)
    world.rest.set_run(RUN, last_checkpoint=last)

    sweeps(world, 1)

    assert [event.checkpoint.tinker_path for event in world.events.of("unprotected")] == (
        [weights("a")] if warned else []
    )
