"""x"""

from __future__ import annotations

import pytest
from support.world import ATTEMPT, FAILED_ATTEMPT, RUN, StatusError, weights

from tinkex import Policy, RecoveryExecutor, Specific
from tinkex.errors import (
    ApiStatusError,
    CheckpointMissingError,
)
from tinkex.testing import FakeRest, InlineExecutor
from tinkex.types import Checkpoint

ENABLED = Policy(enabled=True)

pytestmark = pytest.mark.usefixtures("no_environment")


def test_the_newest_checkpoint_is_chosen(world, recover):
    world.corrupt(RUN, "000050", "000100", "000150")

    recover()

    event = world.events.one("checkpoint_selected")
    assert event.checkpoint.tinker_path == weights("000150")
    assert (event.strategy, event.attempt) == ("latest", 1)


def test_a_specific_strategy_chooses_that_one(world, recover):
    world.corrupt(RUN, "000050", "000100")

    recover(checkpoint_strategy=weights("000050"))

    assert world.events.one("started").strategy == Specific(weights("000050"))
    assert world.events.one("checkpoint_selected").strategy == Specific(weights("000050"))
    assert world.service.created == [(weights("000050"), True)]


def test_a_checkpoint_that_does_not_load_gives_way_to_the_one_before_at_once(world, recover):
    world.corrupt(RUN, "a", "b", "c")
    world.service.fail(ApiStatusError.of(404, "gone"))
    world.service.fail(StatusError(422))

    event = recover().result(0)

    assert world.events.names == [*FAILED_ATTEMPT, *FAILED_ATTEMPT, *ATTEMPT, "completed"]
    assert [e.checkpoint.checkpoint_id for e in world.events.of("checkpoint_selected")] == [*"cba"]
    assert [failed.retry_in for failed in world.events.of("failed")] == [0.0, 0.0]
    assert event.attempt == 3
    assert world.fake.now() == 0.0


def test_no_more_older_checkpoints_are_tried_than_the_policy_allows(world, recover):
    world.corrupt(RUN, *"abcdef")
    world.service.fail(StatusError(404), times=9)

    future = recover(fallback_checkpoints=2)

    assert [e.checkpoint.checkpoint_id for e in world.events.of("checkpoint_selected")] == [*"fed"]
    assert world.events.names[-2:] == ["failed", "exhausted"]
    assert getattr(future.exception(0), "status_code", None) == 404


def test_each_checkpoint_gets_the_attempts_of_the_policy(world, recover):
    world.corrupt(RUN, "a", "b")
    for error in [TimeoutError(), StatusError(404), TimeoutError(), TimeoutError()]:
        world.service.fail(error)

    future = recover(max_attempts=2)
    world.fake.advance(60)

    assert [e.checkpoint.checkpoint_id for e in world.events.of("checkpoint_selected")] == [*"bbaa"]
    assert isinstance(future.exception(0), TimeoutError)


def test_weights_only_is_the_last_resort_where_the_policy_allows_it(world, recover):
    world.corrupt(RUN, "a", "b")
    world.service.fail(StatusError(400), times=2)

    event = recover(allow_weights_only=True).result(0)

    assert world.service.created == [(weights("b"), False)]
    assert event.attempt == 3


def test_weights_only_is_not_resorted_to_unless_allowed(world, recover):
    world.corrupt(RUN, "a")
    world.service.fail(StatusError(400))

    future = recover()

    assert isinstance(future.exception(0), StatusError)
    assert world.service.created == []


def test_a_run_without_a_checkpoint_is_exhausted_with_what_to_do(world, recover):
    world.rest.set_run(RUN, corrupted=True)

    error = recover().exception(0)

    assert world.events.names == ["started", "failed", "exhausted"]
    assert isinstance(error, CheckpointMissingError)
    assert error.run_id == RUN
    assert "save_state" in str(error)


def test_a_run_whose_only_checkpoint_expired_says_which_and_when(world, recover):
    expired = {"tinker_path": weights("a"), "expires_at": "2001-02-03T00:00:00Z"}
    world.rest.set_run(RUN, corrupted=True, last_checkpoint=expired)

    error = recover().exception(0)

    assert weights("a") in str(error)
    assert "2001-02-03" in str(error)


def test_a_server_that_cannot_list_leaves_what_the_poll_saw(world):
    path = world.corrupt()

    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            return world.rest.get_training_run(config, run_id)

        @staticmethod
        def list_checkpoints(config, run_id):
            raise ApiStatusError.of(404, "no such route")

    monitor = world.monitor(options={"rest_module": Rest})
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)

    assert world.events.one("completed").checkpoint.tinker_path == path


def test_a_listing_that_fails_for_now_is_tried_again_where_nothing_else_is_known(world):
    class Rest(FakeRest):
        failures = 1

        def list_checkpoints(self, config, run_id):
            if self.failures:
                self.failures -= 1
                raise ApiStatusError.of(502, "for now")
            return (Checkpoint.from_path(weights("a")),)

    executor = RecoveryExecutor(InlineExecutor(), rest_module=Rest(), scheduler=world.fake)
    future = executor.recover(RUN, world.service, ENABLED)
    world.fake.advance(10)

    assert world.events.names == ["started", "failed", *ATTEMPT, "completed"]
    assert future.result(0).checkpoint.tinker_path == weights("a")


def test_the_checkpoints_of_earlier_generations_are_fallen_back_to(world):
    world.corrupt(RUN, "a", "b")
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    second = run.run_id
    world.corrupt(second, "c")
    world.service.fail(StatusError(404), times=2)
    world.events.clear()

    world.fake.advance(10)

    assert [e.checkpoint.tinker_path for e in world.events.of("checkpoint_selected")] == [
        weights("c", second),
        weights("b"),
        weights("a"),
    ]


def test_a_checkpoint_that_did_not_load_once_is_not_tried_again_by_a_later_incident(world):
    world.corrupt(RUN, "a", "b")
    world.service.fail(StatusError(404))
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    assert world.service.created == [(weights("a"), True)]

    world.rest.set_run(run.run_id, corrupted=True)
    world.fake.advance(10)

    assert world.service.created == [(weights("a"), True), (weights("a"), True)]
