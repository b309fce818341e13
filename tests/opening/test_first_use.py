"""A run that was left is restored at the first use that needs it; to look at it makes nothing."""

from __future__ import annotations

import itertools
import random
from functools import partial

import pytest
from support.interrupts import interrupted_at
from support.lineages import THIRD, Account, going_on, saved
from support.lives import Meanwhile
from support.real_threads import QUICK
from support.sites import Tenant, account_of
from support.world import RUN, StatusError, World, weights

import tinkex
from tinkex.errors import (
    MonitorStoppedError,
    RecoveryExhaustedError,
    ResumePointUnknownError,
    SegmentSupersededError,
)
from tinkex.testing import FakeTrainingClient

RESTORED = [(weights("000030", THIRD), True)]


def begun(run, **options):
    return next(run.segments(**options))


def train(segment, step):
    segment.client.forward_backward(step).result()
    segment.client.optim_step().result()


def test_a_training_that_is_complete_makes_nothing(world):
    steps, begins = [], []
    with going_on(world, Account(), RUN) as run:
        for segment in run.segments():
            with segment:
                begins.append((segment.start_step, segment.data, segment.resume.step))
                steps += segment.steps(30)
        assert (run.client, run.run_id, run.status().generation) == (None, THIRD, 2)

    assert (steps, begins) == ([], [(30, [7], 30)])
    assert world.service.created == []
    assert world.events.names == []


def test_what_it_goes_on_from_is_known_before_it_is_restored(world):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        planned = segment.resume
        train(segment, 30)

        assert segment.resume == planned
        assert planned.checkpoint.tinker_path == weights("000030", THIRD)
        assert (planned.data, planned.steps_lost, planned.optimizer_restored) == ([7], None, True)


USES = {
    "model_id": lambda segment: segment.client.model_id,
    "another attribute": lambda segment: segment.client.calls,
    "a request": lambda segment: segment.client.forward_backward("batch").result(),
    "a save": lambda segment: segment.save_state("000030", step=30),
    "a save of the client's": lambda segment: segment.client.save_state("000030").result(),
    "a result": lambda segment: segment.result("of another client"),
    "an attribute that is set": lambda segment: setattr(segment.client, "team", "a"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_needs_the_run_restores_it_once(world, use):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        for step in segment.steps(31):
            use(segment)
            assert segment.client.model_id == run.run_id != THIRD
            train(segment, step)
        assert run.client is world.service.clients[-1]
        assert [each.cause for each in run.lineage][-2:] == ["restarted", None]

    assert world.service.created == RESTORED


def test_to_show_a_client_restores_nothing(world):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        shown = repr(segment.client)
        assert not isinstance(segment.client, str)
        assert not hasattr(segment.client, "_repr_html_")
        assert hasattr(segment.client, "__dict__")

        assert "not restored" in shown
        assert THIRD in shown
        assert world.service.created == []
        assert segment.client.model_id
        assert isinstance(segment.client, FakeTrainingClient)
        assert repr(segment.client) == repr(run.client)


def test_where_another_checkpoint_is_restored_the_next_segment_begins_at_its_step(world):
    world.service.fail(StatusError(422))
    with going_on(world, Account(), RUN, max_attempts=2, backoff=0.0) as run:
        steps, refused = [], []
        for segment in run.segments():
            with segment:
                for step in segment.steps(31):
                    try:
                        train(segment, step)
                    except SegmentSupersededError as error:
                        refused.append(segment.start_step)
                        raise error
                    steps.append(step)
                segment.save_state("end", step=31)

    assert refused == [30]
    assert steps == list(range(20, 31))
    assert segment.resume.step == 20
    assert len(world.service.created) == 1


def test_where_nothing_can_be_restored_the_first_use_says_so(world):
    world.service.fail(ValueError("no"), times=9)
    with going_on(world, Account(), RUN, backoff=0.0) as run:
        with pytest.raises(RecoveryExhaustedError), begun(run) as segment:
            segment.client.forward_backward("batch")
        assert run.state == "exhausted"
        with pytest.raises(RecoveryExhaustedError):
            begun(run)


def test_a_loop_that_is_interrupted_before_its_first_use_is_as_fresh_the_next_time(world):
    with going_on(world, Account(), RUN) as run:
        with pytest.raises(KeyboardInterrupt), begun(run) as segment:
            assert next(segment.steps(40)) == 30
            raise KeyboardInterrupt
        assert world.service.created == []

        with begun(run) as segment:
            assert next(segment.steps(40)) == 30
            assert segment.resume.steps_lost is None
            train(segment, 30)
            segment.save_state("end", step=31)

    assert world.service.created == RESTORED


def test_an_interrupt_right_after_the_first_request_goes_back_to_the_save(world):
    with going_on(world, Account(), RUN) as run:
        with pytest.raises(KeyboardInterrupt), begun(run) as segment:
            segment.client.forward_backward("batch")
            raise KeyboardInterrupt
        segment = begun(run)

        assert segment.start_step == 30
        assert [each.cause for each in run.lineage][-3:] == ["restarted", "interrupted", None]
    assert world.service.created == RESTORED * 2


@pytest.mark.filterwarnings("ignore:Exception ignored in")  # it may meet a `__del__`
@pytest.mark.parametrize("use", ["forward_backward", "save_state"])
def test_an_interrupt_anywhere_in_the_first_use_loses_and_repeats_nothing(use):
    # Every place would take half a minute.
    for place in itertools.count(random.randrange(9), 9):
        world = World()

        def first(run):
            with begun(run) as segment:
                if use == "save_state":
                    segment.save_state("first", step=30)
                else:
                    segment.client.forward_backward("first")

        options = {"rest_module": Account(), "rest_client_fun": account_of, "takeover": True}
        with tinkex.resume(RUN, Tenant(world.service), QUICK, **options) as run:
            is_over = not interrupted_at(place, partial(first, run))
            for segment in run.segments():
                with segment:
                    steps = list(segment.steps(31))
                    train(segment, 30)
                    segment.save_state("end", step=31)
            asked = [call for call in run.client.calls if call[1] != "first" or use != "save_state"]

        assert steps == [30], place
        trained = [("forward_backward", 30), ("optim_step", None), ("save_state", "end")]
        assert asked == trained, place
        assert len(world.service.created) <= 2, place
        if is_over:
            break
    assert place > 100


def test_an_interrupt_right_after_it_was_restored_goes_on_in_place(world):
    with going_on(world, Account(), RUN) as run:
        with pytest.raises(KeyboardInterrupt), begun(run) as segment:
            assert segment.client.model_id == run.run_id
            raise KeyboardInterrupt
        with begun(run) as segment:
            assert segment.start_step == 30
            train(segment, 30)
            segment.save_state("end", step=31)

    assert world.service.created == RESTORED


def test_a_corruption_while_it_is_restored_is_recovered_as_any_other(world):
    site, world.service = Account(), Meanwhile()

    def flag():
        site.corrupted.update({THIRD, f"fake:{THIRD}:1"})

    world.service.during = flag
    with going_on(world, site, RUN) as run:
        steps, segments = [], run.segments()
        with next(segments) as segment:
            segment.client.forward_backward("batch")
            world.fake.advance(10)
            segment.client.optim_step()
        site.saves[run.run_id] = []
        for segment in segments:
            with segment:
                for step in segment.steps(32):
                    train(segment, step)
                    steps.append((run.run_id, step))
                segment.save_state("end", step=32)

        assert [each.cause for each in run.lineage][-3:] == ["restarted", "corrupted", None]
    assert steps == [(f"fake:{THIRD}:2", 30), (f"fake:{THIRD}:2", 31)]


def test_a_run_that_is_restored_meanwhile_is_gone_on_with(world):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        assert next(segment.steps(40)) == 30
        client = run.wait(5)
        train(segment, 30)
        segment.save_state("000031", step=31)

        assert client.calls[-1] == ("save_state", "000031")
    assert world.service.created == RESTORED


def test_one_that_was_trained_meanwhile_is_not(world):
    with going_on(world, Account(), RUN) as run:
        segments = run.segments()
        early = next(segments)
        run.wait(5)
        with begun(run) as segment:
            train(segment, 30)
            segment.save_state("000031", step=31)
        with pytest.raises(SegmentSupersededError):
            early.client.forward_backward("batch")
        with pytest.raises(RuntimeError, match="trained since"):
            early.__enter__()


def test_two_loops_of_it_are_not_open_at_a_time(world):
    with going_on(world, Account(), RUN) as run, begun(run), pytest.raises(RuntimeError):
        begun(run)

    assert world.service.created == []


def test_a_step_that_was_trained_is_refused_as_the_next_one(world):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        for step in segment.steps(31):
            train(segment, step)
            with pytest.raises(ValueError, match="step=30"):
                segment.save_state("end", step=30)
            segment.save_state("end", step=31)


def test_a_loop_that_trains_another_client_is_warned_of(world, caplog):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        for _ in segment.steps(32):
            assert segment.client.model_id == run.run_id

    assert "without a request through segment.client" in caplog.text


def test_a_checkpoint_without_a_step_is_told_of_before_anything_is_made(world):
    site = Account()
    del site.saves[THIRD][0]["user_metadata"]
    site.saves.update({RUN: [], f"{RUN}x": []})
    site.saves["5e11:train:0"] = []
    with going_on(world, site, RUN) as run:
        with pytest.raises(ResumePointUnknownError):
            begun(run)
        assert world.service.created == []

        with begun(run, resume_step=lambda checkpoint: 30) as segment:
            assert segment.start_step == 30
            train(segment, 30)
            segment.save_state("end", step=31)
    assert world.service.created == RESTORED


def test_it_is_waited_for_no_longer_than_the_loop_allows(world):
    world.service.fail(StatusError(503), times=99)
    with going_on(world, Account(), RUN, max_attempts=99, backoff=5.0) as run:
        before = world.fake.now()
        with pytest.raises(TimeoutError, match="after 60 s"), begun(run, max_wait=60.0) as segment:
            segment.client.forward_backward("batch")

    assert world.fake.now() - before == 60


def test_a_run_that_was_stopped_is_not_restored(world):
    with going_on(world, Account(), RUN) as run, begun(run) as segment:
        run.stop()
        with pytest.raises(MonitorStoppedError):
            segment.client.forward_backward("batch")

    assert world.service.created == []


def test_where_no_list_can_be_had_it_is_restored_as_that_waits_for_one(world, monkeypatch):
    site, other = Account(), "other7:train:0"
    site.saves[other] = [saved(other, "last", 9)]
    refused = [StatusError(503)]

    def list_checkpoints(config, run_id):
        if refused:
            raise refused.pop()
        return site.saves.get(run_id, [])

    with going_on(world, site, other, backoff=0.0) as run:
        monkeypatch.setattr(site, "list_checkpoints", list_checkpoints)

        assert begun(run).start_step == 9
        assert run.client is world.service.clients[-1]
