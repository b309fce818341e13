"""The shortest way in: one run, one `with` line."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from support.loops import Once, SdkError, train
from support.world import RUN, weights

import tinkex
from tinkex import Policy
from tinkex.errors import PolicyError, RecoveryDisabledError
from tinkex.testing import FakeTrainingClient, InlineExecutor


@pytest.fixture
def options(world):
    """What makes a watched run one without threads."""
    world.rest.set_run(RUN)
    return {
        "rest_module": world.rest,
        "scheduler": world.fake,
        "executor": InlineExecutor(),
    }


def fail(segment):
    raise SdkError(f"Adapter {segment.client.model_id} not found")


def test_a_watched_run_is_monitored_for_as_long_as_the_block_lasts(world, options):
    client = FakeTrainingClient(RUN)

    with tinkex.watch(client, world.service, **options) as run:
        world.fake.advance(100.0)
        inside = (run.run_id, run.client, run.state)
    polls = len(world.rest.calls)
    world.fake.advance(100.0)

    assert inside == (RUN, client, "healthy")
    assert polls == 3
    assert len(world.rest.calls) == polls
    assert run.state == "stopped"


def test_a_watched_loop_goes_on_after_a_recovery(world, options):
    client = FakeTrainingClient(RUN)

    with tinkex.watch(client, world.service, **options) as run:
        diary = train(run, 9, before=Once(7, fail))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.service.created == [(weights("000005"), True)]


def test_a_future_of_a_client_is_waited_for(world, options):
    client = FakeTrainingClient(RUN)
    future = Future()
    future.set_result(client)

    with tinkex.watch(future, world.service, **options) as run:
        assert run.client is client


@pytest.mark.parametrize(
    "policy",
    [Policy(enabled=True, poll_interval=7.0), {"enabled": True, "poll_interval": 7.0}],
    ids=["policy", "mapping"],
)
def test_a_policy_may_be_given(world, options, policy):
    with tinkex.watch(FakeTrainingClient(RUN), world.service, policy, **options):
        world.fake.advance(71.0)

    assert len(world.rest.calls) == 10


@pytest.mark.parametrize(
    ("policy", "error"),
    [({"enabled": False}, RecoveryDisabledError), ({"poll_intervall": 1}, PolicyError)],
)
def test_a_policy_that_cannot_be_used_is_refused(world, options, policy, error):
    with (
        pytest.raises(error),
        tinkex.watch(FakeTrainingClient(RUN), world.service, policy, **options),
    ):
        pytest.fail("the block was entered")

    assert world.fake.pending == ()


def test_what_has_no_run_is_refused_and_nothing_goes_on(world, options):
    with pytest.raises(TypeError, match="model_id"), tinkex.watch(object(), None, **options):
        pytest.fail("the block was entered")

    assert world.fake.pending == ()


def test_an_exception_in_the_block_is_raised_unchanged_and_ends_the_monitor(world, options):
    bug = KeyError("labels")

    with (
        pytest.raises(KeyError) as caught,
        tinkex.watch(FakeTrainingClient(RUN), world.service, **options),
    ):
        raise bug

    assert caught.value is bug
    assert world.fake.pending == ()
