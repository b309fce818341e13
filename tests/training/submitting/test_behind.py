"""What was submitted behind a request that the server never got: it is answered by none."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from support.loops import FailedError, Once, SdkError, ValidationError, begin, train

#: So rare that in these tests only failures have a run polled.
NEVER = 100_000.0


class Submitted:
    """A step of which nothing is answered yet, as submitted by a loop that waits for its end."""

    def __init__(self, segment, client):
        self.gradient = Future()
        answers = [self.gradient, Future()]
        client._answer = lambda *_: answers.pop(0)
        segment.client.forward_backward("batch")
        self.update = segment.client.optim_step()


@pytest.mark.parametrize(
    "error", [ValidationError("loss_fn_config"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no")]
)
def test_a_request_that_was_never_sent_ends_those_behind_it(world, error):
    run, client = begin(world, poll_interval=NEVER)

    with (
        pytest.raises(RuntimeError, match="lost or never sent") as caught,
        next(run.segments()) as segment,
    ):
        step = Submitted(segment, client)
        step.gradient.set_exception(error)
        step.update.result()

    assert str(error) in str(caught.value)
    assert world.fake.now() == 0.0


def test_none_is_submitted_behind_one_that_was_never_sent(world):
    run, client = begin(world, poll_interval=NEVER)
    error = ValidationError("path")

    with pytest.raises(RuntimeError, match="never sent"), next(run.segments()) as segment:
        client.fail(error)
        with pytest.raises(ValidationError):
            segment.client.forward_backward("batch").result()
        segment.client.optim_step()

    assert len(client.calls) == 1
    assert world.fake.now() == 0.0


def test_arguments_that_are_refused_at_the_call_take_no_place_in_the_order(world):
    run, client = begin(world, poll_interval=NEVER)

    def answer(method, data, result, answered=client._answer):
        if data == [None]:
            raise AttributeError("'NoneType' object has no attribute 'model_input'")
        return answered(method, data, result)

    client._answer = answer
    with next(run.segments()) as segment:
        with pytest.raises(AttributeError):
            segment.client.forward_backward([None])
        segment.client.forward_backward("batch").result()
        segment.client.optim_step().result()
        segment.save_state("a", step=1)


def test_one_that_failed_ends_those_behind_it_and_none_before(world):
    run, client = begin(world, poll_interval=NEVER)
    client.forward = lambda: client._answer("forward", None, None)

    def fail(segment):
        earlier = Future()
        client._answer, answered = lambda *_: earlier, client._answer
        before = segment.client.forward()
        client._answer = answered
        step = Submitted(segment, client)
        step.gradient.set_exception(SdkError("Expected Content-Type `application/json`"))
        assert not before.done()
        step.update.result()

    assert train(run, 8, before=Once(7, fail)).steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]
    assert world.events.one("detected").cause == "error"


def test_a_save_whose_answer_is_none_of_the_server_is_not_sent_behind_itself(world):
    """The server would wait for the first one."""
    run, client = begin(world, poll_interval=NEVER)
    unread = FailedError("Expected Content-Type response header to be `application/json`", 200)

    def fail(segment):
        client.fail(unread)
        segment.save_state("7", step=7)

    assert train(run, 8, before=Once(7, fail)).steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]
    assert [call for call in client.calls if call[0] == "save_state"][1:] == [("save_state", "7")]
    assert world.events.one("detected").cause == "error"


@pytest.mark.parametrize("recover_on", ["error", "corrupted"])
def test_where_such_an_answer_is_passed_over_nothing_is_waited_for(world, recover_on):
    run, client = begin(world, poll_interval=NEVER, recover_on=recover_on)
    client.forward = lambda: client._answer("forward", None, None)

    with (
        pytest.raises(RuntimeError, match="lost or never sent"),
        next(run.segments()) as segment,
    ):
        client.fail(FailedError("Expected Content-Type `application/json`", 200))
        with pytest.raises(FailedError):
            segment.client.forward().result()
        segment.client.optim_step()

    assert world.fake.now() == 0.0
