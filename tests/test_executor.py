"""The executor: an attempt's pipeline, what follows a failed one, slots, and blocked accounts."""

from __future__ import annotations

import inspect
import logging
from concurrent.futures import Executor, Future

import pytest
import tenacity
from conftest import OTHER, RUN, ManualExecutor, StatusError, weights

from tinkex import Config, Policy, RecoveryExecutor, Specific, signals
from tinkex.errors import (
    AlreadyPendingError,
    ApiStatusError,
    AttemptTimeoutError,
    CheckpointMissingError,
    ConfigError,
    MonitorStoppedError,
    PolicyError,
    RecoveryDisabledError,
)
from tinkex.testing import FakeRest, FakeServiceClient, InlineExecutor
from tinkex.types import Checkpoint, TrainingRun

ENABLED = Policy(enabled=True)
ATTEMPT = ["started", "checkpoint_selected", "client_created"]
FAILED_ATTEMPT = ["started", "checkpoint_selected", "failed"]

pytestmark = pytest.mark.usefixtures("no_environment")


class SlowService(FakeServiceClient):
    """A service client whose creations take as long as it is told."""

    def __init__(self, fake, *seconds):
        super().__init__()
        self.fake = fake
        self.seconds = list(seconds)

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self.fake.advance(self.seconds.pop(0) if self.seconds else 0)
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


@pytest.fixture
def recover(world):
    """Recover a run on an executor of its own; the keywords are fields of the policy."""

    def begin(run_id=RUN, pool=None, service=None, **policy):
        executor = RecoveryExecutor(
            pool or InlineExecutor(), rest_module=world.rest, scheduler=world.fake
        )
        policy = Policy(enabled=True, **policy)
        return executor.recover(run_id, service or world.service, policy)

    return begin


def attempts(world):
    """The numbers and the moments of the attempts."""
    began = world.events.events[0].time
    return [
        (event.attempt, round((event.time - began).total_seconds(), 3))
        for event in world.events.of("started")
    ]


# Direct recoveries


def test_a_direct_recovery_gives_a_future_of_the_completed_event(world, recover):
    path = world.corrupt()

    future = recover()

    event = future.result(0)
    assert isinstance(future, Future)
    assert event is world.events.one("completed")
    assert (event.run_id, event.attempt, event.checkpoint.tinker_path) == (RUN, 1, path)
    assert event.client is world.service.clients[0]
    assert event.successor_id == event.client.model_id


def test_a_direct_recovery_says_the_same_as_a_monitors_but_for_the_detection(world, recover):
    world.corrupt()

    recover()

    assert world.events.names == [*ATTEMPT, "completed"]


def test_the_sender_is_the_executor(world):
    world.corrupt()
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)

    executor.recover(RUN, world.service, ENABLED, metadata={"team": "a"})

    assert {id(sender) for sender in world.events.senders} == {id(executor)}
    assert {event.metadata["team"] for event in world.events.events} == {"a"}


def test_the_client_that_an_event_tells_of_has_loaded_and_is_the_future_ones(world, recover):
    """A service client that returns a future is waited for before anything is said."""
    world.corrupt()
    log = []

    class Pending:
        def result(self):
            log.append("loaded")
            return FakeServiceClient().create_training_client_from_state(weights("1"))

    class Service:
        def create_training_client_from_state_with_optimizer(self, path):
            return Pending()

    with signals.subscribe(lambda _, event: log.append(event.name), "client_created"):
        client = recover(service=Service()).result(0).client

    assert log == ["loaded", "client_created"]
    assert client.path == weights("1")


@pytest.mark.parametrize("restore_optimizer", [True, False])
def test_the_policy_says_whether_the_optimizer_is_restored(world, recover, restore_optimizer):
    path = world.corrupt()

    recover(restore_optimizer=restore_optimizer)

    assert world.service.created == [(path, restore_optimizer)]


def test_a_callable_is_asked_for_a_service_client_once_per_attempt(world, recover):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    asked = []

    recover(service=lambda: asked.append(world.fake.now()) or world.service)
    world.fake.advance(10)

    assert len(asked) == 2
    assert len(world.service.created) == 1


def test_an_executors_own_service_module_goes_before_the_monitors(world):
    world.corrupt()
    log = []

    def module(name):
        def create(service, path, **options):
            log.append((name, service, path))
            return FakeServiceClient().create_training_client_from_state(path)

        return type(
            name,
            (),
            {
                "create_rest_client": staticmethod(lambda service: None),
                "create_training_client_from_state": staticmethod(create),
                "create_training_client_from_state_with_optimizer": staticmethod(create),
            },
        )

    executor = RecoveryExecutor(InlineExecutor(), service_client_module=module("own"))
    monitor = world.monitor(executor, options={"service_client_module": module("monitor's")})
    monitor.monitor_run(RUN, "whatever the module can use")
    world.fake.advance(10)

    assert log == [("own", "whatever the module can use", weights("000100"))]


def test_a_monitors_service_module_is_used_where_the_executor_has_none(world):
    world.corrupt()
    created = []

    class Module:
        @staticmethod
        def create_rest_client(service):
            raise AssertionError

        @staticmethod
        def create_training_client_from_state_with_optimizer(service, path, **options):
            created.append(path)
            return FakeServiceClient().create_training_client_from_state(path)

        create_training_client_from_state = create_training_client_from_state_with_optimizer

    monitor = world.monitor(options={"service_client_module": Module})
    monitor.monitor_run(RUN, object())
    world.fake.advance(10)

    assert created == [weights("000100")]


def test_a_service_client_of_none_is_refused_also_by_a_module_that_does_not_check(world):
    class Module:
        create_rest_client = create_training_client_from_state = print
        create_training_client_from_state_with_optimizer = print

    monitor = world.monitor(options={"service_client_module": Module})

    with pytest.raises(TypeError, match="service client"):
        monitor.monitor_run(RUN, None)


@pytest.mark.parametrize(
    "given",
    [weights("b"), Checkpoint.from_path(weights("b")), {"tinker_path": weights("b")}],
    ids=["path", "ours", "json"],
)
def test_a_last_checkpoint_may_be_handed_in(world, given):
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)

    event = executor.recover(RUN, world.service, ENABLED, last_checkpoint=given).result(0)

    assert event.checkpoint.tinker_path == weights("b")


def test_the_run_as_a_poll_saw_it_may_be_handed_in(world):
    run = TrainingRun.from_json(
        {
            "training_run_id": RUN,
            "corrupted": True,
            "last_checkpoint": {"tinker_path": weights("b")},
            "user_metadata": {"team": "a"},
        }
    )
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)

    event = executor.recover(RUN, world.service, ENABLED, run=run).result(0)

    assert event.checkpoint.tinker_path == weights("b")
    assert world.service.metadata[0]["team"] == "a"


def test_checkpoints_are_listed_with_the_config_that_was_handed_in(world):
    used = []

    class Rest(FakeRest):
        def list_checkpoints(self, config, run_id):
            used.append(config)
            return (Checkpoint.from_path(weights("1")),)

    config = Config("tml-given", "https://given.example")
    executor = RecoveryExecutor(InlineExecutor(), rest_module=Rest(), scheduler=world.fake)

    executor.recover(RUN, FakeServiceClient, ENABLED, config=config)

    assert used == [config]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"policy": Policy()}, RecoveryDisabledError),
        ({"policy": None}, RecoveryDisabledError),
        ({"policy": "enabled"}, PolicyError),
        ({"run_id": None}, TypeError),
        ({"run_id": "a/b"}, ValueError),
        ({"service": None}, TypeError),
        ({"metadata": "team"}, TypeError),
        ({"last_checkpoint": "no path"}, ValueError),
    ],
    ids=repr,
)
def test_a_bad_argument_begins_nothing(world, arguments, error):
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    given = {"run_id": RUN, "service": world.service, "policy": ENABLED, **arguments}

    with pytest.raises(error):
        executor.recover(**given)

    assert world.events.names == []


def test_without_any_key_the_own_rest_module_is_a_config_error(world):
    executor = RecoveryExecutor(InlineExecutor(), scheduler=world.fake)

    with pytest.raises(ConfigError):
        executor.recover(RUN, FakeServiceClient, ENABLED)


def test_a_policy_may_be_a_mapping(world):
    world.corrupt()
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)

    assert executor.recover(RUN, world.service, {"enabled": True}).result(0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pool": object()}, TypeError),
        ({"max_concurrent": 0}, ValueError),
        ({"max_concurrent": -1}, ValueError),
        ({"max_concurrent": 1.5}, TypeError),
        ({"max_concurrent": True}, TypeError),
        ({"rest_module": object()}, TypeError),
        ({"service_client_module": object()}, TypeError),
    ],
    ids=repr,
)
def test_a_part_that_does_not_fit_is_refused_by_name(options, error):
    with pytest.raises(error, match=next(iter(options))):
        RecoveryExecutor(**options)


def test_the_arguments_have_the_names_of_the_contract():
    made = inspect.signature(RecoveryExecutor).parameters
    asked = inspect.signature(RecoveryExecutor.recover).parameters

    assert list(made) == [
        "pool",
        "max_concurrent",
        "rest_module",
        "service_client_module",
        "scheduler",
    ]
    assert made["max_concurrent"].default == 1
    assert list(asked)[1:] == [
        "run_id",
        "service",
        "policy",
        "config",
        "metadata",
        "last_checkpoint",
        "run",
    ]


# The end of an executor


def test_a_second_recovery_of_the_same_run_is_refused_while_one_is_under_way(world):
    world.corrupt()
    executor = RecoveryExecutor(ManualExecutor(), rest_module=world.rest, scheduler=world.fake)
    executor.recover(RUN, world.service, ENABLED)

    with pytest.raises(AlreadyPendingError) as caught:
        executor.recover(RUN, world.service, ENABLED)

    assert caught.value.run_id == RUN
    assert world.events.names == ["started"]


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_run_may_be_recovered_again_after_its_incident(world, succeeds):
    world.corrupt()
    if not succeeds:
        world.service.fail(StatusError(418))
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    first = executor.recover(RUN, world.service, ENABLED)

    second = executor.recover(RUN, world.service, ENABLED)

    assert (first.exception(0) is None) is succeeds
    assert second.exception(0) is None


def test_an_executor_that_is_shut_down_takes_no_recovery_and_leaves_the_pool_open(world):
    pool = InlineExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)

    executor.shutdown()
    executor.shutdown()

    with pytest.raises(MonitorStoppedError):
        executor.recover(RUN, world.service, ENABLED)
    assert pool.submit(abs, -1).result() == 1


def test_shutdown_ends_what_backs_off_without_waiting_for_it(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    future = executor.recover(RUN, world.service, ENABLED)

    executor.shutdown()

    assert isinstance(future.exception(0), MonitorStoppedError)
    assert world.fake.now() == 0.0
    assert world.fake.pending == ()


def test_shutdown_gives_an_attempt_under_way_time_to_end(world):
    world.corrupt()
    pool = ManualExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)
    future = executor.recover(RUN, world.service, ENABLED)
    pool.begin_next()
    world.fake(2.0, pool.finish_next).start()

    executor.shutdown(timeout=5.0)

    assert future.result(0).client is world.service.clients[0]


def test_shutdown_abandons_an_attempt_that_takes_longer(world):
    world.corrupt()
    pool = ManualExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)
    future = executor.recover(RUN, world.service, ENABLED)
    pool.begin_next()

    executor.shutdown(timeout=5.0)
    names = list(world.events.names)
    pool.finish_next()

    assert world.fake.now() == 5.0
    assert isinstance(future.exception(0), MonitorStoppedError)
    assert world.events.names == names == ["started"]


# Which checkpoint


def test_the_newest_checkpoint_is_chosen(world, recover):
    world.corrupt(RUN, "000050", "000100", "000150")

    recover()

    event = world.events.one("checkpoint_selected")
    assert event.checkpoint.tinker_path == weights("000150")
    assert (event.strategy, event.attempt) == ("latest", 1)


def test_a_specific_strategy_chooses_that_one(world, recover):
    world.corrupt(RUN, "000050", "000100")

    recover(checkpoint_strategy=weights("000050"))

    assert world.events.one("started").strategy == Specific(weights("000050"))
    assert world.events.one("checkpoint_selected").strategy == Specific(weights("000050"))
    assert world.service.created == [(weights("000050"), True)]


def test_a_checkpoint_that_does_not_load_gives_way_to_the_one_before_at_once(world, recover):
    world.corrupt(RUN, "a", "b", "c")
    world.service.fail(ApiStatusError.of(404, "gone"))
    world.service.fail(StatusError(422))

    event = recover().result(0)

    assert world.events.names == [*FAILED_ATTEMPT, *FAILED_ATTEMPT, *ATTEMPT, "completed"]
    assert [e.checkpoint.checkpoint_id for e in world.events.of("checkpoint_selected")] == [*"cba"]
    assert [failed.retry_in for failed in world.events.of("failed")] == [0.0, 0.0]
    assert event.attempt == 3
    assert world.fake.now() == 0.0


def test_no_more_older_checkpoints_are_tried_than_the_policy_allows(world, recover):
    world.corrupt(RUN, *"abcdef")
    world.service.fail(StatusError(404), times=9)

    future = recover(fallback_checkpoints=2)

    assert [e.checkpoint.checkpoint_id for e in world.events.of("checkpoint_selected")] == [*"fed"]
    assert world.events.names[-2:] == ["failed", "exhausted"]
    assert getattr(future.exception(0), "status_code", None) == 404


def test_each_checkpoint_gets_the_attempts_of_the_policy(world, recover):
    world.corrupt(RUN, "a", "b")
    for error in [TimeoutError(), StatusError(404), TimeoutError(), TimeoutError()]:
        world.service.fail(error)

    future = recover(max_attempts=2)
    world.fake.advance(60)

    assert [e.checkpoint.checkpoint_id for e in world.events.of("checkpoint_selected")] == [*"bbaa"]
    assert isinstance(future.exception(0), TimeoutError)


def test_weights_only_is_the_last_resort_where_the_policy_allows_it(world, recover):
    world.corrupt(RUN, "a", "b")
    world.service.fail(StatusError(400), times=2)

    event = recover(allow_weights_only=True).result(0)

    assert world.service.created == [(weights("b"), False)]
    assert event.attempt == 3


def test_weights_only_is_not_resorted_to_unless_allowed(world, recover):
    world.corrupt(RUN, "a")
    world.service.fail(StatusError(400))

    future = recover()

    assert isinstance(future.exception(0), StatusError)
    assert world.service.created == []


def test_a_run_without_a_checkpoint_is_exhausted_with_what_to_do(world, recover):
    world.rest.set_run(RUN, corrupted=True)

    error = recover().exception(0)

    assert world.events.names == ["started", "failed", "exhausted"]
    assert isinstance(error, CheckpointMissingError)
    assert error.run_id == RUN
    assert "save_state" in str(error)


def test_a_run_whose_only_checkpoint_expired_says_which_and_when(world, recover):
    expired = {"tinker_path": weights("a"), "expires_at": "2001-02-03T00:00:00Z"}
    world.rest.set_run(RUN, corrupted=True, last_checkpoint=expired)

    error = recover().exception(0)

    assert weights("a") in str(error)
    assert "2001-02-03" in str(error)


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
    future = executor.recover(RUN, world.service, ENABLED)
    world.fake.advance(10)

    assert world.events.names == ["started", "failed", *ATTEMPT, "completed"]
    assert future.result(0).checkpoint.tinker_path == weights("a")


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


# Attempts and backoff


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 5])
def test_there_are_as_many_attempts_as_the_policy_says(world, recover, max_attempts):
    world.corrupt()
    world.service.fail(ValueError("no"), times=99)

    future = recover(max_attempts=max_attempts)
    world.fake.advance(1_000)

    assert world.events.names == [*FAILED_ATTEMPT * max_attempts, "exhausted"]
    assert [event.attempt for event in world.events.of("failed")] == [*range(1, max_attempts + 1)]
    exhausted = world.events.one("exhausted")
    assert (exhausted.attempt, str(exhausted.error)) == (max_attempts, "no")
    assert future.exception(0) is exhausted.error
    assert world.fake.pending == ()


def test_a_failed_attempt_tells_when_the_next_comes_and_the_last_that_none_does(world, recover):
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)

    recover()
    world.fake.advance(100)

    first, second, last = (event.retry_in for event in world.events.of("failed"))
    assert 2.5 <= first <= 5.0
    assert 5.0 <= second <= 10.0
    assert last is None
    assert attempts(world) == [(1, 0.0), (2, round(first, 3)), (3, round(first + second, 3))]


@pytest.mark.parametrize("number", range(30))
def test_the_backoff_has_jitter_within_its_bounds(world, recover, number):
    run_id = f"{number}:train:0"
    world.corrupt(run_id)
    world.service.fail(ValueError("no"), times=5)

    recover(run_id, max_attempts=5, backoff=8.0, max_backoff=20.0)
    world.fake.advance(1_000)

    plain = [8.0, 16.0, 20.0, 20.0]
    delays = [event.retry_in for event in world.events.of("failed")][:-1]
    assert all(p / 2 <= delay <= p for delay, p in zip(delays, plain, strict=True))


def test_a_backoff_waits_on_the_scheduler_and_holds_no_slot(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    pool = ManualExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)
    failing = FakeServiceClient()
    failing.fail(ConnectionResetError())
    executor.recover(RUN, failing, ENABLED)
    other = executor.recover(OTHER, world.service, ENABLED)

    pool.run_next()
    pool.run_next()

    assert other.result(0).run_id == OTHER
    assert world.fake.now() == 0.0
    assert len(world.fake.pending) == 1


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(7), [(1, 0.0), (2, 7.0), (3, 14.0)]),
        (tenacity.wait_none(), [(1, 0.0), (2, 0.0), (3, 0.0)]),
        (tenacity.wait_incrementing(start=1, increment=2), [(1, 0.0), (2, 1.0), (3, 4.0)]),
    ],
    ids=["fixed", "none", "incrementing"],
)
def test_a_tenacity_wait_strategy_is_used_as_it_is(world, recover, wait, expected):
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)

    recover(wait=wait)
    world.fake.advance(100)

    assert attempts(world) == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (tenacity.stop_after_attempt(2), [1, 2]),
        (tenacity.stop_after_delay(20), [1, 2, 3]),
        (tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(10), [1, 2]),
    ],
    ids=["attempts", "delay", "either"],
)
def test_a_tenacity_stop_strategy_ends_the_incident(world, recover, stop, expected):
    world.corrupt()
    world.service.fail(ValueError("no"), times=99)

    recover(stop=stop, wait=tenacity.wait_fixed(10))
    world.fake.advance(1_000)

    assert [number for number, _ in attempts(world)] == expected
    assert len(world.events.of("exhausted")) == 1


def test_a_strategy_that_raises_ends_the_incident_and_is_logged(world, recover, caplog):
    class Broken(tenacity.wait.wait_base):
        def __call__(self, retry_state):
            raise ZeroDivisionError

    world.corrupt()
    world.service.fail(ValueError("no"))

    with caplog.at_level(logging.ERROR):
        future = recover(wait=Broken())

    assert world.events.names[-1] == "exhausted"
    assert str(future.exception(0)) == "no"
    assert ZeroDivisionError in [r.exc_info[0] for r in caplog.records if r.exc_info]


def test_a_server_that_asks_for_patience_is_waited_for_and_uses_up_no_attempt(world, recover):
    world.corrupt()
    world.service.fail(ApiStatusError.of(503, retry_after=40.0), times=6)

    future = recover(max_attempts=1)
    world.fake.advance(39.9)
    assert len(world.events.of("started")) == 1
    world.fake.advance(1_000)

    assert future.result(0).client is world.service.clients[0]
    assert len(world.events.of("failed")) == 6


def test_a_request_that_the_server_will_never_take_is_not_repeated(world, recover):
    world.corrupt()
    world.service.fail(StatusError(418))

    future = recover()

    assert world.events.names == [*FAILED_ATTEMPT, "exhausted"]
    assert isinstance(future.exception(0), StatusError)


def test_callbacks_come_after_their_signals_and_before_the_future(world, recover):
    world.corrupt()
    log = []
    world.service.fail(ValueError("no"))
    with signals.subscribe(lambda _, event: log.append(event.name), "completed", "exhausted"):
        recover(max_attempts=1, on_failure=lambda *args: log.append(("on_failure", *args)))
        recover(on_recovery=lambda *args: log.append(("on_recovery", *args)))

    (client,) = world.service.clients
    (failed, *failure), (recovered, old, new, checkpoint) = log[1], log[3]
    assert (log[0], failed, failure[0], str(failure[1])) == ("exhausted", "on_failure", RUN, "no")
    assert (log[2], recovered, old, new) == ("completed", "on_recovery", None, client)
    assert checkpoint.tinker_path == weights("000100")


def test_callbacks_that_raise_do_not_reach_the_future(world, recover, caplog):
    def broken(*_):
        raise ZeroDivisionError

    world.corrupt()
    world.service.fail(ValueError("no"))

    with caplog.at_level(logging.ERROR):
        failed = recover(max_attempts=1, on_failure=broken)
        done = recover(on_recovery=broken)

    assert str(failed.exception(0)) == "no"
    assert done.result(0).successor_id
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError] * 2


def test_a_client_that_does_not_tell_its_run_is_a_failed_attempt(world, recover):
    world.corrupt()

    class Service:
        def create_training_client_from_state_with_optimizer(self, path):
            return object()

    future = recover(service=Service(), max_attempts=1)

    assert world.events.names == [*FAILED_ATTEMPT, "exhausted"]
    assert "model_id" in str(future.exception(0))


def test_an_error_with_the_key_in_it_is_shown_without(world, recover):
    world.corrupt()
    world.service.fail(RuntimeError("401 for X-API-Key tml-fake"))

    future = recover(max_attempts=1)

    for error in (future.exception(0), world.events.one("exhausted").error):
        assert "tml-fake" not in f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"
    assert "tml-fake" not in repr(world.events.events)


# Pools


class Broken(Executor):
    """A pool that takes nothing."""

    def __init__(self):
        self.submits = 0

    def submit(self, function, /, *args, **kwargs):
        self.submits += 1
        raise RuntimeError("cannot schedule new futures after shutdown")


def test_a_pool_that_takes_nothing_is_a_failed_attempt_and_is_asked_again(world, recover):
    world.corrupt()
    pool = Broken()

    future = recover(pool=pool)
    world.fake.advance(100)

    assert pool.submits == 3
    assert world.events.names == [*["started", "failed"] * 3, "exhausted"]
    assert "cannot schedule" in str(future.exception(0))


def test_an_attempt_that_its_pool_cancelled_is_made_again(world, recover):
    world.corrupt()
    pool = ManualExecutor()
    future = recover(pool=pool)

    pool.waiting.popleft()[0].cancel()
    world.fake.advance(10)
    pool.run_next()

    assert world.events.names == ["started", "failed", *ATTEMPT, "completed"]
    assert future.result(0).attempt == 2


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_there_are_never_more_attempts_under_way_than_slots(world, slots):
    pool = ManualExecutor()
    executor = RecoveryExecutor(
        pool, max_concurrent=slots, rest_module=world.rest, scheduler=world.fake
    )
    ids = [f"{number}:train:0" for number in range(7)]
    for run_id in ids:
        world.corrupt(run_id)
        executor.recover(run_id, world.service, ENABLED)

    most = 0
    while pool.waiting:
        most = max(most, len(pool.waiting))
        pool.run_next()

    assert most == slots
    assert [event.run_id for event in world.events.of("started")] == ids
    assert len(world.events.of("completed")) == 7


def test_a_pool_given_to_a_monitor_gets_as_many_attempts_as_it_has_workers(world):
    class Sized(ManualExecutor):
        _max_workers = 3

    pool = Sized()
    monitor = world.monitor(pool)
    for number in range(5):
        world.corrupt(f"{number}:train:0")
        monitor.monitor_run(f"{number}:train:0", world.service)

    world.fake.advance(10)

    assert len(pool.waiting) == 3


# Attempts that take too long


def test_an_attempt_that_outlasts_its_timeout_is_abandoned_and_made_again(world, recover):
    world.corrupt()
    service = SlowService(world.fake, 200)

    future = recover(service=service, attempt_timeout=100.0)

    failed = world.events.one("failed")
    assert isinstance(failed.error, AttemptTimeoutError)
    assert (failed.error.run_id, failed.error.timeout) == (RUN, 100.0)
    assert (failed.attempt, future.result(0).attempt) == (1, 2)
    assert future.result(0).client is service.clients[1]


def test_a_client_that_comes_late_is_an_orphan_recorded_and_never_trained(world, caplog):
    world.corrupt()
    service = SlowService(world.fake, 200)
    clients = []
    monitor = world.monitor(
        attempt_timeout=100.0, on_recovery=lambda old, new, _: clients.append(new)
    )
    run = monitor.monitor_run(RUN, service)

    with caplog.at_level(logging.WARNING):
        world.fake.advance(10)
        world.fake.advance(100)

    late, live = service.clients
    assert (run.client, clients) == (live, [live])
    assert [event.client for event in world.events.of("client_created")] == [live]
    assert run.lineage[0].orphans == (late.model_id,)
    assert run.lineage[1].orphans == ()
    (record,) = [r for r in caplog.records if f"made run {late.model_id} " in r.getMessage()]
    assert record.levelno == logging.WARNING


def test_an_attempt_that_ends_in_time_is_not_abandoned_later(world, recover):
    world.corrupt()
    service = SlowService(world.fake, 99)

    future = recover(service=service, attempt_timeout=100.0)
    world.fake.advance(1_000)

    assert world.events.names == [*ATTEMPT, "completed"]
    assert future.result(0).duration == 99.0
    assert world.fake.pending == ()


def test_an_abandoned_attempt_frees_its_slot_for_the_next_run(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    pool = ManualExecutor()
    executor = RecoveryExecutor(pool, rest_module=world.rest, scheduler=world.fake)
    policy = Policy(enabled=True, attempt_timeout=100.0, backoff=1_000, max_backoff=1_000)
    executor.recover(RUN, world.service, policy)
    other = executor.recover(OTHER, world.service, policy)
    pool.begin_next()
    assert not pool.waiting

    world.fake.advance(100)
    pool.run_next()

    # The one that hangs was begun first and is therefore what runs here.
    assert len(world.events.of("started")) == 2
    pool.finish_next()
    assert other.result(0).run_id == OTHER


@pytest.mark.parametrize("slots", [1, 2])
def test_at_most_as_many_abandoned_attempts_hang_as_there_are_slots(world, slots):
    pool = ManualExecutor()
    executor = RecoveryExecutor(
        pool, max_concurrent=slots, rest_module=world.rest, scheduler=world.fake
    )
    policy = Policy(enabled=True, attempt_timeout=100.0, max_attempts=1)
    for number in range(9):
        world.corrupt(f"{number}:train:0")
        executor.recover(f"{number}:train:0", world.service, policy)

    for _ in range(9):
        while pool.waiting:
            pool.begin_next()
        world.fake.advance(100)
    assert len(pool.running) == 2 * slots

    pool.finish_next()

    assert len(pool.waiting) == 1


def test_an_abandoned_attempt_that_was_never_begun_is_taken_back(world, recover):
    world.corrupt()
    pool = ManualExecutor()
    recover(pool=pool, attempt_timeout=100.0)

    world.fake.advance(110)

    first, second = pool.waiting
    assert first[0].cancelled()
    assert not second[0].done()


# Shared with a monitor


def test_a_monitor_joins_a_recovery_that_was_asked_for_directly(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    run = world.monitor(executor, poll_interval=1.0).monitor_run(RUN, world.service, client="first")
    future = executor.recover(RUN, world.service, ENABLED)

    world.fake.advance(1)
    assert run.state in ("recovering", "waiting")
    world.fake.advance(10)

    assert len(world.service.created) == 1
    assert run.client is future.result(0).client
    assert world.events.names.count("completed") == 1
    sender = world.events.senders[world.events.events.index(world.events.one("completed"))]
    assert sender is executor


def test_stopping_the_run_of_a_monitor_that_joined_leaves_the_direct_recovery_alone(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    run = world.monitor(executor, poll_interval=1.0).monitor_run(RUN, world.service)
    future = executor.recover(RUN, world.service, ENABLED)
    world.fake.advance(1)

    run.stop()
    world.fake.advance(10)

    assert future.result(0).run_id == RUN
    assert (run.run_id, run.state) == (RUN, "stopped")


def test_a_direct_recovery_is_refused_while_a_monitor_recovers_the_run(world):
    world.corrupt()
    executor = RecoveryExecutor(ManualExecutor(), rest_module=world.rest, scheduler=world.fake)
    world.monitor(executor).monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(AlreadyPendingError):
        executor.recover(RUN, world.service, ENABLED)
