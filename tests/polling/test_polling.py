"""When runs are polled, and what becomes of one whose polls fail or that cannot be found."""

from __future__ import annotations

import pytest
from support.lives import GET
from support.world import OTHER, RECOVERY, RUN, weights

from tinkex import signals
from tinkex.errors import ApiResponseError, ApiTimeoutError

pytestmark = pytest.mark.usefixtures("no_environment")


# Polling


def test_the_first_sweep_comes_an_interval_after_the_first_run_and_so_on(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    watched.fake.advance(3)
    monitor.monitor_run(RUN, watched.service)

    watched.fake.advance(30)

    assert watched.rest.times == [13.0, 23.0, 33.0]


def test_a_run_given_later_joins_the_next_sweep(watched):
    watched.rest.set_run(RUN)
    watched.rest.set_run(OTHER)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    watched.fake.advance(5)

    monitor.monitor_run(OTHER, watched.service)
    watched.fake.advance(5)

    assert sorted(watched.rest.calls) == [(GET, RUN), (GET, OTHER)]
    assert watched.rest.times == [10.0, 10.0]


def test_the_next_sweep_comes_an_interval_after_the_end_of_the_one_before(watched):
    watched.rest.set_run(RUN)
    watched.rest.during = lambda run_id: watched.fake.advance(3)
    watched.monitor().monitor_run(RUN, watched.service)

    watched.fake.advance(40)

    assert watched.rest.times == [10.0, 23.0, 36.0]


def test_sweeps_never_overlap(watched):
    watched.rest.set_run(RUN)
    watched.rest.set_run(OTHER)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    monitor.monitor_run(OTHER, watched.service)
    watched.rest.during = lambda run_id: (monitor.poll_now(), watched.fake.advance(15))

    watched.fake.advance(10)

    assert sorted(watched.rest.calls) == [(GET, RUN), (GET, OTHER)]
    assert len(watched.events.of("swept")) == 1


def test_a_run_given_during_a_sweep_joins_the_next_and_arms_no_second_timer(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    watched.rest.during = lambda run_id: monitor.monitor_run(OTHER, watched.service)

    watched.fake.advance(10)

    assert watched.rest.calls == [(GET, RUN)]
    assert watched.fake.pending == (20.0,)


def test_poll_now_sweeps_at_once_and_the_next_sweep_comes_an_interval_later(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    watched.fake.advance(4)

    monitor.poll_now()

    assert watched.rest.times == [4.0]
    assert watched.fake.pending == (14.0,)


def test_a_monitor_without_runs_arms_no_timer(world):
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)
    monitor.stop_monitoring(RUN)

    world.fake.advance(10)

    assert world.fake.pending == ()
    assert world.rest.calls == []


def test_a_run_given_after_the_last_one_was_stopped_is_polled_again(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    monitor.stop_monitoring(RUN)
    watched.fake.advance(25)

    monitor.monitor_run(RUN, watched.service)
    watched.fake.advance(10)

    assert watched.rest.times == [35.0]


def test_swept_tells_what_the_sweep_came_to(watched):
    for run_id in (RUN, OTHER):
        watched.rest.set_run(run_id)
    watched.rest.fail(ApiTimeoutError("slow"))
    watched.rest.during = lambda run_id: watched.fake.advance(1.5)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    monitor.monitor_run(OTHER, watched.service)

    watched.fake.advance(10)

    swept = watched.events.one("swept")
    assert (swept.runs, swept.requests, swept.errors) == (2, 2, 1)
    assert swept.duration == 3.0
    assert swept.run_id is None


def test_a_healthy_run_is_told_of_by_nothing_but_its_status(world):
    path = weights("000100")
    world.rest.set_run(RUN, last_checkpoint=path)
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    before = run.status()

    world.fake.advance(10)

    assert world.events.names == []
    assert before.last_poll is None
    assert run.status().last_poll is not None
    assert run.status().last_checkpoint.tinker_path == path


# Polls that fail


def times_of(world, name, seconds, step=1.0):
    """At which seconds events of a name come, within so many seconds."""
    times = []
    began = world.fake.now()
    with signals.subscribe(lambda *_, **__: times.append(world.fake.now()), name):
        while world.fake.now() < began + seconds:
            world.fake.advance(step)
    return times


def test_poll_error_comes_when_a_run_begins_to_fail_then_at_most_once_a_minute(world):
    world.rest.set_run(RUN)
    world.rest.fail(ApiTimeoutError("slow"), times=19)
    run = world.monitor().monitor_run(RUN, world.service)

    times = times_of(world, "poll_error", 190)

    assert times == [10.0, 70.0, 130.0, 190.0]
    assert isinstance(world.events.of("poll_error")[0].error, ApiTimeoutError)
    assert run.state == "failing"


def test_poll_error_comes_at_once_again_after_a_success(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)
    world.rest.fail(ApiTimeoutError("slow"))
    world.fake.advance(10)
    world.fake.advance(10)
    assert (run.state, run.status().last_error) == ("healthy", None)

    world.rest.fail(ApiTimeoutError("slow again"))
    world.fake.advance(10)

    assert [str(event.error) for event in world.events.of("poll_error")] == ["slow", "slow again"]
    assert str(run.status().last_error) == "slow again"


def test_poll_error_is_published_for_each_run_that_fails(world):
    monitor = world.monitor()
    for run_id in (RUN, OTHER):
        monitor.monitor_run(run_id, world.service)
    world.rest.fail(ApiTimeoutError("slow"), times=6)

    world.fake.advance(30)

    assert sorted(event.run_id for event in world.events.of("poll_error")) == [RUN, OTHER]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "corrupted",
        [],
        {},
        {"training_run_id": RUN, "corrupted": "true"},
        {"training_run_id": 7},
        {"training_run_id": OTHER, "corrupted": True},
    ],
    ids=repr,
)
def test_an_answer_that_does_not_fit_is_a_poll_error_of_that_run_alone(world, answer):
    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            return answer if run_id == RUN else {"training_run_id": run_id}

    monitor = world.monitor(options={"rest_module": Rest})
    run, other = (monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER))

    world.fake.advance(10)

    assert world.events.names == ["poll_error"]
    assert world.events.one("poll_error").run_id == RUN
    assert isinstance(world.events.one("poll_error").error, ApiResponseError)
    assert (run.state, other.state) == ("failing", "healthy")


@pytest.mark.parametrize("error", [ApiTimeoutError("slow"), ValueError("a bug"), KeyError("x")])
def test_a_run_whose_polls_fail_stays_monitored_and_is_recovered_when_seen_again(world, error):
    world.corrupt()
    world.rest.fail(error, times=5)
    world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(60)

    assert world.events.names == ["poll_error", *RECOVERY]


def test_a_poll_error_does_not_show_the_key(world):
    world.rest.fail(ValueError("bad header X-API-Key: tml-fake"))
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10)

    event = world.events.one("poll_error")
    assert "tml-fake" not in repr(event)
    assert "tml-fake" not in str(run.status().last_error)
    assert event.error.__cause__ is None
    assert event.error.__context__ is None
