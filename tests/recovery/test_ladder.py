"""The checkpoint ladder: which rung is tried, what counts against which limit, and the budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.loops import SdkError, begin, train
from support.world import ATTEMPT, FAILED_ATTEMPT, RUN, StatusError, weights

from tinkex import Checkpoint, Policy, RecoveryExecutor, Specific
from tinkex.errors import (
    ApiConnectionError,
    ApiStatusError,
    ApiTimeoutError,
    CheckpointMissingError,
    IncidentBudgetError,
    RecoveryExhaustedError,
)
from tinkex.testing import FakeRest, FakeServiceClient, InlineExecutor

NAMES = ("000010", "000020", "000030", "000040", "000050")


class Ladder(FakeServiceClient):
    """A service client to which some checkpoints give trouble; `tried` lists every attempt."""

    def __init__(self, trouble=None):
        super().__init__()
        self.tried = []
        self.trouble = {name: list(errors) for name, errors in (trouble or {}).items()}

    def create_training_client_from_state(self, path, user_metadata=None):
        self._try(path, False)
        return super().create_training_client_from_state(path, user_metadata)

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self._try(path, True)
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)

    def _try(self, path, with_optimizer):
        name = path.rpartition("/")[2]
        self.tried.append((name, with_optimizer))
        errors = self.trouble.get(name)
        if errors:
            error = errors.pop(0)
            if error is not None:
                raise error


class RefusedError(Exception):
    """A failed load as the official SDK tells it: with the server's category, not a status."""

    category = "server"


def climb(world, trouble=None, *names, executor=None, fields=None, **policy):
    """Corrupt a run that has these checkpoints, and give the recovery what time it needs."""
    world.service = Ladder(trouble)
    run, _ = begin(world, executor=executor, **policy)
    world.corrupt(RUN, *(names or NAMES), **(fields or {}))
    world.fake.advance(10.0)
    return run


def always(status, times=99):
    return [ApiStatusError.of(status)] * times


def tried(world):
    return [name for name, _ in world.service.tried]


def test_the_newest_checkpoint_is_tried_first(world):
    run = climb(world)

    assert tried(world) == ["000050"]
    assert run.lineage[-1].checkpoint == weights("000050")
    event = world.events.one("checkpoint_selected")
    assert event.checkpoint.tinker_path == weights("000050")
    assert (event.strategy, event.attempt) == ("latest", 1)


def test_a_specific_strategy_tries_that_one_alone(world):
    run = climb(world, checkpoint_strategy=weights("000020"))

    assert world.service.tried == [("000020", True)]
    for name in ("started", "checkpoint_selected"):
        assert world.events.one(name).strategy == Specific(weights("000020"))
    assert run.state == "healthy"


@pytest.mark.parametrize("status", [400, 404, 409, 410, 422])
def test_a_rung_that_is_refused_is_left_at_once_for_the_one_below(world, status):
    run = climb(world, {"000050": always(status), "000040": always(status)})

    assert tried(world) == ["000050", "000040", "000030"]
    selected = world.events.of("checkpoint_selected")
    assert [event.checkpoint.checkpoint_id for event in selected] == tried(world)
    assert [event.retry_in for event in world.events.of("failed")] == [0.0, 0.0]
    assert world.events.names == ["detected", *FAILED_ATTEMPT * 2, *ATTEMPT, "completed"]
    assert world.events.one("completed").attempt == 3
    assert run.state == "healthy"
    assert world.fake.now() == 10.0


def test_a_load_that_fails_is_left_at_once_for_the_one_below(world):
    climb(world, {"000050": [RefusedError("Error while deserializing header")] * 9})

    assert tried(world) == ["000050", "000040"]
    assert world.events.one("failed").retry_in == 0.0


def test_broken_rungs_count_in_fallback_checkpoints_only(world):
    run = climb(
        world, {name: always(422) for name in NAMES[1:]}, max_attempts=1, fallback_checkpoints=4
    )

    assert tried(world) == [*reversed(NAMES)]
    assert run.state == "healthy"


@pytest.mark.parametrize("fallback", [0, 1, 3])
def test_no_more_rungs_are_tried_than_the_policy_allows(world, fallback):
    run = climb(world, {name: always(422) for name in NAMES}, fallback_checkpoints=fallback)

    assert tried(world) == [*reversed(NAMES)][: fallback + 1]
    assert run.state == "exhausted"
    assert world.events.names[-2:] == ["failed", "exhausted"]
    exhausted = world.events.one("exhausted")
    assert (exhausted.attempt, exhausted.error.status) == (fallback + 1, 422)


@pytest.mark.parametrize(
    "error",
    [
        ApiStatusError.of(500),
        ApiStatusError.of(502),
        ApiTimeoutError("x"),
        ApiConnectionError("x"),
        TimeoutError("x"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again_on_the_same_rung_up_to_max_attempts(world, error):
    run = climb(world, {"000050": [error] * 99}, max_attempts=4)
    world.fake.advance(600.0)

    assert tried(world) == ["000050"] * 4
    assert run.state == "exhausted"
    assert all(event.retry_in > 0 for event in world.events.of("failed")[:-1])
    assert type(world.events.one("exhausted").error) is type(error)


def test_the_attempts_are_counted_afresh_on_each_rung(world):
    two = always(500, 2)
    trouble = {"000050": [*two, *always(422)], "000040": [*two, *always(422)], "000030": two}
    run = climb(world, trouble, max_attempts=3)
    world.fake.advance(600.0)

    assert tried(world) == [*["000050"] * 3, *["000040"] * 3, *["000030"] * 3]
    assert run.state == "healthy"


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_patience_is_waited_for_and_not_counted(world, status):
    run = climb(world, {"000050": always(status, 20)}, max_attempts=1)
    world.fake.advance(3000.0)

    assert tried(world) == ["000050"] * 21
    assert run.state == "healthy"


def test_as_long_as_the_server_asks_for_is_waited(world):
    patience = ApiStatusError.of(429, retry_after=200.0)
    climb(world, {"000050": [patience]}, max_attempts=1)

    world.fake.advance(199.0)
    before = tried(world)
    world.fake.advance(2.0)

    assert before == ["000050"]
    assert tried(world) == ["000050"] * 2


def test_expired_checkpoints_come_last_and_those_of_samplers_never(world):
    expired = datetime.now(UTC) - timedelta(hours=1)
    world.service = Ladder()
    run, _ = begin(world)
    world.rest.set_run(
        RUN,
        corrupted=True,
        last_sampler_checkpoint={"tinker_path": f"tinker://{RUN}/sampler_weights/s"},
        checkpoints=[
            weights("good"),
            {"tinker_path": weights("expired"), "expires_at": expired},
            {"tinker_path": f"tinker://{RUN}/sampler_weights/s"},
            {"tinker_path": weights("foreign"), "checkpoint_type": "external"},
        ],
    )
    world.fake.advance(10.0)

    assert tried(world) == ["good"]
    assert run.state == "healthy"


def test_a_run_with_sampler_checkpoints_only_cannot_be_restored(world):
    run, _ = begin(world)
    path = f"tinker://{RUN}/sampler_weights/s"
    world.rest.set_run(RUN, corrupted=True, checkpoints=[path])
    world.fake.advance(10.0)

    error = world.events.one("exhausted").error
    assert run.state == "exhausted"
    assert isinstance(error, CheckpointMissingError)
    assert path in str(error)
    assert world.service.created == []


def test_a_run_without_a_checkpoint_is_exhausted_with_what_to_do(world, recover):
    world.rest.set_run(RUN, corrupted=True)

    error = recover().exception(0)

    assert world.events.names == ["started", "failed", "exhausted"]
    assert isinstance(error, CheckpointMissingError)
    assert error.run_id == RUN
    assert "save_state" in str(error)


# Where a server cannot list


class CannotList(FakeRest):
    """A server that refuses to list checkpoints."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def list_checkpoints(self, config, run_id):
        raise self.error


@pytest.mark.parametrize("status", [404, 405, 422, 500])
def test_the_recorded_checkpoints_serve_where_the_server_cannot_list(world, status):
    world.rest = CannotList(ApiStatusError.of(status))
    run, _ = begin(world)

    def die(segment, step):
        if step == 7 and len(run.lineage) == 1:
            world.rest.set_run(RUN, corrupted=True)
            raise SdkError("failed")

    diary = train(run, 9, before=die)

    assert world.service.created == [(weights("000005"), True)]
    assert diary.resumes[1].step == 5


def test_a_rest_module_without_a_list_will_do(world):
    class Single:
        def get_training_run(self, config, run_id):
            corrupted = run_id == RUN and run.state == "healthy"
            return {"training_run_id": run_id, "corrupted": corrupted}

    run, _ = begin(world, options={"rest_module": Single()})
    run.record_checkpoint(weights("a"), step=3)

    world.fake.advance(10.0)

    assert world.service.created == [(weights("a"), True)]


def test_a_server_that_cannot_list_leaves_what_the_poll_saw(world):
    path = world.corrupt()

    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            return world.rest.get_training_run(config, run_id)

        @staticmethod
        def list_checkpoints(config, run_id):
            raise ApiStatusError.of(404, "no such route")

    monitor = world.monitor(options={"rest_module": Rest})
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)

    assert world.events.one("completed").checkpoint.tinker_path == path


def test_a_listing_that_fails_for_now_is_tried_again_where_nothing_else_is_known(world):
    class Rest(FakeRest):
        failures = 1

        def list_checkpoints(self, config, run_id):
            if self.failures:
                self.failures -= 1
                raise ApiStatusError.of(502, "for now")
            return (Checkpoint.from_path(weights("a")),)

    executor = RecoveryExecutor(InlineExecutor(), rest_module=Rest(), scheduler=world.fake)
    future = executor.recover(RUN, world.service, Policy(enabled=True))
    world.fake.advance(10)

    assert world.events.names == ["started", "failed", *ATTEMPT, "completed"]
    assert future.result(0).checkpoint.tinker_path == weights("a")


# Earlier generations and earlier incidents


def test_the_checkpoints_of_earlier_generations_are_fallen_back_to(world):
    world.corrupt(RUN, "a", "b")
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    second = run.run_id
    world.corrupt(second, "c")
    world.service.fail(StatusError(404), times=2)
    world.events.clear()

    world.fake.advance(10)

    assert [e.checkpoint.tinker_path for e in world.events.of("checkpoint_selected")] == [
        weights("c", second),
        weights("b"),
        weights("a"),
    ]


def test_a_checkpoint_that_did_not_load_once_is_not_tried_again_by_a_later_incident(world):
    world.corrupt(RUN, "a", "b")
    world.service.fail(StatusError(404))
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    assert world.service.created == [(weights("a"), True)]

    world.rest.set_run(run.run_id, corrupted=True)
    world.fake.advance(10)

    assert world.service.created == [(weights("a"), True), (weights("a"), True)]


# The optimizer


def test_the_optimizer_is_not_dropped_unless_allowed(world):
    run = climb(world, {name: always(422) for name in NAMES})

    assert run.state == "exhausted"
    assert all(with_optimizer for _, with_optimizer in world.service.tried)
    assert world.service.created == []


def test_where_it_is_allowed_the_optimizer_is_dropped_last_and_said_to_be(world):
    trouble = {"000020": [ApiStatusError.of(422)], "000010": [ApiStatusError.of(422)]}
    run = climb(world, trouble, *NAMES[:2], allow_weights_only=True)
    run.record_checkpoint(weights("000020"), step=20)

    segment = next(run.segments())

    assert world.service.tried == [("000020", True), ("000010", True), ("000020", False)]
    assert world.service.created == [(weights("000020"), False)]
    assert world.events.one("completed").attempt == 3
    assert segment.resume.optimizer_restored is False


# The plan


def test_the_plan_is_what_a_recovery_then_does(world):
    world.service = Ladder({name: always(422) for name in NAMES})
    run, _ = begin(world, fallback_checkpoints=2)
    saved = [
        {"tinker_path": weights(name), "time": f"2026-01-01T00:00:{second:02d}Z"}
        for second, name in enumerate(NAMES)
    ]
    world.rest.set_run(RUN, checkpoints=saved)
    run.record_checkpoint(weights("000040"), step=40)

    plan = run.plan()
    created = list(world.service.tried)
    run.recover()

    planned = [candidate.checkpoint.checkpoint_id for candidate in plan.candidates]
    assert created == []
    assert planned == tried(world) == ["000040", "000030", "000020"]
    assert [candidate.step for candidate in plan.candidates] == [40, None, None]
    reasons = {out.checkpoint.checkpoint_id: out.reason for out in plan.left_out}
    assert reasons.keys() == {"000050", "000010"}
    assert "no step is recorded" in reasons["000050"]
    assert "policy" in reasons["000010"]
    assert run.state == "exhausted"


# The budget


def crash_loop(world, times, *, every=10.0):
    """Corrupt whichever run is live at each sweep."""
    run, _ = begin(world, poll_interval=every)
    for _ in range(times):
        world.corrupt(run.run_id)
        world.fake.advance(every)
    return run


def test_a_crash_loop_ends_in_exhausted_with_the_budget_named(world):
    run = crash_loop(world, 8)

    error = world.events.one("exhausted").error
    assert run.state == "exhausted"
    assert len(world.service.created) == 5
    assert isinstance(error, IncidentBudgetError)
    assert error.incidents == 5
    with pytest.raises(RecoveryExhaustedError) as caught:
        next(run.segments())
    assert isinstance(caught.value.error, IncidentBudgetError)


def test_incidents_that_lie_further_apart_than_the_window_go_on(world):
    run = crash_loop(world, 12, every=900.0)

    assert run.state == "healthy"
    assert len(run.lineage) == 13
    assert world.events.of("exhausted") == []


def test_the_budget_counts_what_training_loops_report_too(world):
    run, _ = begin(world, poll_interval=100_000.0, max_incidents=2)
    run.record_checkpoint(weights("a"), step=0)

    def die(segment, step):
        raise SdkError(f"Adapter {segment.client.model_id} not found")

    with pytest.raises(RecoveryExhaustedError):
        train(run, 9, before=die)

    assert len(world.service.created) == 2


def test_a_loop_that_gets_no_further_is_not_paid_for_for_ever(world):
    run, _ = begin(world, poll_interval=100_000.0, max_incidents=9)
    reached = []

    def die_at_seven(segment, step):
        reached.append(step)
        if step == 7:
            raise SdkError(f"Adapter {segment.client.model_id} not found")

    with pytest.raises(RecoveryExhaustedError) as caught:
        train(run, 9, before=die_at_seven)

    assert isinstance(caught.value.error, IncidentBudgetError)
    assert (caught.value.error.step, caught.value.error.incidents) == (5, 3)
    assert "step 5" in str(caught.value.error)
    assert len(world.service.created) == 3
    run.recover()
    assert run.state == "healthy"


def test_incidents_with_progress_between_them_go_on(world):
    run, _ = begin(world, poll_interval=100_000.0, max_incidents=99)
    died = set()

    def die_once(segment, step):
        if step > 5 and step % 5 == 1 and step not in died:
            died.add(step)
            raise SdkError(f"Adapter {segment.client.model_id} not found")

    train(run, 40, before=die_once)

    assert len(world.service.created) == 7


def test_an_exhausted_run_begins_anew_when_the_caller_asks(world):
    run = crash_loop(world, 8)

    run.recover()

    assert run.state == "healthy"
    assert len(world.service.created) == 6
