"""Loops that are broken off within a step: no step is run twice, none is left out in silence."""

from __future__ import annotations

import pytest
from support.loops import SdkError, begin, train
from support.world import RUN

from tinkex.errors import ResumePointUnknownError, SegmentSupersededError


def submit(segment):
    """A step as in the documented loop: both requests, then both results."""
    forward = segment.client.forward_backward("batch")
    update = segment.client.optim_step()
    segment.result(forward), segment.result(update)


def broken_off(run, at, error, *, after):
    """Train, and raise `error` in step `at` once the client was asked for `after` times."""
    with pytest.raises(type(error)):
        for segment in run.segments():
            with segment:
                for step in segment.steps(10):
                    if step < at:
                        submit(segment)
                        continue
                    for _ in range(after):
                        segment.client.optim_step()
                    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("mine")], ids=["ctrl-c", "bug"])
@pytest.mark.parametrize(("after", "left"), [(0, [4, 5]), (2, [5])], ids=["before", "behind"])
def test_a_cell_run_again_goes_on_with_the_first_step_that_was_not_submitted(
    world, error, after, left
):
    run, _ = begin(world)
    broken_off(run, 4, error, after=after)

    assert train(run, 6).steps == left


def test_a_step_that_may_be_half_submitted_is_not_guessed_at(world):
    run, _ = begin(world)
    broken_off(run, 4, KeyboardInterrupt(), after=1)

    with pytest.raises(ResumePointUnknownError, match="within step 4") as caught:
        train(run, 6)

    assert (caught.value.step, caught.value.checkpoint) == (4, None)


@pytest.mark.parametrize(("said", "left"), [(4, [4, 5]), (5, [5])])
def test_the_caller_may_say_whether_a_half_submitted_step_counts(world, said, left):
    run, _ = begin(world)
    broken_off(run, 4, KeyboardInterrupt(), after=1)

    assert train(run, 6, resume_step=said).steps == left


def test_an_error_of_the_server_does_not_count_the_step_it_came_from(world):
    run, client = begin(world, confirm_within=0.0)
    train(run, 4)
    client.fail(ValueError("too many tokens"), 1)

    with pytest.raises(ValueError, match="too many tokens"):
        train(run, 6)

    with pytest.raises(ResumePointUnknownError, match="within step 4"):
        train(run, 6)


def test_steps_called_again_after_a_break_goes_on_behind_the_step_that_was_submitted(world):
    run, _ = begin(world)
    done = []

    for segment in run.segments():
        with segment:
            for _ in range(2):
                for step in segment.steps(6):
                    submit(segment)
                    done.append(step)
                    if step == 3:
                        break

    assert done == [0, 1, 2, 3, 4, 5]


def test_what_was_saved_ahead_is_not_trained_again(world):
    run, _ = begin(world)
    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                for step in segment.steps(10):
                    submit(segment)
                    if step == 4:
                        segment.save_state("ahead", step=6)
                    if step == 5:
                        raise KeyboardInterrupt

    assert train(run, 8).steps[0] == 6


def test_a_recorded_checkpoint_of_the_live_run_tells_where_the_loop_is(world):
    run, _ = begin(world)
    run.record_checkpoint(f"tinker://{RUN}/weights/by-hand", step=3)

    assert train(run, 5).steps == [3, 4]


def test_a_bug_met_while_a_segment_ends_is_not_hidden(world):
    run, _ = begin(world)

    with pytest.raises(KeyError, match="mine"):
        for segment in run.segments():
            with segment:
                world.corrupt(RUN)
                world.fake.advance(10)
                try:
                    segment.result(segment.client.optim_step())
                except SegmentSupersededError:
                    raise KeyError("mine")  # noqa: B904 (that is the point)


def test_the_last_steps_of_a_run_that_was_corrupted_then_are_trained_again(world):
    run, _ = begin(world)
    trained = []
    for segment in run.segments():
        with segment:
            for step in segment.steps(6):
                submit(segment)
                trained.append(step)
                if step == 3:
                    segment.save_state("at-4", step=4)
            if len(trained) == 6:
                world.corrupt(RUN, "at-4")
                world.rest.set_run(RUN, corrupted=True)
                world.fake.advance(10)

    assert trained == [0, 1, 2, 3, 4, 5, 4, 5]
    assert len(run.lineage) == 2


def test_an_error_that_was_kept_and_raised_later_is_still_the_servers(world):
    run, client = begin(world)
    recovered = []
    for segment in run.segments():
        with segment:
            recovered.append(segment.resume)
            if segment.resume is None:
                segment.save_state("c1", step=0)
                world.rest.set_run(RUN, corrupted=True)
                client.fail(ValueError("first"), 1)
                client.fail(ValueError("second"), 1)
                met = []
                for future in (client.optim_step(), client.optim_step()):
                    try:
                        segment.result(future)
                    except ValueError as error:
                        met.append(error)
                raise RuntimeError("gathered") from met[0]

    assert [resume and resume.step for resume in recovered] == [None, 0]


class HttpError(Exception):
    """An error of an HTTP library that the loop uses for other things."""

    __module__ = "httpx"


@pytest.mark.parametrize(
    "error",
    [HttpError("404 Model foo/bar not found"), SdkError("404 Model Qwen/Qwen9 not found")],
    ids=["another library", "another model"],
)
def test_what_is_not_found_elsewhere_recovers_no_healthy_run(world, error):
    run, _ = begin(world, confirm_within=0.0)

    with pytest.raises(type(error)):
        for segment in run.segments():
            with segment:
                raise error

    assert world.service.created == []


def test_a_segment_is_entered_once(world):
    run, _ = begin(world)
    for segment in run.segments():
        with segment:
            pass

        with pytest.raises(RuntimeError, match="entered once"), segment:
            pass


@pytest.mark.parametrize("max_wait", [-1, float("nan"), None, "x", True])
def test_a_wait_without_sense_is_refused_at_the_call(world, max_wait):
    run, _ = begin(world)

    with pytest.raises((TypeError, ValueError), match="max_wait"):
        run.segments(max_wait=max_wait)
