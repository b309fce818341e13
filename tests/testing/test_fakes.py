"""The fakes: they keep the shape and the meaning of what they stand for."""

from __future__ import annotations

import inspect
import math
from concurrent.futures import Executor

import pytest

from tinkex import Monitor, Policy
from tinkex import rest as real_rest
from tinkex import service as real_services
from tinkex.errors import ApiNotFoundError, ApiTimeoutError, TinkexError
from tinkex.testing import DeadlockError, FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor
from tinkex.types import Checkpoint, TrainingRun

RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000100"


class Log(list):
    def timer(self, fake, seconds, name):
        timer = fake(seconds, lambda: self.append((fake.now(), name)))
        timer.start()
        return timer


# FakeScheduler


def test_time_stands_still_at_zero_until_it_is_advanced():
    fake = FakeScheduler()

    assert fake.now() == 0.0
    fake.advance(2.5)
    assert fake.now() == 2.5


def test_a_timer_that_was_not_started_does_not_fire():
    fake, log = FakeScheduler(), []

    fake(1.0, lambda: log.append(1))
    fake.advance(10)

    assert log == []
    assert fake.pending == ()


def test_a_timer_is_due_an_interval_after_its_start_and_not_its_making():
    fake, log = FakeScheduler(), []
    timer = fake(5.0, lambda: log.append(fake.now()))
    fake.advance(3)

    timer.start()
    fake.advance(4.9)
    assert log == []
    fake.advance(0.2)

    assert log == [8.0]


def test_a_start_never_runs_the_function_itself():
    fake, log = FakeScheduler(), []

    fake(0.0, lambda: log.append(1)).start()

    assert log == []
    fake.advance(0)
    assert log == [1]


def test_advance_steps_to_each_due_time_in_order():
    fake, log = FakeScheduler(), Log()
    log.timer(fake, 20.0, "second")
    log.timer(fake, 10.0, "first")
    log.timer(fake, 20.0, "third")

    fake.advance(25)

    assert log == [(10.0, "first"), (20.0, "second"), (20.0, "third")]
    assert fake.now() == 25.0


def test_a_timer_that_arms_itself_again_fires_as_often_as_it_is_due():
    fake, log = FakeScheduler(), []

    def again():
        log.append(fake.now())
        fake(10.0, again).start()

    fake(10.0, again).start()
    fake.advance(30)

    assert log == [10.0, 20.0, 30.0]


def test_a_timer_armed_meanwhile_fires_in_the_same_advance():
    fake, log = FakeScheduler(), Log()
    fake(5.0, lambda: log.timer(fake, 1.0, "armed meanwhile")).start()

    fake.advance(6)

    assert log == [(6.0, "armed meanwhile")]


def test_a_cancelled_timer_does_not_fire_and_is_not_pending():
    fake, log = FakeScheduler(), Log()
    timer = log.timer(fake, 5.0, "cancelled")
    log.timer(fake, 7.0, "kept")

    timer.cancel()
    timer.cancel()

    assert fake.pending == (7.0,)
    fake.advance(10)
    assert log == [(7.0, "kept")]


def test_pending_tells_when_the_armed_timers_are_due():
    fake, log = FakeScheduler(), Log()
    fake.advance(1)
    log.timer(fake, 20.0, "b")
    log.timer(fake, 10.0, "a")

    assert fake.pending == (11.0, 21.0)


@pytest.mark.parametrize("seconds", [-0.1, -math.inf, math.inf, math.nan])
def test_time_moves_forward_by_a_finite_number_only(seconds):
    fake = FakeScheduler()

    with pytest.raises(ValueError, match="forward"):
        fake.advance(seconds)
    assert fake.now() == 0.0


def test_an_advance_inside_a_timer_keeps_time_from_going_back():
    fake, times = FakeScheduler(), []
    fake(1.0, lambda: fake.advance(10)).start()
    fake(5.0, lambda: times.append(fake.now())).start()

    fake.advance(2)

    assert times == [5.0]
    assert fake.now() == 11.0


def test_what_a_timer_raises_reaches_the_test():
    fake = FakeScheduler()
    fake(1.0, lambda: 1 / 0).start()

    with pytest.raises(ZeroDivisionError):
        fake.advance(1)


def test_wait_steps_until_the_predicate_holds_and_no_further():
    fake, log = FakeScheduler(), Log()
    for seconds in (1.0, 2.0, 3.0):
        log.timer(fake, seconds, seconds)

    assert fake.wait(lambda: len(log) == 2) is True

    assert fake.now() == 2.0
    assert fake.pending == (3.0,)


def test_wait_does_not_move_time_where_the_predicate_holds_at_once():
    fake, log = FakeScheduler(), Log()
    log.timer(fake, 0.0, "due")

    assert fake.wait(lambda: True, 5.0) is True

    assert (fake.now(), log) == (0.0, [])


def test_wait_gives_up_after_its_timeout_with_time_moved_on_that_far():
    fake, log = FakeScheduler(), Log()
    log.timer(fake, 4.0, "within")
    log.timer(fake, 6.0, "beyond")

    assert fake.wait(lambda: False, 5.0) is False

    assert fake.now() == 5.0
    assert log == [(4.0, "within")]


def test_wait_raises_where_nothing_pending_can_end_it():
    fake, log = FakeScheduler(), Log()
    log.timer(fake, 1.0, "in vain")

    with pytest.raises(DeadlockError) as caught:
        fake.wait(lambda: False)

    assert log == [(1.0, "in vain")]
    assert isinstance(caught.value, TinkexError)


def test_a_wait_that_only_sweeps_go_on_beside_is_a_deadlock_too():
    fake, rest = FakeScheduler(), FakeRest()
    rest.set_run(RUN)
    parts = {"rest_module": rest, "executor": InlineExecutor(), "scheduler": fake}
    with Monitor(Policy(enabled=True), **parts) as monitor:
        run = monitor.monitor_run(RUN, FakeServiceClient())
        with pytest.raises(DeadlockError, match="have not ended"):
            run.wait()

        assert run.state == "healthy"
        with pytest.raises(TimeoutError):
            run.wait(10_000.0)


def test_a_wait_without_a_limit_may_take_many_timers():
    fake, log = FakeScheduler(), []

    def again():
        log.append(fake.now())
        fake(30.0, again).start()

    again()

    assert fake.wait(lambda: len(log) > 5_000)


def test_the_repr_tells_the_time_and_what_is_pending():
    fake, log = FakeScheduler(), Log()
    fake.advance(1)
    log.timer(fake, 2.0, "x")

    assert repr(fake) == "<FakeScheduler at 1 s, pending [3.0]>"


# FakeRest


@pytest.mark.parametrize("name", ["get_training_run", "list_checkpoints"])
def test_a_fake_rest_takes_the_same_arguments_as_the_real_module(name):
    fake = list(inspect.signature(getattr(FakeRest(), name)).parameters)
    real = list(inspect.signature(getattr(real_rest, name)).parameters)

    assert fake == real[: len(fake)]


def test_a_run_is_answered_as_it_was_set():
    rest = FakeRest()

    rest.set_run(RUN, corrupted=True, last_checkpoint=PATH, lora_rank=8, base_model="a/b")
    run = rest.get_training_run(None, RUN)

    assert isinstance(run, TrainingRun)
    assert (run.training_run_id, run.corrupted, run.lora_rank) == (RUN, True, 8)
    assert run.base_model == "a/b"
    assert run.last_checkpoint.tinker_path == PATH


def test_set_run_replaces_what_was_set_before():
    rest = FakeRest()
    rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)

    rest.set_run(RUN)

    assert rest.get_training_run(None, RUN).corrupted is False
    assert rest.get_training_run(None, RUN).last_checkpoint is None
    assert rest.list_checkpoints(None, RUN) == ()


@pytest.mark.parametrize(
    "given", [PATH, Checkpoint.from_path(PATH), {"tinker_path": PATH}], ids=["path", "ours", "json"]
)
def test_a_checkpoint_may_be_given_in_any_form(given):
    rest = FakeRest()

    rest.set_run(RUN, last_checkpoint=given)

    assert rest.get_training_run(None, RUN).last_checkpoint == Checkpoint.from_path(PATH)
    assert rest.list_checkpoints(None, RUN) == (Checkpoint.from_path(PATH),)


def test_a_run_may_list_more_checkpoints_than_its_last_one():
    rest = FakeRest()
    older = f"tinker://{RUN}/weights/000050"

    rest.set_run(RUN, last_checkpoint=PATH, checkpoints=[older, PATH])

    assert [c.tinker_path for c in rest.list_checkpoints(None, RUN)] == [older, PATH]


def test_a_run_that_was_not_set_is_a_404():
    with pytest.raises(ApiNotFoundError):
        FakeRest().get_training_run(None, RUN)


def test_a_run_that_a_fake_service_client_made_is_healthy():
    client = FakeServiceClient().create_training_client_from_state(PATH)

    run = FakeRest().get_training_run(None, client.model_id)

    assert (run.training_run_id, run.corrupted) == (client.model_id, False)


def test_failures_come_as_often_as_they_were_asked_for_and_in_order():
    rest = FakeRest()
    rest.set_run(RUN)
    rest.fail(ApiTimeoutError("slow"), times=2)
    rest.fail(ConnectionResetError())

    raised = []
    for _ in range(4):
        try:
            rest.get_training_run(None, RUN)
        except Exception as error:
            raised.append(type(error))
        else:
            raised.append(None)

    assert raised == [ApiTimeoutError, ApiTimeoutError, ConnectionResetError, None]


@pytest.mark.parametrize("fake", [FakeRest(), FakeServiceClient()])
@pytest.mark.parametrize("error", [ValueError, "it failed", None])
def test_a_failure_must_be_an_exception_instance(fake, error):
    with pytest.raises(TypeError, match="exception instance"):
        fake.fail(error)


def test_calls_lists_every_request_also_one_that_failed():
    rest = FakeRest()
    rest.fail(ValueError("once"))

    with pytest.raises(ValueError, match="once"):
        rest.get_training_run(None, RUN)
    rest.list_checkpoints(None, RUN)

    assert rest.calls == [("get_training_run", RUN), ("list_checkpoints", RUN)]


# FakeServiceClient


@pytest.mark.parametrize(
    ("create", "with_optimizer"),
    [
        ("create_training_client_from_state", False),
        ("create_training_client_from_state_with_optimizer", True),
    ],
)
def test_created_tells_the_path_and_whether_with_optimizer(create, with_optimizer):
    service = FakeServiceClient()

    client = getattr(real_services, create)(service, PATH, user_metadata={"team": "a"})

    assert service.created == [(PATH, with_optimizer)]
    assert service.clients == [client]
    assert service.metadata == [{"team": "a"}]
    assert client.path == PATH


def test_every_client_is_a_run_of_its_own():
    service = FakeServiceClient()

    ids = {service.create_training_client_from_state(PATH).model_id for _ in range(3)}

    assert len(ids) == 3
    assert RUN not in ids


def test_a_failed_creation_creates_nothing():
    service = FakeServiceClient()
    service.fail(TimeoutError("slow"))

    with pytest.raises(TimeoutError):
        service.create_training_client_from_state(PATH)

    assert (service.created, service.clients) == ([], [])


def test_a_fake_client_tells_its_run_in_its_repr():
    client = FakeServiceClient().create_training_client_from_state(PATH)

    assert client.model_id in repr(client)


# InlineExecutor


def test_a_job_runs_at_submit():
    calls = []

    future = InlineExecutor().submit(lambda a, b: calls.append((a, b)) or a, 1, b=2)

    assert calls == [(1, 2)]
    assert future.done()
    assert future.result() == 1


def test_what_a_job_raises_is_in_its_future():
    future = InlineExecutor().submit(lambda: 1 / 0)

    assert isinstance(future.exception(), ZeroDivisionError)


def test_it_is_an_executor_that_refuses_jobs_after_its_end():
    with InlineExecutor() as executor:
        assert isinstance(executor, Executor)
        assert list(executor.map(abs, [-1, 2])) == [1, 2]

    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(abs, 1)


# The package


def test_its_names_can_be_seen_before_they_are_used():
    from tinkex import testing

    assert set(testing.__all__) <= set(dir(testing))
    assert [name for name in testing.__all__ if getattr(testing, name).__name__ != name] == []
    with pytest.raises(AttributeError, match=r"'tinkex.testing' has no attribute 'FakeMonitor'"):
        _ = testing.FakeMonitor
