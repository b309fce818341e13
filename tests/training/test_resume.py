"""The right step: what is recorded with a checkpoint, and where a loop goes on after a recovery."""

from __future__ import annotations

import pytest
from support.loops import Diary, Once, SdkError, begin, train
from support.world import OTHER, RUN, World, weights

from tinkex.errors import ResumePointUnknownError
from tinkex.testing import FakeTrainingClient


def die(segment):
    """The client is of no more use, whatever the flag says."""
    raise SdkError(f"Adapter {segment.client.model_id} not found")


def never(segment, step):
    pytest.fail(f"a client was used for step {step}")


def recovered_before_the_loop(world, *names):
    """A run that was recovered from a checkpoint nothing is recorded for."""
    run, _ = begin(world)
    world.corrupt(RUN, *names)
    world.fake.advance(10.0)
    assert run.lineage[-1].checkpoint == weights(names[-1])
    return run


# Cursors


@pytest.mark.parametrize(
    "data", [None, 0, "epoch-2", [1, 2], {"epoch": 2, "row": 17}, {"a": [{"b": None}]}], ids=repr
)
def test_any_json_value_comes_back_with_the_step(world, data):
    run, _ = begin(world)
    resumes = []

    for segment in run.segments():
        resumes.append(segment.resume)
        with segment:
            if len(resumes) == 1:
                segment.save_state("a", step=7, data=data)
                die(segment)

    assert (resumes[1].step, resumes[1].data) == (7, data)
    assert resumes[1].checkpoint.tinker_path == weights("a")


def test_what_is_done_to_the_data_later_does_not_move_the_cursor(world):
    run, _ = begin(world)
    position = {"row": 0}
    rows = []

    for segment in run.segments():
        if segment.resume:
            rows.append(segment.resume.data["row"])
            segment.resume.data["row"] = 99
        with segment:
            if len(rows) == 0:
                position["row"] = 5
                segment.save_state("a", step=5, data=position)
                position["row"] = 9
            if len(rows) < 2:
                die(segment)

    assert rows == [5, 5]


@pytest.mark.parametrize(
    "data",
    [{1, 2}, object(), float("nan"), b"x", {"a": {1}}, {1: 2}, [{None: 1}]],
    ids=lambda data: type(data).__name__,
)
def test_data_that_is_no_json_value_is_refused_before_anything_is_saved(world, data):
    run, client = begin(world)

    with (
        pytest.raises((TypeError, ValueError), match="JSON"),
        next(run.segments()) as segment,
    ):
        segment.save_state("a", step=1, data=data)

    assert client.calls == []


@pytest.mark.parametrize("step", [-1, 1.5, "3", True, None])
def test_a_step_that_is_no_step_is_refused(world, step):
    run, client = begin(world)

    with pytest.raises((TypeError, ValueError), match="step"):
        run.record_checkpoint(weights("a"), step=step)
    with pytest.raises((TypeError, ValueError), match="step"), next(run.segments()) as segment:
        segment.save_state("a", step=step)
    with pytest.raises((TypeError, ValueError), match="start_step"):
        run.segments(step)

    assert client.calls == []


def test_a_checkpoint_that_was_saved_by_other_means_can_be_recorded(world):
    run, _ = begin(world)
    recorded = run.record_checkpoint(weights("mine"), step=6, data={"row": 3})
    world.corrupt(RUN, "mine")
    world.fake.advance(10.0)

    diary = train(run, 9)

    assert recorded.tinker_path == weights("mine")
    assert diary.steps == [6, 7, 8]
    assert diary.resumes[0].data == {"row": 3}


@pytest.mark.parametrize(
    "path",
    [
        f"tinker://{RUN}/sampler_weights/a",
        weights("a", OTHER),
        "tinker://nothing",
        "somewhere",
    ],
)
def test_only_training_checkpoints_of_the_lineage_can_be_recorded(world, path):
    run, _ = begin(world)

    with pytest.raises(ValueError, match=r"tinker|sampler|lineage"):
        run.record_checkpoint(path, step=1)


def test_a_cursor_that_travelled_with_its_checkpoint_is_found_by_another_process(world):
    run, _ = begin(world)
    metadata = {"tinkex_step": "6", "tinkex_data": '{"row":3}', "team": "x"}
    saved = {"tinker_path": weights("000006"), "user_metadata": metadata}
    world.rest.set_run(RUN, corrupted=True, checkpoints=[saved])
    world.fake.advance(10.0)

    diary = train(run, 9)

    assert diary.steps == [6, 7, 8]
    assert (diary.resumes[0].step, diary.resumes[0].data) == (6, {"row": 3})
    assert run.lineage[-1].step == 6


def test_what_one_process_saves_another_goes_on_from(world):
    class Keeps(FakeTrainingClient):
        def save_state(self, name, user_metadata=None):
            future = super().save_state(name, user_metadata)
            saved.append(future.result())
            return future

    saved = []
    world.rest.set_run(RUN)
    first = world.monitor().monitor_run(RUN, world.service, client=Keeps(RUN))
    with next(first.segments()) as segment:
        segment.save_state("a", step=6, data={"row": 3})
    other = World()
    run, _ = begin(other)
    other.rest.set_run(RUN, corrupted=True, checkpoints=saved)
    other.fake.advance(10.0)

    diary = train(run, 9)

    assert diary.steps == [6, 7, 8]
    assert diary.resumes[0].data == {"row": 3}


# Where a loop begins and goes on


def test_a_loop_begins_at_its_start_step(world):
    run, _ = begin(world)

    diary = train(run, 9, start_step=4)

    assert diary.steps == [4, 5, 6, 7, 8]
    assert diary.resumes == [None]


def test_a_cell_that_is_run_again_goes_on_where_it_saved(world):
    run, _ = begin(world)
    diary = Diary()

    def interrupt(segment):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, 10, before=Once(7, interrupt), diary=diary)
    train(run, 10, diary=diary)
    train(run, 10, before=never)

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9]
    assert run.lineage[0].cause == "interrupted"
    assert world.events.of("detected") == []


def test_a_cell_that_is_run_again_on_a_successor_goes_on_there(world):
    run, _ = begin(world)
    diary = Diary()
    train(run, 10, before=Once(6, die), diary=diary)

    train(run, 12, start_step=0, diary=diary)

    assert diary.steps == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11]
    assert len(run.lineage) == 2


def test_start_step_means_nothing_after_a_recovery(world):
    run, _ = begin(world)

    diary = train(run, 9, start_step=2, before=Once(6, die))

    assert diary.steps == [2, 3, 4, 5, 5, 6, 7, 8]


def test_segment_knows_its_first_step_before_it_is_entered(world):
    run, _ = begin(world)
    first = []

    for segment in run.segments():
        first.append(segment.start_step)
        with segment:
            if len(first) == 1:
                segment.save_state("a", step=7)
                die(segment)

    assert first == [0, 7]


# What is not known


def test_a_step_that_was_not_recorded_is_never_guessed(world):
    run = recovered_before_the_loop(world, "000100")

    with pytest.raises(ResumePointUnknownError, match="000100") as caught:
        train(run, 200, start_step=3, before=never)

    assert caught.value.checkpoint == weights("000100")
    assert caught.value.run_id == run.run_id
    assert world.service.clients[0].calls == []


def test_a_step_that_is_not_known_ends_a_loop_that_is_under_way_too(world):
    run, _ = begin(world)
    diary = Diary()

    def die_unsaved(segment):
        world.corrupt(RUN, "by-hand")
        die(segment)

    with pytest.raises(ResumePointUnknownError, match="by-hand"):
        train(run, 9, before=Once(3, die_unsaved), diary=diary)

    assert diary.steps == [0, 1, 2]


def test_a_number_says_where_to_go_on(world):
    run = recovered_before_the_loop(world, "000100")

    diary = train(run, 103, resume_step=100)

    assert diary.steps == [100, 101, 102]
    assert diary.resumes[0].step == 100
    assert diary.resumes[0].steps_lost is None


def test_a_function_of_the_checkpoint_says_where_to_go_on(world):
    run = recovered_before_the_loop(world, "000050", "000100")

    diary = train(run, 103, resume_step=lambda checkpoint: int(checkpoint.checkpoint_id))

    assert diary.steps == [100, 101, 102]


def test_a_step_that_is_recorded_goes_before_what_the_loop_says(world):
    run, _ = begin(world)

    diary = train(run, 9, before=Once(6, die), resume_step=never)

    assert diary.resumes[1].step == 5


@pytest.mark.parametrize("said", [-1, "100", None, 1.0])
def test_what_a_function_says_must_be_a_step(world, said):
    run = recovered_before_the_loop(world, "000100")

    with pytest.raises((TypeError, ValueError), match="resume_step"):
        train(run, 200, before=never, resume_step=lambda checkpoint: said)


# What a segment says of its resume point


@pytest.mark.parametrize(("at", "lost"), [(5, 0), (6, 1), (9, 4)])
def test_a_resume_point_says_how_many_steps_were_lost(world, at, lost):
    run, _ = begin(world)

    diary = train(run, 12, before=Once(at, die))

    assert diary.resumes[1].steps_lost == lost
    assert len(diary.steps) == 12 + lost


@pytest.mark.parametrize("restore", [True, False])
def test_a_resume_point_says_whether_the_optimizer_was_restored(world, restore):
    run, _ = begin(world, restore_optimizer=restore)

    diary = train(run, 12, before=Once(6, die))

    assert diary.resumes[1].optimizer_restored is restore
    assert world.service.created == [(weights("000005"), restore)]


def test_each_recovery_has_its_own_resume_point(world):
    run, _ = begin(world)
    once, again = Once(6, die), Once(13, die)

    diary = train(run, 15, before=lambda *at: (once(*at), again(*at)))

    assert [resume.step for resume in diary.resumes[1:]] == [5, 10]
    assert [resume.steps_lost for resume in diary.resumes[1:]] == [1, 3]
    assert diary.steps == [*range(6), *range(5, 13), *range(10, 15)]
    assert [generation.step for generation in run.lineage] == [None, 5, 10]
