"""Runs that cannot be found: when they are missing, how slowly they are polled, how they return."""

from __future__ import annotations

import pytest
from support.loops import begin
from support.world import OTHER, RECOVERY, RUN

from tinkex.errors import ApiConnectionError, ApiStatusError


def sweeps(world, count, *, every=10.0):
    for _ in range(count):
        world.fake.advance(every)


def test_a_run_that_cannot_be_found_is_missing_is_told_once_and_polled_slowly(watched):
    run = watched.monitor().monitor_run(RUN, watched.service)
    watched.fake.advance(20)
    before = run.state

    watched.fake.advance(610)

    assert (before, run.state) == ("failing", "missing")
    event = watched.events.one("missing")
    assert event.run_id == RUN
    assert event.error.status == 404
    assert watched.rest.times == [10.0, 20.0, 30.0, 130.0, 230.0, 330.0, 430.0, 530.0, 630.0]
    assert watched.events.names[:2] == ["poll_error", "missing"]
    assert len(watched.events.of("poll_error")) <= 7


def test_a_missing_run_that_is_seen_again_is_healthy_and_polled_as_before(watched):
    run = watched.monitor().monitor_run(RUN, watched.service)
    watched.fake.advance(35)
    assert run.state == "missing"

    watched.rest.set_run(RUN)
    watched.fake.advance(115)

    assert run.state == "healthy"
    assert watched.rest.times[-3:] == [130.0, 140.0, 150.0]
    assert len(watched.events.of("missing")) == 1


def test_a_missing_run_that_turns_out_corrupted_is_recovered(watched):
    watched.monitor().monitor_run(RUN, watched.service)
    watched.fake.advance(35)

    watched.corrupt()
    watched.fake.advance(100)

    assert watched.events.names[-5:] == RECOVERY


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
