"""What leaves the `with` block of a segment: the server's errors, the caller's own, and the end."""

from __future__ import annotations

import logging

import pytest
from support.loops import Once, SdkError, begin, train
from support.world import RUN, ManualExecutor, weights

from tinkex.errors import ApiStatusError, RecoveryExhaustedError, SegmentSupersededError
from tinkex.testing import FakeTrainingClient

#: So rare that in these tests only failures have a run polled.
NEVER = 100_000.0

#: What real servers say of a client that is of no more use.
UNUSABLE = [
    "Error code: 422 - {'detail': 'Future failed: Adapter 3f0c:train:0 not found'}",
    "Error code: 400 - {'detail': 'Model 3f0c:train:0 not loaded'}",
    "Error code: 400 - {'detail': 'this training client is poisoned'}",
    "Error code: 404 - {'detail': 'Training run 3f0c:train:0 not found'}",
    "Error code: 400 - {'detail': 'Session 3f0c has expired'}",
]

#: What they say where the client is as good as before.
STILL_USABLE = [
    "Error code: 400 - {'detail': 'sequence of 40000 tokens is too long'}",
    "Error code: 429 - {'detail': 'slow down'}",
    "Error code: 500 - {'detail': 'internal error'}",
    "Connection error.",
]


def chained(error, *, cause=None, context=None):
    """An error as `raise error from cause` makes it inside the handling of `context`."""
    error.__cause__, error.__context__ = cause, context
    return error


def fail_with(world, error, *, corrupt=True):
    """Before a step: raise, the run having been corrupted."""

    def action(segment):
        if corrupt:
            world.corrupt(RUN, "000005")
        raise error

    return action


# Which exceptions are the server's


def test_a_loop_that_nothing_happens_to_is_one_segment(world):
    run, client = begin(world)

    diary = train(run, 12)

    assert diary.trained == [(RUN, step) for step in range(12)]
    assert diary.resumes == [None]
    assert [name for method, name in client.calls if method == "save_state"] == ["000005", "000010"]


@pytest.mark.parametrize(
    "error",
    [
        SdkError("failed"),
        chained(RuntimeError("step failed"), cause=SdkError("failed")),
        chained(RuntimeError("step failed"), context=SdkError("failed")),
        chained(RuntimeError("a"), cause=KeyError("b"), context=SdkError("c")),
        chained(RuntimeError("a"), cause=SdkError("c"), context=KeyError("b")),
    ],
    ids=["itself", "cause", "context", "context beside a cause", "cause beside a context"],
)
def test_an_error_of_the_sdk_on_a_corrupted_run_leads_to_the_next_segment(world, error):
    run, _ = begin(world, poll_interval=NEVER)

    diary = train(run, 9, before=Once(7, fail_with(world, error)))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert diary.trained[-1] == (run.run_id, 8)
    assert world.service.created == [(weights("000005"), True)]


@pytest.mark.parametrize("error", [ValueError("422"), RuntimeError("no answer")], ids=repr)
def test_whatever_comes_through_result_is_the_servers(world, error):
    run, client = begin(world, poll_interval=NEVER)

    def break_client(segment):
        world.corrupt(RUN, "000005")
        client.fail(error)

    diary = train(run, 9, before=Once(7, break_client))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]


@pytest.mark.parametrize("link", ["cause", "context"])
def test_what_came_through_result_stays_the_servers_when_the_loop_wraps_it(world, link):
    run, client = begin(world, poll_interval=NEVER)
    entered = 0

    for segment in run.segments():
        entered += 1
        with segment:
            if entered == 1:
                segment.save_state("000000", step=0)
                world.corrupt(RUN, "000000")
                client.fail(ValueError("422"))
                try:
                    segment.result(client.optim_step())
                except ValueError as error:
                    wrapped = RuntimeError("my step failed")
                    raise chained(wrapped, **{link: error})  # noqa: B904

    assert entered == 2
    assert run.state == "healthy"


def test_a_save_that_fails_in_its_call_or_in_its_future_is_the_servers(world):
    class RaisesAtOnce(FakeTrainingClient):
        def save_state(self, name, user_metadata=None):
            if name == "000010":
                world.corrupt(RUN, "000005")
                raise ValueError("422")
            return super().save_state(name, user_metadata)

    world.rest.set_run(RUN)
    monitor = world.monitor(poll_interval=NEVER)
    run = monitor.monitor_run(RUN, world.service, client=RaisesAtOnce(RUN))

    diary = train(run, 11)

    assert diary.steps == [*range(10), *range(5, 11)]


@pytest.mark.parametrize("is_corrupted", [True, False], ids=["corrupted", "healthy"])
@pytest.mark.parametrize("bug", [KeyError("labels"), ValueError("shape"), RuntimeError()], ids=repr)
def test_the_callers_own_bug_is_raised_unchanged_and_at_once(world, bug, is_corrupted):
    run, _ = begin(world, poll_interval=NEVER)

    with pytest.raises(type(bug)) as caught:
        train(run, 9, before=Once(7, fail_with(world, bug, corrupt=is_corrupted)))

    assert caught.value is bug
    assert world.fake.now() == 0.0
    assert world.rest.calls == []
    assert world.service.created == []


def test_a_bug_after_a_failure_that_the_loop_dealt_with_is_not_the_servers(world):
    run, client = begin(world, poll_interval=NEVER)
    bug = KeyError("labels")

    def retry_then_fail(segment):
        client.fail(ValueError("503"))
        with pytest.raises(ValueError, match="503"):
            segment.result(client.optim_step())
        raise bug

    with pytest.raises(KeyError) as caught:
        train(run, 9, before=Once(7, retry_then_fail))

    assert caught.value is bug
    assert world.rest.calls == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_at_once_whatever_it_came_from(world, kind):
    run, _ = begin(world, poll_interval=NEVER)
    error = chained(kind(), cause=SdkError("failed"))

    with pytest.raises(kind) as caught:
        train(run, 9, before=Once(7, fail_with(world, error)))

    assert caught.value is error
    assert world.rest.calls == []
    assert world.fake.now() == 0.0


# What becomes of the server's errors


@pytest.mark.parametrize("after", [1.0, 15.0, 29.0])
def test_a_flag_that_comes_within_the_time_to_confirm_is_waited_for(world, after):
    run, _ = begin(world, poll_interval=NEVER, confirm_within=30.0)

    def fail(segment):
        world.fake(after, lambda: world.corrupt(RUN, "000005")).start()
        raise SdkError("failed")

    diary = train(run, 9, before=Once(7, fail))

    assert diary.steps[-1] == 8
    assert world.service.created == [(weights("000005"), True)]
    assert after <= world.fake.now() <= 30.0


@pytest.mark.parametrize("seconds", [0.0, 5.0, 30.0])
def test_an_error_that_no_flag_follows_is_raised_unchanged_after_that_time(world, seconds):
    run, _ = begin(world, poll_interval=NEVER, confirm_within=seconds)
    error = SdkError(STILL_USABLE[0])
    world.fake(seconds + 3.0, lambda: world.corrupt(RUN, "000005")).start()

    with pytest.raises(SdkError) as caught:
        train(run, 9, before=Once(7, fail_with(world, error, corrupt=False)))

    assert caught.value is error
    assert world.fake.now() == seconds
    assert world.rest.calls[0] == ("get_training_run", RUN)
    assert world.service.created == []
    assert run.state == "healthy"


@pytest.mark.parametrize("text", UNUSABLE)
def test_a_client_of_no_more_use_is_replaced_though_the_run_is_not_flagged(world, text):
    run, client = begin(world, poll_interval=NEVER, recover_on="unusable")

    diary = train(run, 9, before=Once(7, lambda segment: client.fail(SdkError(text))))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.fake.now() == 0.0
    assert run.lineage[0].cause == "unusable"
    assert text in run.lineage[0].error
    detected = world.events.one("detected")
    assert (detected.cause, detected.run, text in detected.reason) == ("unusable", None, True)


@pytest.mark.parametrize("text", UNUSABLE)
def test_a_policy_may_recover_flagged_runs_only(world, text):
    run, _ = begin(world, poll_interval=NEVER, recover_on="corrupted")

    with pytest.raises(SdkError):
        train(run, 9, before=Once(7, fail_with(world, SdkError(text), corrupt=False)))

    assert world.service.created == []


@pytest.mark.parametrize("text", STILL_USABLE)
def test_an_error_that_says_nothing_of_the_client_recovers_nothing(world, text):
    run, _ = begin(world, poll_interval=NEVER)

    with pytest.raises(SdkError):
        train(run, 9, before=Once(7, fail_with(world, SdkError(text), corrupt=False)))

    assert world.service.created == []


def test_the_exception_is_kept_in_the_incident_that_it_began(world):
    run, _ = begin(world, poll_interval=NEVER)

    train(run, 9, before=Once(7, fail_with(world, SdkError("the optimizer exploded"))))

    assert run.lineage[0].cause == "corrupted"
    assert "the optimizer exploded" in run.lineage[0].error


def test_an_exception_that_came_to_nothing_is_not_blamed_for_a_later_incident(world):
    run, _ = begin(world, poll_interval=NEVER, confirm_within=0.0)
    with pytest.raises(SdkError):
        train(run, 9, before=Once(7, fail_with(world, SdkError("too long"), corrupt=False)))
    world.corrupt(RUN, "000005")

    world.fake.advance(NEVER)

    assert run.lineage[0].error is None


def test_an_error_of_a_client_that_was_replaced_meanwhile_recovers_nothing_again(world):
    run, _ = begin(world)

    def overtaken(segment):
        world.corrupt(RUN, "000005")
        world.fake.advance(10.0)
        raise SdkError(UNUSABLE[0])

    diary = train(run, 9, before=Once(7, overtaken))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert len(run.lineage) == 2


def test_a_superseded_segment_may_be_left_by_an_error_that_the_loop_made_of_it(world):
    run, _ = begin(world)

    def wrap(segment):
        world.corrupt(RUN, "000005")
        world.fake.advance(10.0)
        try:
            _ = segment.client
        except SegmentSupersededError as error:
            raise RuntimeError("my step failed") from error

    diary = train(run, 9, before=Once(7, wrap))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]


# The wait for the recovery


def test_the_wait_for_a_recovery_says_so_each_minute_and_ends(world, caplog):
    executor = ManualExecutor()
    run, _ = begin(world, executor=executor, poll_interval=NEVER, attempt_timeout=9000.0)
    caplog.set_level(logging.WARNING, logger="tinkex")

    with pytest.raises(TimeoutError, match="200"):
        train(run, 9, max_wait=200.0, before=Once(7, fail_with(world, SdkError("failed"))))

    waits = [line for line in caplog.messages if "waits" in line]
    assert world.fake.now() == 200.0
    assert len(waits) == 3
    assert all(RUN in line for line in waits)


def test_a_recovery_that_takes_minutes_is_waited_for(world):
    run, _ = begin(world, poll_interval=NEVER, backoff=100.0, max_backoff=100.0, max_attempts=4)
    world.service.fail(ApiStatusError.of(500), times=3)

    diary = train(run, 9, before=Once(7, fail_with(world, SdkError("failed"))))

    assert diary.steps[-1] == 8
    assert world.fake.now() >= 150.0
    assert run.lineage[0].attempts == 4


def test_an_exhausted_recovery_raises_the_whole_story(world):
    run, _ = begin(world, poll_interval=NEVER, backoff=1.0, max_attempts=2)
    world.service.fail(ApiStatusError.of(500, "no capacity"))
    world.service.fail(ApiStatusError.of(502, "still none"))

    with pytest.raises(RecoveryExhaustedError) as caught:
        train(run, 9, before=Once(7, fail_with(world, SdkError("the optimizer exploded"))))

    story = str(caught.value)
    assert all(part in story for part in ("the optimizer exploded", "no capacity", "still none"))
    assert caught.value.run_id == RUN
    assert caught.value.attempts == 2
    assert caught.value.error.status == 502
