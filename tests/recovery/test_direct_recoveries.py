"""Recoveries asked of an executor directly: what it takes and gives, and its own end."""

from __future__ import annotations

import inspect
from concurrent.futures import Future

import pytest
from support.world import ATTEMPT, RUN, ManualExecutor, StatusError, weights

from tinkex import Config, Policy, RecoveryExecutor, signals
from tinkex.errors import (
    AlreadyPendingError,
    ConfigError,
    MonitorStoppedError,
    PolicyError,
    RecoveryDisabledError,
)
from tinkex.testing import FakeRest, FakeServiceClient, InlineExecutor
from tinkex.types import Checkpoint, TrainingRun

ENABLED = Policy(enabled=True)

pytestmark = pytest.mark.usefixtures("no_environment")


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
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else given.__name__,
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
