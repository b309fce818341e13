"""Accounts that are blocked: their recoveries wait, nothing is used up, and it is told once."""

from __future__ import annotations

import pytest
from support.world import OTHER, RUN, StatusError, weights

from tinkex import Policy, RecoveryExecutor
from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient, InlineExecutor

pytestmark = pytest.mark.usefixtures("no_environment")

BLOCKING = pytest.mark.parametrize("status", [401, 402, 403])


def fifty(world, **policy):
    """A monitor with fifty corrupted runs of one account."""
    monitor = world.monitor(max_attempts=1, **policy)
    runs = []
    for number in range(50):
        world.corrupt(f"{number}:train:0")
        runs.append(monitor.monitor_run(f"{number}:train:0", world.service))
    return monitor, runs


def started_after(world):
    """How many seconds after the first event each attempt began."""
    began = world.events.events[0].time
    return [(event.time - began).total_seconds() for event in world.events.of("started")]


@BLOCKING
def test_a_blocked_account_pauses_all_its_recoveries_and_uses_up_no_attempt(world, status):
    _, runs = fifty(world)
    world.service.fail(StatusError(status), times=50 * 10)

    world.fake.advance(60)

    paused = world.events.one("paused")
    assert (paused.run_id, getattr(paused.error, "status_code", None)) == (None, status)
    assert set(paused.runs) == {run.run_id for run in runs}
    assert world.events.of("resumed") == []
    assert world.events.of("exhausted") == []
    assert {event.attempt for event in world.events.of("started")} == {1}
    assert {run.state for run in runs} <= {"waiting", "recovering"}


@BLOCKING
def test_an_account_that_works_again_resumes_all_its_recoveries(world, status):
    _, runs = fifty(world)
    world.service.fail(StatusError(status), times=3)

    world.fake.advance(100)

    assert len(world.events.of("paused")) == 1
    resumed = world.events.one("resumed")
    assert (resumed.run_id, getattr(resumed.error, "status_code", None)) == (None, status)
    assert [run.status().recoveries for run in runs] == [1] * 50
    assert {event.attempt for event in world.events.of("completed")} == {1}
    names = world.events.names
    assert names.index("paused") < names.index("resumed")


def test_one_run_at_a_time_tries_whether_a_blocked_account_works_again(world):
    fifty(world)
    world.service.fail(StatusError(402), times=10_000)
    world.fake.advance(10)
    began = len(world.events.of("started"))

    world.fake.advance(50)

    assert began < 50
    assert len(world.events.of("started")) - began == 5
    assert len(world.events.of("paused")) == 1


def test_the_only_run_of_a_blocked_account_is_recovered_when_it_works_again(world):
    world.corrupt()
    world.service.fail(StatusError(402), times=4)
    run = world.monitor(max_attempts=1).monitor_run(RUN, world.service)

    world.fake.advance(60)

    assert run.status().recoveries == 1
    assert [event.retry_in for event in world.events.of("failed")] == [10.0] * 4
    assert started_after(world) == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert (len(world.events.of("paused")), len(world.events.of("resumed"))) == (1, 1)


@BLOCKING
def test_polls_that_are_refused_pause_the_account_once_and_resume_it_once(world, status):
    monitor = world.monitor()
    for number in range(50):
        world.rest.set_run(f"{number}:train:0")
        monitor.monitor_run(f"{number}:train:0", world.service)
    world.rest.fail(ApiStatusError.of(status), times=50 * 3)

    world.fake.advance(60)

    assert len(world.events.of("paused")) == 1
    assert len(world.events.one("paused").runs) == 50
    assert len(world.events.of("resumed")) == 1
    assert world.events.of("missing") == []
    assert {snapshot.state for snapshot in monitor.status()} == {"healthy"}


def test_a_blocked_account_may_be_blocked_and_work_again_a_second_time(world):
    world.rest.set_run(RUN)
    world.monitor().monitor_run(RUN, world.service)
    for _ in range(2):
        world.rest.fail(ApiStatusError.of(401), times=2)
        world.fake.advance(30)

    assert [n for n in world.events.names if n != "poll_error"] == ["paused", "resumed"] * 2


def test_one_run_that_is_refused_while_others_of_its_account_work_is_told_of_once(world):
    refused = "refused:train:0"

    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            if run_id == refused:
                raise ApiStatusError.of(403)
            return {"training_run_id": run_id}

    monitor = world.monitor(options={"rest_module": Rest})
    for run_id in (refused, RUN):
        monitor.monitor_run(run_id, world.service)

    world.fake.advance(100)

    assert len(world.events.of("paused")) <= 1
    assert len(world.events.of("resumed")) == len(world.events.of("paused"))


@BLOCKING
def test_a_listing_of_checkpoints_that_is_refused_pauses_the_account_too(world, status):
    path = world.corrupt()
    refusals = [ApiStatusError.of(status)] * 2

    class Rest:
        get_training_run = staticmethod(world.rest.get_training_run)

        @staticmethod
        def list_checkpoints(config, run_id):
            if refusals:
                raise refusals.pop()
            return ()

    monitor = world.monitor(max_attempts=1, options={"rest_module": Rest})
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(60)

    assert world.service.created == [(path, True)]
    assert (len(world.events.of("paused")), len(world.events.of("resumed"))) == (1, 1)
    assert run.status().recoveries == 1


def test_an_account_resumes_when_an_attempt_fails_for_another_reason(world):
    world.corrupt()
    world.service.fail(StatusError(402), times=2)
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(60)

    assert [n for n in world.events.names if n in ("paused", "resumed", "completed")] == [
        "paused",
        "resumed",
        "completed",
    ]
    assert run.status().recoveries == 1


def test_recoveries_that_were_paused_all_go_on_when_the_polls_work_again(world):
    monitor = world.monitor(max_attempts=1)
    for number in range(3):
        world.corrupt(f"{number}:train:0")
        monitor.monitor_run(f"{number}:train:0", world.service)
    world.rest.set_run(RUN)
    monitor.monitor_run(RUN, world.service)
    world.service.fail(StatusError(402), times=2)
    world.fake.advance(10)
    world.rest.fail(ApiStatusError.of(402), times=2)

    world.fake.advance(20)
    assert world.service.created == []
    world.fake.advance(10)

    assert len(world.service.created) == 3
    assert (len(world.events.of("paused")), len(world.events.of("resumed"))) == (1, 1)
    assert len(world.events.of("failed")) == 2


def test_an_account_that_is_blocked_does_not_hold_up_another(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    blocked = FakeServiceClient()
    blocked.__dict__["_api_key"] = "tml-of-another-account"
    blocked.fail(StatusError(402), times=99)
    monitor = world.monitor()
    stuck = monitor.monitor_run(RUN, blocked)
    other = monitor.monitor_run(OTHER, world.service)

    world.fake.advance(30)

    assert (stuck.state, other.state) == ("waiting", "healthy")
    assert world.events.one("paused").runs == (RUN,)


def test_a_run_of_a_blocked_account_can_be_stopped(world):
    world.corrupt()
    world.service.fail(StatusError(402), times=99)
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    world.events.clear()

    run.stop()
    world.fake.advance(100)

    assert world.events.names == []
    assert world.fake.pending == ()


def test_a_direct_recovery_of_a_blocked_account_ends_because_nothing_tells_when_it_works(
    world,
):
    world.corrupt()
    world.service.fail(StatusError(402))
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)

    future = executor.recover(RUN, world.service, Policy(enabled=True))

    assert world.events.names == ["started", "checkpoint_selected", "failed", "exhausted"]
    assert isinstance(future.exception(0), StatusError)
