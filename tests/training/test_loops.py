"""The life of a segment: what it gives, when it may not be used any more, how a loop ends."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from support.loops import Diary, Once, SdkError, begin, train
from support.world import RUN, ManualExecutor, weights

from tinkex import Monitor, Policy, signals
from tinkex.errors import MonitorStoppedError, SegmentSupersededError
from tinkex.testing import (
    FakeRest,
    FakeScheduler,
    FakeServiceClient,
    FakeTrainingClient,
    InlineExecutor,
)

# A run that dies without any exception


def test_a_future_that_never_comes_is_given_up_as_soon_as_a_sweep_sees_the_flag(world):
    run, _ = begin(world, poll_interval=10.0)
    diary = Diary()

    def hang(segment):
        world.fake(25.0, lambda: world.corrupt(RUN, "000005")).start()
        segment.result(Future())

    train(run, 9, before=Once(7, hang), diary=diary)

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.fake.now() == 30.0


@pytest.mark.parametrize(
    "use",
    [
        lambda segment, client: segment.client.optim_step(),
        lambda segment, client: next(segment.steps(9)),
        lambda segment, client: segment.result(client.optim_step()),
        lambda segment, client: segment.save_state("x", step=3),
    ],
    ids=["client", "steps", "result", "save_state"],
)
@pytest.mark.parametrize("executor", [ManualExecutor, None], ids=["pending", "replaced"])
def test_nothing_of_a_superseded_segment_can_be_used(world, use, executor):
    run, client = begin(world, executor=executor and executor())
    segment = next(run.segments())
    world.corrupt(RUN)
    world.fake.advance(10.0)

    with segment, pytest.raises(SegmentSupersededError) as caught:
        use(segment, client)

    assert caught.value.run_id == RUN


# What a segment gives


def test_a_segment_has_the_client_of_its_own_generation(world):
    run, _ = begin(world)
    clients = []

    def corrupt_at_once(segment):
        world.corrupt(RUN, "000005")
        raise SdkError("failed")

    replace = Once(7, corrupt_at_once)
    for segment in run.segments():
        with segment:
            clients.append(segment.client)
            for step in segment.steps(9):
                replace(segment, step)
                if step == 4:
                    segment.save_state("000005", step=5)

    assert [each.model_id for each in clients] == [RUN, run.run_id]
    assert isinstance(clients[0], FakeTrainingClient)
    assert run.client is world.service.clients[0]


def test_result_gives_what_the_future_holds_and_anything_else_as_it_is(world):
    run, _ = begin(world)
    done = Future()
    done.set_result("loss 0.5")

    class OldFuture:
        def result(self):
            return "loss 0.4"

    with next(run.segments()) as segment:
        assert segment.result(done) == "loss 0.5"
        assert segment.result(OldFuture()) == "loss 0.4"
        assert segment.result(0.3) == 0.3


def test_result_waits_no_longer_than_it_was_told_to(world):
    run, _ = begin(world, poll_interval=10.0, confirm_within=0.0)

    with pytest.raises(TimeoutError, match=RUN), next(run.segments()) as segment:
        segment.result(Future(), timeout=25.0)

    assert world.fake.now() == 25.0
    assert run.state == "healthy"


def test_what_is_submitted_ahead_is_waited_for_later(world):
    run, client = begin(world)
    losses = []

    for segment in run.segments():
        with segment:
            submitted = [client.forward_backward(step) for step in segment.steps(4)]
            losses += [segment.result(each) for each in submitted]

    assert [argument for _, argument in client.calls] == [0, 1, 2, 3]
    assert len(losses) == 4


def test_a_save_gives_the_checkpoint_and_passes_options_on(world):
    class Options(FakeTrainingClient):
        def save_state(self, name, ttl_seconds=None, user_metadata=None):
            given.append((name, ttl_seconds, user_metadata))
            return super().save_state(name, user_metadata)

    given = []
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Options(RUN))

    with next(run.segments()) as segment:
        saved = segment.save_state("a", step=3, ttl_seconds=60, user_metadata={"team": "x"})

    assert saved.tinker_path == weights("a")
    assert given == [("a", 60, {"team": "x", "tinkex_step": "3"})]


def test_a_client_whose_save_takes_no_metadata_is_not_given_any(world):
    class Old(FakeTrainingClient):
        def save_state(self, name):
            return super().save_state(name)

    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=Old(RUN))

    diary = train(run, 9, before=Once(7, lambda segment: corrupt_and_fail(world)))

    assert diary.resumes[1].step == 5


def corrupt_and_fail(world):
    world.corrupt(RUN, "000005")
    raise SdkError("failed")


@pytest.mark.parametrize("total", [-1, 2.0, "9", True, None])
def test_a_total_that_is_no_number_of_steps_is_refused(world, total):
    run, _ = begin(world)

    with pytest.raises((TypeError, ValueError), match="total"), next(run.segments()) as segment:
        list(segment.steps(total))


# How a loop ends


def test_a_segment_that_is_never_entered_is_an_error_and_no_endless_loop(world):
    run, _ = begin(world)
    segments = run.segments()
    next(segments)

    with pytest.raises(RuntimeError, match="with segment"):
        next(segments)


def test_a_loop_that_is_left_early_is_at_its_end(world):
    run, _ = begin(world)
    entered = 0

    for segment in run.segments():
        entered += 1
        with segment:
            for step in segment.steps(100):
                if step == 3:
                    break

    assert entered == 1


@pytest.mark.parametrize(("submits", "created"), [(False, 0), (True, 1)])
def test_a_loop_that_was_left_by_break_goes_on_where_it_saved(world, submits, created):
    run, _ = begin(world)
    for segment in run.segments():
        with segment:
            for step in segment.steps(9):
                if step < 3 or submits:
                    segment.result(segment.client.optim_step())
                if step == 2:
                    segment.save_state("at-3", step=3)
                if step == 3:
                    break

    assert train(run, 6).steps == [3, 4, 5]
    assert len(world.service.created) == created


def test_a_run_without_a_client_has_no_segments(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)

    with pytest.raises(RuntimeError, match="client"):
        run.segments()


@pytest.mark.parametrize("is_corrupted", [True, False])
def test_the_caller_may_report_a_failure_without_segments(world, is_corrupted):
    run, _ = begin(world, poll_interval=1000.0)
    if is_corrupted:
        world.corrupt(RUN)

    assert run.report_failure(ValueError("step failed")) is is_corrupted

    assert len(world.service.created) == is_corrupted


def test_a_run_that_is_stopped_ends_its_loop(world):
    run, _ = begin(world, executor=ManualExecutor())

    def stop_later(segment):
        world.corrupt(RUN, "000005")
        world.fake(100.0, run.stop).start()
        raise SdkError("failed")

    with pytest.raises(MonitorStoppedError):
        train(run, 9, before=Once(7, stop_later))


# A loop of the caller's own


class Curriculum:
    """A trainer: batches in an order of its own, saves on a good loss, retries once."""

    def __init__(self, run):
        self.run = run
        self.log = []

    def fit(self, total):
        for segment in self.run.segments(resume_step=0):
            order = [0, 2, 1] if segment.resume is None else segment.resume.data
            with segment:
                for step in segment.steps(total):
                    row = order[step % 3]
                    self._train(segment, step, row)
                    if row == 1:
                        segment.save_state(f"good-{step}", step=step + 1, data=order)

    def _train(self, segment, step, row):
        try:
            segment.result(segment.client.forward_backward(row))
        except ValueError:
            segment.result(segment.client.forward_backward(row))
        segment.result(segment.client.optim_step(0.1))
        self.log.append((segment.client.model_id, step, row))


def fit_once():
    """Train on a server that fails once for no reason and once for good."""
    scheduler, rest, service = FakeScheduler(), FakeRest(), FakeServiceClient()
    told = []
    rest.set_run(RUN)
    client = FakeTrainingClient(RUN)
    policy = Policy(enabled=True, poll_interval=10.0)
    with Monitor(
        policy, rest_module=rest, executor=InlineExecutor(), scheduler=scheduler
    ) as monitor:
        run = monitor.monitor_run(RUN, service, client=client)
        trainer = Curriculum(run)
        scheduler(0.0, lambda: client.fail(ValueError("a hiccup"))).start()
        scheduler.advance(0.0)

        def note(sender, *, event):
            told.append((event.name, event.run_id, scheduler.now()))

        with signals.subscribe(note, sender=monitor):

            def die(*_):
                if len(client.calls) > 17:
                    rest.set_run(RUN, corrupted=True, last_checkpoint=weights("good-5"))
                    client.fail(ValueError("422 gone"), times=2)

            client.forward_backward = before(die, client.forward_backward)
            trainer.fit(12)
    return trainer.log, told, service.created, rest.calls


def before(action, method):
    """A method that something happens before."""

    def call(*args):
        action()
        return method(*args)

    return call


def test_a_loop_of_the_callers_own_goes_on_where_it_saved_and_twice_the_same():
    first, second = fit_once(), fit_once()

    log, told, created, _ = first
    assert first == second
    assert [step for run_id, step, _ in log if run_id == RUN] == list(range(8))
    assert [step for run_id, step, _ in log if run_id != RUN] == list(range(6, 12))
    assert [row for _, _, row in log[8:]] == [0, 2, 1] * 2
    assert created == [(weights("good-5"), True)]
    assert [name for name, _, _ in told if name in ("detected", "completed")] == [
        "detected",
        "completed",
    ]
