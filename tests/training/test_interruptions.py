"""Loops that are interrupted: they go on where they said that they stand, or with a clear error."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from support.loops import SdkError, begin, train
from support.world import RUN, weights

from tinkex.errors import ApiStatusError, ResumePointUnknownError, SegmentSupersededError
from tinkex.testing import FakeRest, FakeServiceClient, FakeTrainingClient


def submit(segment):
    """A step as in the documented loop: both requests, then both results."""
    forward = segment.client.forward_backward("batch")
    update = segment.client.optim_step()
    forward.result(), update.result()


def interrupted(run, act, *, at=4, save_at=3, error=None):
    """Train, saving before step `save_at`; within step `at` call `act` and raise."""
    with pytest.raises(type(error or KeyboardInterrupt())):
        for segment in run.segments():
            with segment:
                for step in segment.steps(10):
                    if step == save_at:
                        segment.save_state("saved", step=step, data={"row": step})
                    if step == at:
                        act(segment)
                        raise error or KeyboardInterrupt
                    submit(segment)


def nothing(segment):
    """The interruption comes before anything of the step was submitted."""


def gradient(segment):
    segment.client.forward_backward("batch")


def kept_aside(segment):
    client = segment.client
    client.forward_backward("batch")
    client.optim_step()


def load(segment):
    segment.client.load_state(weights("elsewhere"))


#: What may be submitted of a step when it is interrupted.
HALVES = [gradient, submit, kept_aside]


@pytest.mark.parametrize("error", [None, KeyError("mine")], ids=["ctrl-c", "bug"])
@pytest.mark.parametrize("act", HALVES, ids=lambda act: act.__name__)
def test_what_was_submitted_since_the_save_is_undone(world, act, error):
    run, _ = begin(world)
    interrupted(run, act, error=error)

    again = train(run, 6)

    assert again.steps == [3, 4, 5]
    assert world.service.created == [(weights("saved"), True)]
    assert run.lineage[0].cause == "interrupted"
    assert world.events.of("detected") == []


def test_nothing_submitted_since_the_save_goes_on_in_place(world):
    run, _ = begin(world)
    interrupted(run, nothing, at=3)

    for segment in run.segments():
        begun = segment.start_step, segment.data, segment.resume
        with segment:
            break

    assert begun == (3, {"row": 3}, None)
    assert world.service.created == []


def test_nothing_submitted_at_all_begins_at_the_start_step(world):
    run, _ = begin(world)
    interrupted(run, nothing, at=0)

    assert train(run, 6, start_step=2).steps == [2, 3, 4, 5]
    assert world.service.created == []


@pytest.mark.parametrize("act", HALVES, ids=lambda act: act.__name__)
def test_without_a_checkpoint_the_error_says_what_to_do(world, act):
    run, _ = begin(world)
    interrupted(run, act, at=0, save_at=None)

    with pytest.raises(ResumePointUnknownError, match="save_state") as caught:
        train(run, 6)

    assert caught.value.checkpoint is None
    assert world.service.created == []


def test_a_gradient_that_a_save_left_behind_counts_as_submitted(world):
    run, _ = begin(world)

    def save_within(segment):
        segment.client.forward_backward("batch")
        segment.save_state("within", step=3)

    interrupted(run, save_within, at=3, save_at=None)

    assert train(run, 6).steps == [3, 4, 5]
    assert world.service.created == [(weights("within"), True)]


class Loads(FakeTrainingClient):
    def load_state(self, path):
        return self._answer("load_state", path, None)


def test_after_a_load_no_step_is_known_until_the_next_save(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Loads(RUN))
    interrupted(run, load)

    with pytest.raises(ResumePointUnknownError):
        train(run, 6)

    assert world.service.created == []


def test_a_load_before_a_save_is_in_the_checkpoint(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Loads(RUN))

    def load_and_save(segment):
        load(segment)
        segment.save_state("loaded", step=4)

    interrupted(run, load_and_save)

    assert train(run, 6).steps == [4, 5]
    assert world.service.created == []


def test_steps_that_were_taken_ahead_are_not_counted_as_trained(world):
    run, _ = begin(world)
    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                for step in list(segment.steps(10)):
                    if step == 6:
                        raise KeyboardInterrupt
                    submit(segment)
                    if step == 3:
                        segment.save_state("saved", step=4)

    assert train(run, 8).steps == [4, 5, 6, 7]


def test_a_generator_that_is_dropped_within_a_segment_is_an_interruption(world):
    run, _ = begin(world)

    def losses():
        for segment in run.segments():
            with segment:
                for step in segment.steps(10):
                    submit(segment)
                    segment.save_state(f"{step}", step=step + 1)
                    submit(segment)
                    yield step

    started = losses()
    next(started), next(started)
    started.close()

    assert train(run, 4).steps == [2, 3]
    assert world.service.created == [(weights("1"), True)]


@pytest.mark.parametrize("method", ["save_state", "forward"])
def test_a_request_that_was_interrupted_leaves_a_client_that_cannot_go_on(world, method):
    run, client = begin(world)

    def interrupted_within(*args, **options):
        raise KeyboardInterrupt

    setattr(client, method, interrupted_within)
    run.record_checkpoint(weights("a"), step=0)
    with pytest.raises(KeyboardInterrupt), next(run.segments()) as segment:
        getattr(segment.client, method)("x")
    with next(run.segments()) as segment:
        assert segment.start_step == 0

    assert world.service.created == [(weights("a"), True)]


class Interrupted(ThreadPoolExecutor):
    """Has Ctrl-C come just as something is submitted on the main thread."""

    def submit(self, function, /, *args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return super().submit(function, *args, **kwargs)


def test_an_interrupt_cannot_leave_a_recovery_half_begun(bench):
    rest, client = FakeRest(), FakeTrainingClient(RUN)
    rest.set_run(RUN, checkpoints=[weights("a")], last_checkpoint=weights("a"))
    with Interrupted(max_workers=1) as pool:
        monitor = bench.monitor(rest_module=rest, executor=pool)
        run = monitor.monitor_run(RUN, FakeServiceClient(), client=client)
        run.record_checkpoint(weights("a"), step=0)
        with pytest.raises(KeyError), next(run.segments()) as segment:
            segment.client.optim_step()
            raise KeyError

        with next(run.segments(max_wait=10.0)) as segment:
            assert segment.start_step == 0
        run.recover().result(10.0)

    assert [generation.cause for generation in run.lineage[:2]] == ["interrupted", "requested"]


def test_a_save_that_is_answered_after_the_interruption_counts(world):
    run, client = begin(world)
    answer = Future()
    client.save_state = lambda name, user_metadata=None: answer

    def stop_waiting(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                submit(segment)
                world.fake(1.0, stop_waiting).start()
                segment.save_state("late", step=1)
    answer.set_result(type("Saved", (), {"path": weights("late")})())

    assert train(run, 3).steps == [1, 2]
    assert world.service.created == []


def test_a_save_that_is_made_again_waits_for_the_first_one(world):
    run, client = begin(world)
    answer, asked = Future(), []

    def save_state(name, user_metadata=None):
        asked.append(name)
        return answer

    client.save_state = save_state
    saved = type("Saved", (), {"path": weights("a")})()

    def stop_waiting(*_):
        raise KeyboardInterrupt

    world.fake(1.0, stop_waiting).start()
    with pytest.raises(KeyboardInterrupt), next(run.segments()) as segment:
        segment.save_state("a", step=0)
    world.fake(1.0, lambda: answer.set_result(saved)).start()
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)

    assert asked[0] == "a"
    assert len(asked) == 2  # a client whose names can be saved again is asked again, but later


class Refuses(FakeTrainingClient):
    """A client of a server that refuses names that are taken, unless it is told to overwrite."""

    def save_state(self, name, overwrite=False, user_metadata=None):
        return super().save_state(name, user_metadata)


def refusing(world):
    world.rest.set_run(RUN)
    return world.monitor().monitor_run(RUN, world.service, client=Refuses(RUN))


def test_a_name_that_is_taken_by_the_same_state_is_not_asked_for_again(world):
    run = refusing(world)

    with next(run.segments()) as segment:
        first = segment.save_state("a", step=0)
        assert segment.save_state("a", step=0) == first

    assert run.client.calls == [("save_state", "a")]


def test_a_name_that_is_taken_by_another_state_is_an_error_at_once(world):
    run = refusing(world)

    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
        submit(segment)
        with pytest.raises(ApiStatusError, match="taken by step 0; give another") as caught:
            segment.save_state("a", step=1)
        segment.save_state("a", step=1, overwrite=True)

    assert caught.value.status == 409
    assert train(run, 3).steps == [1, 2]


@pytest.mark.parametrize("told", [None, "5", "0"])
def test_a_name_that_was_taken_by_other_means_is_an_error_at_once(world, told):
    """The official SDK asks again for minutes where a name is refused."""
    run = refusing(world)
    listed = {"tinker_path": weights("a"), "size_bytes": 5}
    if told is not None:
        listed["user_metadata"] = {"tinkex_step": told}
    world.rest.set_run(RUN, last_checkpoint=listed, checkpoints=[listed])
    world.fake.advance(10)

    with next(run.segments()) as segment:
        if told == "0":
            assert segment.save_state("a", step=0).tinker_path == weights("a")
        else:
            with pytest.raises(ApiStatusError, match=r"taken by .*; give another"):
                segment.save_state("a", step=0)
        world.rest.set_run(RUN, last_checkpoint=listed, checkpoints=[])
        if told is None:
            segment.save_state("a", step=0)  # it was deleted meanwhile

    assert run.client.calls == ([("save_state", "a")] if told is None else [])


@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_step_that_was_trained_cannot_be_the_next_one(world, step):
    run, client = begin(world)
    with next(run.segments()) as segment:
        for number in segment.steps(9):
            submit(segment)
            if number == 3:
                break

        with pytest.raises(ValueError, match=f"step={step} .* give step=4"):
            segment.save_state("wrong", step=step)
        segment.save_state("right", step=4)

    assert [name for method, name in client.calls if method == "save_state"] == ["right"]


def test_a_step_is_not_judged_where_steps_are_taken_ahead(world):
    run, _ = begin(world)
    with next(run.segments()) as segment:
        for step in list(segment.steps(3)):
            submit(segment)
            segment.save_state(f"{step}", step=step + 1)

    assert train(run, 4).steps == [3]


def test_two_segments_of_one_run_are_not_open_at_a_time(world):
    run, _ = begin(world)

    with next(run.segments()), pytest.raises(RuntimeError, match="open in another loop"):
        next(run.segments())

    assert world.service.created == []


def test_what_another_monitor_of_this_process_trained_is_known(world):
    run, client = begin(world)
    interrupted(run, submit)

    other = world.monitor().monitor_run(RUN, world.service, client=client)

    assert train(other, 6).steps == [3, 4, 5]
    assert world.service.created == [(weights("saved"), True)]


def test_a_training_that_ends_unsaved_is_warned_of_once(world, caplog):
    run, _ = begin(world)

    train(run, 7)

    told = [record for record in caplog.records if "no checkpoint holds" in record.message]
    assert len(told) == 1
    assert told[0].levelname == "WARNING"


def test_a_return_on_a_run_that_is_dead_is_told_as_an_error(world, caplog):
    gc.collect()  # the loops of earlier tests say the same when they are collected
    caplog.clear()
    run, _ = begin(world)

    def loop():
        for segment in run.segments():
            with segment:
                submit(segment)
                world.corrupt(RUN)
                world.fake.advance(10)
                return

    loop()

    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [("no checkpoint" in record.message) for record in told] == [True]


def test_the_data_of_a_segment_belongs_to_its_first_step(world):
    run, _ = begin(world)
    begun = []

    for segment in run.segments():
        begun.append((segment.start_step, segment.data))
        with segment:
            for step in segment.steps(8):
                submit(segment)
                if step == 3:
                    segment.save_state("at-4", step=4, data={"row": 4})
                if step == 5 and len(begun) == 1:
                    raise SdkError(f"Adapter {RUN} not found")

    assert begun == [(0, None), (4, {"row": 4})]


def test_a_recorded_checkpoint_of_the_live_run_tells_where_the_loop_is(world):
    run, _ = begin(world)
    run.record_checkpoint(weights("by-hand"), step=3)

    assert train(run, 5).steps == [3, 4]


def test_a_checkpoint_that_the_client_saved_may_be_recorded_later(world):
    run, _ = begin(world)
    with pytest.raises(KeyboardInterrupt):
        for segment in run.segments():
            with segment:
                for step in segment.steps(6):
                    submit(segment)
                    if step == 3:
                        path = segment.client.save_state("plain").result().tinker_path
                    if step == 4:
                        raise KeyboardInterrupt
    run.record_checkpoint(path, step=4)

    assert train(run, 6).steps == [4, 5]
    assert world.service.created == [(weights("plain"), True)]


def test_a_bug_met_while_a_segment_ends_is_not_hidden(world):
    run, _ = begin(world)

    with pytest.raises(KeyError, match="mine"):
        for segment in run.segments():
            with segment:
                world.corrupt(RUN)
                world.fake.advance(10)
                try:
                    segment.client.optim_step()
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
                world.fake.advance(10)

    assert trained == [0, 1, 2, 3, 4, 5, 4, 5]
    assert len(run.lineage) == 2


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
