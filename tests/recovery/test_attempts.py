"""The attempts of an incident: how many, how far apart, and what is told of each."""

from __future__ import annotations

import logging
from concurrent.futures import Executor

import pytest
import tenacity
from support.world import FAILED_ATTEMPT, OTHER, RUN, ManualExecutor, StatusError, weights

from tinkex import Policy, RecoveryExecutor, signals
from tinkex.errors import (
    ApiStatusError,
)
from tinkex.testing import FakeServiceClient

ENABLED = Policy(enabled=True)

pytestmark = pytest.mark.usefixtures("no_environment")


def attempts(world):
    """The numbers and the moments of the attempts."""
    began = world.events.events[0].time
    return [
        (event.attempt, round((event.time - began).total_seconds(), 3))
        for event in world.events.of("started")
    ]


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 5])
def test_there_are_as_many_attempts_as_the_policy_says(world, recover, max_attempts):
    world.corrupt()
    world.service.fail(ValueError("no"), times=99)

    future = recover(max_attempts=max_attempts)
    world.fake.advance(1_000)

    assert world.events.names == [*FAILED_ATTEMPT * max_attempts, "exhausted"]
    assert [event.attempt for event in world.events.of("failed")] == [*range(1, max_attempts + 1)]
    exhausted = world.events.one("exhausted")
    assert (exhausted.attempt, str(exhausted.error)) == (max_attempts, "no")
    assert future.exception(0) is exhausted.error
    assert world.fake.pending == ()


def test_a_failed_attempt_tells_when_the_next_comes_and_the_last_that_none_does(world, recover):
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)

    recover()
    world.fake.advance(100)

    first, second, last = (event.retry_in for event in world.events.of("failed"))
    assert 2.5 <= first <= 5.0
    assert 5.0 <= second <= 10.0
    assert last is None
    assert attempts(world) == [(1, 0.0), (2, round(first, 3)), (3, round(first + second, 3))]


@pytest.mark.parametrize("number", range(30))
def test_the_backoff_has_jitter_within_its_bounds(world, recover, number):
    run_id = f"{number}:train:0"
    world.corrupt(run_id)
    world.service.fail(ValueError("no"), times=5)

    recover(run_id, max_attempts=5, backoff=8.0, max_backoff=20.0)
    world.fake.advance(1_000)

    plain = [8.0, 16.0, 20.0, 20.0]
    delays = [event.retry_in for event in world.events.of("failed")][:-1]
    assert all(p / 2 <= delay <= p for delay, p in zip(delays, plain, strict=True))


def test_a_backoff_waits_on_the_scheduler_and_holds_no_slot(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    pool = ManualExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)
    failing = FakeServiceClient()
    failing.fail(ConnectionResetError())
    executor.recover(RUN, failing, ENABLED)
    other = executor.recover(OTHER, world.service, ENABLED)

    pool.run_next()
    pool.run_next()

    assert other.result(0).run_id == OTHER
    assert world.fake.now() == 0.0
    assert len(world.fake.pending) == 1


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(7), [(1, 0.0), (2, 7.0), (3, 14.0)]),
        (tenacity.wait_none(), [(1, 0.0), (2, 0.0), (3, 0.0)]),
        (tenacity.wait_incrementing(start=1, increment=2), [(1, 0.0), (2, 1.0), (3, 4.0)]),
    ],
    ids=["fixed", "none", "incrementing"],
)
def test_a_tenacity_wait_strategy_is_used_as_it_is(world, recover, wait, expected):
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)

    recover(wait=wait)
    world.fake.advance(100)

    assert attempts(world) == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (tenacity.stop_after_attempt(2), [1, 2]),
        (tenacity.stop_after_delay(20), [1, 2, 3]),
        (tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(10), [1, 2]),
    ],
    ids=["attempts", "delay", "either"],
)
def test_a_tenacity_stop_strategy_ends_the_incident(world, recover, stop, expected):
    world.corrupt()
    world.service.fail(ValueError("no"), times=99)

    recover(stop=stop, wait=tenacity.wait_fixed(10))
    world.fake.advance(1_000)

    assert [number for number, _ in attempts(world)] == expected
    assert len(world.events.of("exhausted")) == 1


def test_a_strategy_that_raises_ends_the_incident_and_is_logged(world, recover, caplog):
    class Broken(tenacity.wait.wait_base):
        def __call__(self, retry_state):
            raise ZeroDivisionError

    world.corrupt()
    world.service.fail(ValueError("no"))

    with caplog.at_level(logging.ERROR):
        future = recover(wait=Broken())

    assert world.events.names[-1] == "exhausted"
    assert str(future.exception(0)) == "no"
    assert ZeroDivisionError in [r.exc_info[0] for r in caplog.records if r.exc_info]


def test_a_server_that_asks_for_patience_is_waited_for_and_uses_up_no_attempt(world, recover):
    world.corrupt()
    world.service.fail(ApiStatusError.of(503, retry_after=40.0), times=6)

    future = recover(max_attempts=1)
    world.fake.advance(39.9)
    assert len(world.events.of("started")) == 1
    world.fake.advance(1_000)

    assert future.result(0).client is world.service.clients[0]
    assert len(world.events.of("failed")) == 6


def test_a_request_that_the_server_will_never_take_is_not_repeated(world, recover):
    world.corrupt()
    world.service.fail(StatusError(418))

    future = recover()

    assert world.events.names == [*FAILED_ATTEMPT, "exhausted"]
    assert isinstance(future.exception(0), StatusError)


def test_callbacks_come_after_their_signals_and_before_the_future(world, recover):
    world.corrupt()
    log = []
    world.service.fail(ValueError("no"))
    with signals.subscribe(lambda _, event: log.append(event.name), "completed", "exhausted"):
        recover(max_attempts=1, on_failure=lambda *args: log.append(("on_failure", *args)))
        recover(on_recovery=lambda *args: log.append(("on_recovery", *args)))

    (client,) = world.service.clients
    (failed, *failure), (recovered, old, new, checkpoint) = log[1], log[3]
    assert (log[0], failed, failure[0], str(failure[1])) == ("exhausted", "on_failure", RUN, "no")
    assert (log[2], recovered, old, new) == ("completed", "on_recovery", None, client)
    assert checkpoint.tinker_path == weights("000100")


def test_callbacks_that_raise_do_not_reach_the_future(world, recover, caplog):
    def broken(*_):
        raise ZeroDivisionError

    world.corrupt()
    world.service.fail(ValueError("no"))

    with caplog.at_level(logging.ERROR):
        failed = recover(max_attempts=1, on_failure=broken)
        done = recover(on_recovery=broken)

    assert str(failed.exception(0)) == "no"
    assert done.result(0).successor_id
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError] * 2


def test_a_client_that_does_not_tell_its_run_is_a_failed_attempt(world, recover):
    world.corrupt()

    class Service:
        def create_training_client_from_state_with_optimizer(self, path):
            return object()

    future = recover(service=Service(), max_attempts=1)

    assert world.events.names == [*FAILED_ATTEMPT, "exhausted"]
    assert "model_id" in str(future.exception(0))


def test_an_error_with_the_key_in_it_is_shown_without(world, recover):
    world.corrupt()
    world.service.fail(RuntimeError("401 for X-API-Key tml-fake"))

    future = recover(max_attempts=1)

    for error in (future.exception(0), world.events.one("exhausted").error):
        assert "tml-fake" not in f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"
    assert "tml-fake" not in repr(world.events.events)


class Broken(Executor):
    """A pool that takes nothing."""

    def __init__(self):
        self.submits = 0

    def submit(self, function, /, *args, **kwargs):
        self.submits += 1
        raise RuntimeError("cannot schedule new futures after shutdown")
