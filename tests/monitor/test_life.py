"""A monitor's parts and its life: making, starting and stopping one."""

from __future__ import annotations

import inspect
import logging
from concurrent.futures import Executor

import pytest
from support.lives import Meanwhile, polls_of
from support.recorder import Recorder
from support.world import ATTEMPT, OTHER, RECOVERY, RUN, ManualExecutor, weights

from tinkex import Config, Monitor, Policy, signals
from tinkex.errors import (
    MonitorStoppedError,
    PolicyError,
)
from tinkex.testing import FakeScheduler, FakeServiceClient, InlineExecutor

pytestmark = pytest.mark.usefixtures("no_environment")


# What it is made of


def test_the_options_have_the_names_of_the_contract():
    parameters = inspect.signature(Monitor).parameters

    assert list(parameters) == [
        "policy",
        "config",
        "rest_module",
        "rest_client_fun",
        "service_client_module",
        "executor",
        "scheduler",
        "poll_workers",
        "journal",
    ]
    assert {p.default for p in parameters.values()} == {None}


def test_making_a_monitor_does_nothing_yet(world):
    world.monitor()

    assert world.rest.calls == []
    assert world.fake.pending == ()


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("policy", "enabled", PolicyError),
        ("policy", {"enable": True}, PolicyError),
        ("config", "tml-key", TypeError),
        ("config", {"api_key": "tml-key"}, TypeError),
        ("rest_client_fun", "a function", TypeError),
        ("scheduler", 30.0, TypeError),
        ("rest_module", object(), TypeError),
        ("service_client_module", object(), TypeError),
        ("executor", object(), TypeError),
        ("executor", 4, TypeError),
        ("poll_workers", -1, ValueError),
        ("poll_workers", True, TypeError),
        ("poll_workers", "8", TypeError),
        ("poll_workers", 1.5, TypeError),
    ],
)
def test_a_part_that_does_not_fit_is_refused_by_name(option, value, error):
    with pytest.raises(error, match="pool" if option == "executor" else option):
        Monitor(**{option: value})


def test_the_message_about_a_config_does_not_show_what_was_given():
    with pytest.raises(TypeError) as caught:
        Monitor(config="tml-0123456789")

    assert "tml-0123456789" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "config", "enabled"),
    [
        (None, None, False),
        (None, Config("tml-key", recovery=Policy(enabled=True)), True),
        (Policy(enabled=True), None, True),
        ({"enabled": True, "poll_interval_ms": 500}, None, True),
        (Policy(), Config("tml-key", recovery=Policy(enabled=True)), False),
    ],
    ids=["none", "of the config", "ours", "a mapping", "given goes before the config's"],
)
def test_the_policy_comes_from_the_argument_else_the_config_else_is_disabled(
    policy, config, enabled
):
    assert Monitor(policy, config=config).policy.enabled is enabled


def test_nothing_of_the_fakes_is_special_to_a_monitor():
    """The same with the caller's own scheduler, module, executor and service client."""
    due, events = [], Recorder()

    class Timer:
        def __init__(self, interval, function):
            self.due = (interval, function)

        def start(self):
            due.append(self.due)

        def cancel(self):
            if self.due in due:
                due.remove(self.due)

    class Own(Executor):
        def submit(self, function, /, *args, **kwargs):
            return InlineExecutor().submit(function, *args, **kwargs)

    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            return {
                "training_run_id": run_id,
                "corrupted": run_id == RUN,
                "last_checkpoint": {"tinker_path": weights("000100")},
                "field_of_tomorrow": 1,
            }

    class Client:
        model_id = "9999:train:0"

    class Service:
        def create_training_client_from_state_with_optimizer(self, path):
            return Client()

    monitor = Monitor(
        Policy(enabled=True), rest_module=Rest, executor=Own(), scheduler=Timer
    ).start()
    run = monitor.monitor_run(RUN, Service())
    with signals.subscribe(events, sender=monitor):
        (_, fire) = next(each for each in due if each[0] == 30.0)
        fire()
    monitor.stop()

    assert events.names == RECOVERY
    assert run.run_id == "9999:train:0"


# Its life


def test_start_returns_the_monitor_and_a_second_one_changes_nothing(world):
    monitor = world.monitor(start=False)
    monitor.monitor_run(RUN, world.service)

    assert monitor.start() is monitor
    assert monitor.start() is monitor
    assert world.fake.pending == (10.0,)


def test_a_monitor_that_was_not_started_does_not_poll(world):
    world.monitor(start=False).monitor_run(RUN, world.service)

    world.fake.advance(100)

    assert world.rest.calls == []


def test_runs_given_before_the_start_are_polled_after_it(world):
    world.corrupt()
    monitor = world.monitor(start=False)
    monitor.monitor_run(RUN, world.service)

    monitor.start()
    world.fake.advance(10)

    assert world.events.names == RECOVERY


def test_a_with_block_starts_and_stops(world):
    monitor = world.monitor(start=False)

    with monitor as entered:
        run = entered.monitor_run(RUN, world.service)
        world.rest.set_run(RUN)
        world.fake.advance(10)

    assert entered is monitor
    assert polls_of(world, RUN) == 1
    assert run.state == "stopped"


def test_nothing_is_left_pending_and_nothing_is_polled_after_stop(world):
    world.rest.set_run(RUN)
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)

    monitor.stop()
    monitor.stop()
    world.fake.advance(100)

    assert world.fake.pending == ()
    assert polls_of(world, RUN) == 1
    assert run.state == "stopped"


@pytest.mark.parametrize(
    "ask",
    [
        lambda monitor, run: monitor.start(),
        lambda monitor, run: monitor.monitor_run(OTHER, FakeServiceClient()),
        lambda monitor, run: monitor.poll_now(),
        lambda monitor, run: run.recover(),
        lambda monitor, run: run.wait(1.0),
    ],
    ids=["start", "monitor_run", "poll_now", "recover", "wait"],
)
def test_what_is_asked_of_a_stopped_monitor_is_an_error(world, ask):
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    monitor.stop()

    with pytest.raises(MonitorStoppedError):
        ask(monitor, run)


def test_what_may_always_be_asked_of_a_stopped_monitor(world):
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service, {"team": "a"})
    monitor.stop()

    monitor.stop_monitoring(RUN)
    run.stop()

    assert "stopped" in repr(monitor)
    assert run.status().metadata == {"team": "a"}


def test_what_was_handed_in_is_left_open(world):
    pool = InlineExecutor()
    monitor = world.monitor(pool)

    monitor.stop()

    assert pool.submit(abs, -1).result() == 1
    fired = []
    world.fake(1.0, lambda: fired.append(1)).start()
    world.fake.advance(1)
    assert fired == [1]


@pytest.mark.parametrize("timeout", [-1, "5", None, float("nan")])
def test_a_stop_with_a_bad_timeout_stops_nothing(world, timeout):
    monitor = world.monitor()

    with pytest.raises(ValueError, match="timeout"):
        monitor.stop(timeout)
    monitor.monitor_run(RUN, world.service)


def test_stop_may_be_called_from_a_receiver_and_nothing_is_published_after_it(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    monitor = world.monitor()
    runs = [monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER)]

    with signals.subscribe(lambda *_, **__: monitor.stop(), "client_created"):
        world.fake.advance(10)

    # Receivers have no order: the one that keeps the events may come after the one that stops.
    assert world.events.names in (["detected", *ATTEMPT], ["detected", *ATTEMPT[:-1]])
    assert [run.state for run in runs] == ["stopped", "stopped"]
    assert world.fake.pending == ()


def test_stop_during_a_backoff_ends_the_incident_at_once(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    assert run.state == "waiting"

    monitor.stop()

    assert world.fake.now() == 10.0
    assert world.fake.pending == ()
    assert world.service.created == []


def test_an_attempt_under_way_may_end_within_the_timeout_of_stop(world):
    world.corrupt()
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    pool.begin_next()
    world.fake(3.0, pool.finish_next).start()

    monitor.stop(timeout=5.0)

    assert world.events.names == RECOVERY
    assert world.fake.now() == 13.0
    assert run.run_id == world.service.clients[0].model_id


def test_what_an_attempt_brings_after_stop_is_an_orphan(world, caplog):
    world.corrupt()
    service = Meanwhile()
    monitor = world.monitor()
    service.during = lambda: monitor.stop(timeout=0)

    with caplog.at_level(logging.WARNING):
        future = monitor.monitor_run(RUN, service).recover()

    assert isinstance(future.exception(0), MonitorStoppedError)
    assert world.events.names == ["started", "checkpoint_selected"]
    (orphan,) = service.clients
    (record,) = [r for r in caplog.records if f"made run {orphan.model_id} " in r.getMessage()]
    assert record.levelno == logging.WARNING


def test_a_scheduler_whose_wait_fails_does_not_keep_a_monitor_from_stopping(world, caplog):
    class Broken(FakeScheduler):
        def wait(self, predicate, timeout):
            raise ZeroDivisionError

    monitor = world.monitor(options={"scheduler": Broken()})
    run = monitor.monitor_run(RUN, world.service)

    with caplog.at_level(logging.ERROR):
        monitor.stop()

    assert run.state == "stopped"
    assert ZeroDivisionError in [r.exc_info[0] for r in caplog.records if r.exc_info]
