"""Loops that nobody foresaw: each goes on where it said that it stands, or says that it cannot."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from support.loops import SdkError, begin, train
from support.world import RUN, weights

import tinkex
from tinkex.errors import ResumePointUnknownError, SegmentSupersededError
from tinkex.testing import FakeRest, FakeServiceClient, FakeTrainingClient, InlineExecutor


def submit(segment):
    segment.client.forward_backward("batch")
    segment.client.optim_step().result()


def saved_at(run, step, *, then=0):
    """Train up to a save, then some steps more, and interrupt."""
    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                for number in segment.steps(20):
                    submit(segment)
                    if number + 1 == step:
                        segment.save_state(f"at-{step}", step=step)
                    if number + 1 == step + then:
                        raise KeyboardInterrupt


def watched(world):
    world.rest.set_run(RUN)
    return {"rest_module": world.rest, "scheduler": world.fake, "executor": InlineExecutor()}


def test_the_old_client_of_a_run_that_was_replaced_is_not_a_fresh_one(world):
    options, client = watched(world), FakeTrainingClient(RUN)
    begun = []
    for _ in range(2):
        with tinkex.watch(client, world.service, **options) as run:
            for segment in run.segments():
                begun.append(segment.start_step)
                with pytest.raises(KeyboardInterrupt), segment:
                    submit(segment)
                    if len(begun) == 1:
                        segment.save_state("at-1", step=1)
                        submit(segment)
                    raise KeyboardInterrupt
                break

    with tinkex.watch(client, world.service, **options) as run:
        assert next(run.segments()).start_step == 1
    assert begun == [0, 1]


def test_a_client_of_a_segment_that_is_watched_again_is_the_client(world):
    options, client = watched(world), FakeTrainingClient(RUN)
    with tinkex.watch(client, world.service, **options) as run, next(run.segments()) as segment:
        submit(segment)
        segment.save_state("at-1", step=1)
        kept = segment.client
        again = tinkex.watch(kept, world.service, **options)
        with again as inner, pytest.raises(RuntimeError, match="open in another loop"):
            next(inner.segments())

    with tinkex.watch(kept, world.service, **options) as run:
        assert run.client is client
        assert next(run.segments()).start_step == 1


class Thin:
    """A caller's own wrapper of a training client."""

    def __init__(self, client):
        self._client = client

    def __getattr__(self, name):
        return getattr(self._client, name)


def test_a_wrapper_that_is_made_anew_for_each_cell_is_the_same_client(world):
    client, begun = FakeTrainingClient(RUN), []
    world.rest.set_run(RUN)
    monitor = world.monitor()
    for _ in range(2):
        run = monitor.monitor_run(RUN, world.service, client=Thin(client))
        for segment in run.segments():
            begun.append(segment.start_step)
            with pytest.raises(KeyboardInterrupt), segment:
                if len(begun) == 1:
                    submit(segment)
                    segment.save_state("at-1", step=1)
                raise KeyboardInterrupt
            break

    assert begun == [0, 1]


def test_a_name_that_the_client_saved_again_has_its_old_step_no_more(world):
    run, _ = begin(world)
    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                submit(segment)
                segment.save_state("latest", step=1)
                submit(segment)
                segment.client.save_state("latest").result()
                raise KeyboardInterrupt

    with pytest.raises(ResumePointUnknownError):
        next(run.segments())


def test_a_checkpoint_that_is_recorded_late_is_not_the_present_state(world):
    run, _ = begin(world)
    saved_at(run, 3)

    run.record_checkpoint(weights("mine"), step=1)

    assert next(run.segments()).start_step == 3


def test_steps_that_were_listed_are_not_handed_out_again(world):
    run, _ = begin(world)
    with next(run.segments()) as segment:
        epochs = [list(segment.steps(3 * (epoch + 1))) for epoch in range(2)]

    assert epochs == [[0, 1, 2], [3, 4, 5]]


def test_a_step_that_was_skipped_is_over_and_one_that_was_left_is_not(world):
    run, _ = begin(world)
    with next(run.segments()) as segment:
        skipped = list(segment.steps(2))
        for step in segment.steps(4):
            if step == 3:
                break
            submit(segment)
        left = next(segment.steps(9))

    assert (skipped, left) == ([0, 1], 3)


def test_a_client_of_a_segment_that_was_left_trains_no_more(world):
    run, _ = begin(world)
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
        client = segment.client

    with pytest.raises(SegmentSupersededError):
        client.optim_step()


def test_a_segment_that_was_made_before_the_run_was_trained_is_not_entered(world):
    run, _ = begin(world)
    peeked = next(run.segments())
    with next(run.segments()) as segment:
        submit(segment)
        segment.save_state("a", step=1)

    with pytest.raises(RuntimeError, match="trained since"), peeked:
        pass


class Own(FakeTrainingClient):
    def train_step(self, batch):
        self.forward_backward(batch)
        return self.optim_step()


def test_a_method_that_is_not_known_may_change_the_state(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Own(RUN))
    with pytest.raises(KeyboardInterrupt), next(run.segments()) as segment:
        segment.client.train_step("batch")
        raise KeyboardInterrupt

    with pytest.raises(ResumePointUnknownError):
        next(run.segments())


def test_an_error_that_a_method_raises_at_once_counts_as_one_of_its_future(world):
    run, client = begin(world, confirm_within=0.0)
    failing = iter([True])

    def optim_step(params=None):
        if next(failing, False):
            raise SdkError("internal error")
        return FakeTrainingClient.optim_step(client, params)

    client.optim_step = optim_step
    entered = 0
    for segment in run.segments():
        entered += 1
        with segment:
            if entered == 1:
                segment.save_state("a", step=0)
                with pytest.raises(SdkError):
                    segment.client.optim_step()

    assert entered == 2


class Loads(FakeTrainingClient):
    def load_state(self, path):
        return self._answer("load_state", path, None)


def test_a_state_that_was_loaded_is_not_lost_without_a_word(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Loads(RUN))

    with pytest.raises(ResumePointUnknownError, match="loaded"):
        for segment in run.segments():
            with segment:
                segment.save_state("a", step=0)
                segment.client.load_state(weights("b"))
                world.corrupt(RUN, "a")
                world.fake.advance(10)
                submit(segment)


def test_a_loop_that_went_back_by_a_load_saves_the_step_it_went_back_to(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Loads(RUN))
    with next(run.segments()) as segment:
        for _ in segment.steps(3):
            submit(segment)
        segment.client.load_state(weights("b"))
        segment.save_state("best", step=1)

    assert train(run, 4).steps == [1, 2, 3]


@pytest.mark.parametrize("text", ["boom", "Session 9 has finished", "Adapter 77aa not found"])
def test_what_came_through_result_from_elsewhere_says_nothing_of_the_run(world, text):
    run, _ = begin(world)
    other = FakeTrainingClient("77aa:train:0")
    other.fail(SdkError(text))
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
        with pytest.raises(SdkError):
            segment.result(other.forward_backward("x"))

    assert world.service.created == []


def test_a_call_whose_arguments_do_not_fit_submitted_nothing(world):
    run, _ = begin(world)
    with pytest.raises(TypeError), next(run.segments()) as segment:
        segment.client.forward_backward("x", los_fn="typo")

    assert train(run, 3).steps == [0, 1, 2]


@pytest.mark.parametrize("recover_on", ["error", "corrupted"])
def test_an_error_that_was_passed_over_and_recovers_nothing_is_raised_at_the_end(world, recover_on):
    run, client = begin(world, recover_on=recover_on, confirm_within=0.0)
    error = SdkError("refused")
    error.status_code = 402 if recover_on == "error" else 500

    with pytest.raises(SdkError) as caught:
        for segment in run.segments():
            with segment:
                client.fail(error)
                segment.client.optim_step().exception()
                segment.save_state("a", step=1)

    assert caught.value is error
    assert world.service.created == []


def test_a_save_on_an_event_loop_holds_what_was_submitted_before_the_call(world):
    run, _ = begin(world)

    async def loop():
        with next(run.segments()) as segment:
            submit(segment)
            saving = segment.save_state_async("a", step=1)
            submit(segment)
            await saving
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(loop())

    assert train(run, 3).steps == [1, 2]
    assert world.service.created == [(weights("a"), True)]


def test_a_segment_whose_task_is_cancelled_twice_is_left(bench):
    rest = FakeRest()
    rest.set_run(RUN)
    monitor = bench.monitor(rest_module=rest)
    run = monitor.monitor_run(RUN, FakeServiceClient(), client=FakeTrainingClient(RUN))

    async def train_for_ever():
        async with next(run.segments()):
            await asyncio.Event().wait()

    async def cancel_twice():
        task = asyncio.ensure_future(train_for_ever())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    pause = threading.Event()
    for _ in range(20):
        asyncio.run(cancel_twice())
        for _ in range(1000):
            try:
                next(run.segments())
            except RuntimeError:  # the segment is being left, on a thread of tinkex
                pause.wait(0.01)
            else:
                break
        else:
            pytest.fail("the segment stayed open")


def test_a_loop_that_catches_that_its_segment_is_over_again_and_again_is_warned_of(world, caplog):
    run, _ = begin(world)
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
        world.corrupt()
        world.fake.advance(10)
        for _ in range(500):
            with suppress(SegmentSupersededError):
                submit(segment)

    told = [r for r in caplog.records if "let SegmentSupersededError leave" in r.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
