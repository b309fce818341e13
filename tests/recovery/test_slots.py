"""Pools and slots: how many attempts run at once, and those that take too long."""

from __future__ import annotations

import logging
from concurrent.futures import Executor

import pytest
from support.world import ATTEMPT, OTHER, RUN, ManualExecutor, weights

from tinkex import Policy, RecoveryExecutor
from tinkex.errors import (
    AttemptTimeoutError,
)
from tinkex.testing import FakeServiceClient

ENABLED = Policy(enabled=True)

pytestmark = pytest.mark.usefixtures("no_environment")


class SlowService(FakeServiceClient):
    """A service client whose creations take as long as it is told."""

    def __init__(self, fake, *seconds):
        super().__init__()
        self.fake = fake
        self.seconds = list(seconds)

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self.fake.advance(self.seconds.pop(0) if self.seconds else 0)
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


# Pools


class Broken(Executor):
    """A pool that takes nothing."""

    def __init__(self):
        self.submits = 0

    def submit(self, function, /, *args, **kwargs):
        self.submits += 1
        raise RuntimeError("cannot schedule new futures after shutdown")


def test_a_pool_that_takes_nothing_is_a_failed_attempt_and_is_asked_again(world, recover):
    world.corrupt()
    pool = Broken()

    future = recover(pool=pool)
    world.fake.advance(100)

    assert pool.submits == 3
    assert world.events.names == [*["started", "failed"] * 3, "exhausted"]
    assert "cannot schedule" in str(future.exception(0))


def test_an_attempt_that_its_pool_cancelled_is_made_again(world, recover):
    world.corrupt()
    pool = ManualExecutor()
    future = recover(pool=pool)

    pool.waiting.popleft()[0].cancel()
    world.fake.advance(10)
    pool.run_next()

    assert world.events.names == ["started", "failed", *ATTEMPT, "completed"]
    assert future.result(0).attempt == 2


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_there_are_never_more_attempts_under_way_than_slots(world, slots):
    pool = ManualExecutor()
    executor = RecoveryExecutor(
        pool, max_concurrent=slots, rest_module=world.rest, scheduler=world.fake
    )
    ids = [f"{number}:train:0" for number in range(7)]
    for run_id in ids:
        world.corrupt(run_id)
        executor.recover(run_id, world.service, ENABLED)

    most = 0
    while pool.waiting:
        most = max(most, len(pool.waiting))
        pool.run_next()

    assert most == slots
    assert [event.run_id for event in world.events.of("started")] == ids
    assert len(world.events.of("completed")) == 7


def test_a_pool_given_to_a_monitor_gets_as_many_attempts_as_it_has_workers(world):
    class Sized(ManualExecutor):
        _max_workers = 3

    pool = Sized()
    monitor = world.monitor(pool)
    for number in range(5):
        world.corrupt(f"{number}:train:0")
        monitor.monitor_run(f"{number}:train:0", world.service)

    world.fake.advance(10)

    assert len(pool.waiting) == 3


# Attempts that take too long


def test_an_attempt_that_outlasts_its_timeout_is_abandoned_and_made_again(world, recover):
    world.corrupt()
    service = SlowService(world.fake, 200)

    future = recover(service=service, attempt_timeout=100.0)

    failed = world.events.one("failed")
    assert isinstance(failed.error, AttemptTimeoutError)
    assert (failed.error.run_id, failed.error.timeout) == (RUN, 100.0)
    assert (failed.attempt, future.result(0).attempt) == (1, 2)
    assert future.result(0).client is service.clients[1]


def test_a_client_that_comes_late_is_an_orphan_recorded_and_never_trained(world, caplog):
    world.corrupt()
    service = SlowService(world.fake, 200)
    clients = []
    monitor = world.monitor(
        attempt_timeout=100.0, on_recovery=lambda old, new, _: clients.append(new)
    )
    run = monitor.monitor_run(RUN, service)

    with caplog.at_level(logging.WARNING):
        world.fake.advance(10)
        world.fake.advance(100)

    late, live = service.clients
    assert (run.client, clients) == (live, [live])
    assert [event.client for event in world.events.of("client_created")] == [live]
    assert run.lineage[0].orphans == (late.model_id,)
    assert run.lineage[1].orphans == ()
    (record,) = [r for r in caplog.records if f"made run {late.model_id} " in r.getMessage()]
    assert record.levelno == logging.WARNING


def test_an_attempt_that_ends_in_time_is_not_abandoned_later(world, recover):
    world.corrupt()
    service = SlowService(world.fake, 99)

    future = recover(service=service, attempt_timeout=100.0)
    world.fake.advance(1_000)

    assert world.events.names == [*ATTEMPT, "completed"]
    assert future.result(0).duration == 99.0
    assert world.fake.pending == ()


def test_an_abandoned_attempt_frees_its_slot_for_the_next_run(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    pool = ManualExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)
    policy = Policy(enabled=True, attempt_timeout=100.0, backoff=1_000, max_backoff=1_000)
    executor.recover(RUN, world.service, policy)
    other = executor.recover(OTHER, world.service, policy)
    pool.begin_next()
    assert not pool.waiting

    world.fake.advance(100)
    pool.run_next()

    # The one that hangs was begun first and is therefore what runs here.
    assert len(world.events.of("started")) == 2
    pool.finish_next()
    assert other.result(0).run_id == OTHER


@pytest.mark.parametrize(("workers", "most"), [(None, 34), (2, 2), (5, 5)])
def test_abandoned_attempts_that_hang_are_bounded_by_their_pool(world, workers, most):
    pool = ManualExecutor()
    if workers is not None:
        pool._max_workers = workers
    executor = RecoveryExecutor(
        pool, max_concurrent=2, rest_module=world.rest, scheduler=world.fake
    )
    policy = Policy(enabled=True, attempt_timeout=100.0, max_attempts=1)
    for number in range(40):
        world.corrupt(f"{number}:train:0")
        executor.recover(f"{number}:train:0", world.service, policy)

    for _ in range(40):
        while pool.waiting:
            pool.begin_next()
        world.fake.advance(100)
    assert len(pool.running) == most

    pool.finish_next()

    assert len(pool.waiting) == 1


def test_waiting_in_a_busy_executor_is_no_attempt_that_hangs(world):
    executor = ManualExecutor()
    run = world.monitor(executor, attempt_timeout=60.0).monitor_run(RUN, world.service)
    world.corrupt(RUN)
    world.fake.advance(10.0)

    world.fake.advance(1000.0)  # the pool is busy with other work
    executor.run_next()

    assert run.state == "healthy"
    assert world.events.of("failed") == []
    assert world.events.one("completed").attempt == 1


def test_the_time_of_an_attempt_is_counted_from_when_it_begins(world):
    executor = ManualExecutor()
    world.monitor(executor, attempt_timeout=60.0).monitor_run(RUN, world.service)
    world.corrupt(RUN)
    world.fake.advance(10.0)
    world.fake.advance(1000.0)

    executor.begin_next()
    world.fake.advance(61.0)

    assert [type(event.error) for event in world.events.of("failed")] == [AttemptTimeoutError]
