"""Warnings in time: runs that could not be restored, and runs that cannot be found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.loops import begin
from support.world import OTHER, RUN, weights

from tinkex.errors import ApiConnectionError, ApiStatusError

DAY = 86_400.0


def sweeps(world, count, *, every=10.0):
    for _ in range(count):
        world.fake.advance(every)


# Unprotected


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


def test_a_sampler_checkpoint_protects_nobody(world):
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


# Missing


def test_a_run_that_is_not_found_three_times_in_a_row_is_missing_and_said_to_be_once(world):
    run, _ = begin(world)
    world.rest.fail(ApiStatusError.of(404), times=999)
    sweeps(world, 2)
    before = run.state

    sweeps(world, 100)

    assert before == "failing"
    assert run.state == "missing"
    assert world.events.one("missing").run_id == RUN


def test_a_missing_run_is_polled_slowly_and_comes_back(world):
    run, _ = begin(world)
    world.rest.fail(ApiStatusError.of(404), times=5)
    sweeps(world, 3)
    world.rest.calls.clear()

    sweeps(world, 50)

    assert 2 <= len(world.rest.calls) <= 35
    assert run.state == "healthy"
    assert len(world.events.of("missing")) == 1


def test_a_success_between_two_misses_makes_them_two(world):
    run, _ = begin(world)

    for _ in range(4):
        world.rest.fail(ApiStatusError.of(404), times=2)
        sweeps(world, 3)

    assert run.state == "healthy"
    assert world.events.of("missing") == []


class Fails:
    """A rest module that answers for some runs and fails for the others."""

    def __init__(self, error, *failing):
        self.error = error
        self.failing = failing

    def get_training_run(self, config, run_id):
        if run_id in self.failing:
            raise self.error
        return {"training_run_id": run_id}


def two_runs(world, rest):
    monitor = world.monitor(options={"rest_module": rest})
    return [monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER)]


@pytest.mark.parametrize("error", [ApiStatusError.of(500), ApiConnectionError("cut")], ids=repr)
def test_a_run_that_fails_alone_is_missing(world, error):
    run, other = two_runs(world, Fails(error, RUN))

    sweeps(world, 6)

    assert (run.state, other.state) == ("missing", "healthy")
    assert world.events.one("missing").run_id == RUN


@pytest.mark.parametrize("error", [ApiStatusError.of(500), ApiConnectionError("cut")], ids=repr)
def test_no_run_is_missing_where_the_whole_account_fails(world, error):
    runs = two_runs(world, Fails(error, RUN, OTHER))

    sweeps(world, 20)

    assert [run.state for run in runs] == ["failing", "failing"]
    assert world.events.of("missing") == []
