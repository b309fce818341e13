"""What a loop states is believed only where the submissions do not say otherwise."""

from __future__ import annotations

import gc
import logging

import pytest
from support.loops import SdkError, ValidationError, begin, train
from support.world import RUN, weights

from tinkex.errors import ResumePointUnknownError, SegmentSupersededError


def submit(segment):
    segment.client.forward_backward("batch")
    segment.client.optim_step().result()


@pytest.fixture
def quiet(caplog):
    """A log without what the loops of earlier tests say when they are collected."""
    gc.collect()
    caplog.clear()
    return caplog


def errors(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


def warnings(caplog, words):
    return [r.getMessage() for r in caplog.records if words in r.getMessage()]


# Gradients that no checkpoint holds


def accumulated(run, total, *, before=lambda segment, step: None, every=6):
    """Four micro-batches to an update, saved every so many of them."""
    for segment in run.segments():
        with segment:
            if segment.start_step == 0:
                segment.save_state("000000", step=0)
            for step in segment.steps(total):
                before(segment, step)
                segment.client.forward_backward(f"batch {step}")
                if (step + 1) % 4 == 0:
                    segment.client.optim_step().result()
                if (step + 1) % every == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)


def test_a_save_between_a_gradient_and_its_update_is_no_place_to_go_back_to(world, caplog):
    run, client = begin(world)

    def interrupt(segment, step):
        if step == 7 and not world.service.created:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        accumulated(run, 12, before=interrupt)
    accumulated(run, 12)

    assert world.service.created == [(weights("000000"), True)]
    assert [step for method, step in client.calls if method == "save_state"] == [
        "000000",
        "000006",
    ]
    assert len(warnings(caplog, "gradient")) == 2  # each loop saved there


def test_such_a_save_has_no_step_on_the_server_either(world):
    run, client = begin(world)
    sent = []
    client.save_state = save_seen(client.save_state, sent)

    with next(run.segments()) as segment:
        for step in segment.steps(2):
            segment.client.forward_backward("batch")
            segment.save_state("within", step=step)
            if step == 1:
                segment.save_state("half", step=2, user_metadata={"mine": "kept"})
            else:
                segment.client.optim_step()

    assert [each.get("tinkex_step") for each in sent] == ["0", "1", None]
    assert sent[2] == {"mine": "kept"}


def save_seen(save, sent):
    def save_state(name, user_metadata=None):
        sent.append(user_metadata)
        return save(name, user_metadata)

    return save_state


# Loops that do not come back


def broken_off(world, leave):
    run, client = begin(world)
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
    leave(run, client)
    gc.collect()
    return run


def fails(segment, client):
    client.fail(SdkError("Server restored from checkpoint a"))
    segment.client.optim_step().result()


def leave_by_break(run, client):
    for segment in run.segments():
        with segment:
            fails(segment, client)
        break


def leave_by_next(run, client):
    with next(iter(run.segments())) as segment:
        fails(segment, client)


def leave_by_zip(run, client):
    for _, segment in zip([1], run.segments(), strict=False):
        with segment:
            fails(segment, client)


def leave_by_zip_at_the_next(run, client):
    for segment, _ in zip(run.segments(), [1], strict=False):
        with segment:
            fails(segment, client)


@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_next, leave_by_zip, leave_by_zip_at_the_next]
)
def test_a_loop_that_never_asks_for_the_next_segment_is_told_of(world, quiet, leave):
    broken_off(world, leave)

    assert len([line for line in errors(quiet) if "go on with segments()" in line]) == 1


def test_a_loop_that_asks_for_the_next_segment_is_not(world, quiet):
    run, client = begin(world)
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
    failing = [True]

    def once(segment, step):
        if failing and failing.pop():
            fails(segment, client)

    train(run, 3, before=once)

    assert errors(quiet) == []


# States that were loaded


@pytest.mark.parametrize("is_recovered", [False, True], ids=["in place", "recovered between"])
def test_a_state_that_was_loaded_and_not_saved_is_not_passed_over(world, is_recovered):
    run, client = begin(world)
    client.load_state = client.forward_backward
    with pytest.raises(KeyboardInterrupt), next(run.segments()) as segment:
        segment.save_state("a", step=0)
        segment.client.load_state("tinker://other:train:0/weights/x")
        submit(segment)
        raise KeyboardInterrupt
    if is_recovered:
        world.corrupt(RUN, "a")
        world.fake.advance(10)
        assert run.state == "healthy"
        assert run.run_id != RUN

    with pytest.raises(ResumePointUnknownError, match="loaded"):
        next(run.segments())


# Requests that were not seen


def test_steps_without_a_request_through_the_segments_client_are_warned_of(world, caplog):
    run, client = begin(world)

    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                for step in segment.steps(9):
                    client.forward_backward("batch")
                    client.optim_step()
                    if step == 2:
                        segment.save_state("3", step=3)
                    if step == 4:
                        raise KeyboardInterrupt

    assert len(warnings(caplog, "segment.client")) == 1


def test_steps_that_are_handed_out_ahead_are_not_warned_of(world, caplog):
    run, _ = begin(world)

    with next(run.segments()) as segment:
        for _ in list(segment.steps(3)):
            submit(segment)
        segment.save_state("a", step=3)

    assert warnings(caplog, "segment.client") == []


# Steps that are entered again


class LoaderError(Exception):
    pass


def test_steps_left_within_a_step_are_not_gone_on_with(world):
    run, _ = begin(world)

    with pytest.raises(RuntimeError, match="left within step 1"), next(run.segments()) as segment:
        segment.save_state("a", step=0)
        for step in segment.steps(9):
            segment.client.forward_backward("first half")
            if step == 1:
                break
            segment.client.optim_step().result()
        next(segment.steps(9))


@pytest.mark.parametrize("whole", [True, False])
def test_steps_left_between_two_steps_are_gone_on_with(world, whole):
    run, _ = begin(world)

    with next(run.segments()) as segment:
        for step in segment.steps(9):
            if step == 2 and not whole:
                break
            submit(segment)
            if step == 1 and whole:
                break
        assert next(segment.steps(9)) == 2


# Interrupts within a request


def test_nothing_is_sent_behind_a_request_that_was_interrupted(world):
    """Its turn may be taken: what is sent behind it may never be answered."""
    run, client = begin(world)
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)

    def interrupted(*args):
        raise KeyboardInterrupt

    client.optim_step, optim_step = interrupted, client.optim_step
    with (
        pytest.raises(SegmentSupersededError) as caught,
        next(run.segments()) as segment,
    ):
        try:
            segment.client.optim_step()
        finally:
            client.optim_step = optim_step
            segment.save_state("b", step=1)

    assert isinstance(caught.value.__context__, KeyboardInterrupt)
    assert ("save_state", "b") not in client.calls
    assert train(run, 3).steps == [0, 1, 2]
    assert world.service.created == [(weights("a"), True)]


@pytest.mark.parametrize("method", ["forward", "save_state", "save_weights_for_sampler"])
def test_behind_a_request_that_was_never_sent_nothing_is_waited_for(world, method):
    run, client = begin(world)
    with (
        pytest.raises(RuntimeError, match=r"never sent .*valid string"),
        next(run.segments()) as segment,
    ):
        segment.save_state("a", step=0)
        setattr(client, method, lambda name: client._answer(method, name, None))
        client.fail(ValidationError("the name should be a valid string"))
        with pytest.raises(ValidationError, match="valid string"):
            getattr(segment.client, method)(7).result()
        submit(segment)

    assert train(run, 3).steps == [0, 1, 2]
    assert world.service.created == [(weights("a"), True)]
