"""The monitor: registration, polling, what it says, and what becomes of a run."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
from concurrent.futures import Executor
from datetime import timedelta

import pytest
from conftest import OTHER, RUN, ManualExecutor, Recorder, World, weights

from tinkex import Config, Monitor, Policy, RecoveryExecutor, signals
from tinkex.errors import (
    AlreadyPendingError,
    ApiResponseError,
    ApiStatusError,
    ApiTimeoutError,
    ConfigError,
    IncidentBudgetError,
    MonitorStoppedError,
    PolicyError,
    RecoveryDisabledError,
    RecoveryExhaustedError,
)
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

ATTEMPT = ["started", "checkpoint_selected", "client_created"]
RECOVERY = ["detected", *ATTEMPT, "completed"]
GET = "get_training_run"

pytestmark = pytest.mark.usefixtures("no_environment")


def polls_of(world, run_id):
    return world.rest.calls.count((GET, run_id))


class WatchedRest(FakeRest):
    """A fake that notes when each poll came, and may do something during one."""

    def __init__(self, fake):
        super().__init__()
        self.fake = fake
        self.times = []
        self.during = lambda run_id: None

    def get_training_run(self, config, run_id):
        self.times.append(self.fake.now())
        self.during(run_id)
        return super().get_training_run(config, run_id)


class Meanwhile(FakeServiceClient):
    """A fake that does something while a client is being made."""

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self.during()
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


@pytest.fixture
def watched(world):
    world.rest = WatchedRest(world.fake)
    return world


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
    """The same with a person's own scheduler, module, executor and service client."""
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


# Registration


@pytest.mark.parametrize("run_id", [None, 3, b"3f0c:train:0"], ids=repr)
def test_a_run_id_that_is_no_text_is_refused(world, run_id):
    with pytest.raises(TypeError, match="run id"):
        world.monitor().monitor_run(run_id, world.service)


@pytest.mark.parametrize("run_id", ["", "a/b", "..", ".", "a\\b", "a\nb", "a\x00b"], ids=repr)
def test_a_run_id_that_could_reach_another_path_is_refused(world, run_id):
    with pytest.raises(ValueError, match="run id"):
        world.monitor().monitor_run(run_id, world.service)


@pytest.mark.parametrize("service", [None, "a service", 3, object()], ids=repr)
def test_a_service_client_that_can_make_nothing_is_refused(world, service):
    monitor = world.monitor()

    with pytest.raises(TypeError, match="service client"):
        monitor.monitor_run(RUN, service)
    assert monitor.status() == ()


@pytest.mark.parametrize("metadata", ["team", 3, ["team"]])
def test_metadata_that_is_no_mapping_is_refused(world, metadata):
    with pytest.raises(TypeError, match="metadata"):
        world.monitor().monitor_run(RUN, world.service, metadata)


def test_a_disabled_policy_is_refused_with_what_to_do(world):
    monitor = world.monitor(enabled=False)

    with pytest.raises(RecoveryDisabledError, match="enabled=True"):
        monitor.monitor_run(RUN, world.service)


def test_monitor_run_raises_whatever_the_rest_client_fun_raised(world):
    def broken(service):
        raise LookupError("no config for this service")

    monitor = world.monitor(options={"rest_client_fun": broken})

    with pytest.raises(LookupError, match="no config"):
        monitor.monitor_run(RUN, world.service)
    assert monitor.status() == ()


def test_the_config_of_the_rest_client_fun_is_what_is_polled_with(world):
    config = Config("tml-of-the-fun", "https://fun.example")
    asked, used = [], []

    class Rest:
        @staticmethod
        def get_training_run(given, run_id):
            used.append(given)
            return {"training_run_id": run_id}

    def rest_client_fun(service):
        asked.append(service)
        return type("Client", (), {"config": config})

    monitor = world.monitor(options={"rest_module": Rest, "rest_client_fun": rest_client_fun})
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)

    assert asked == [world.service]
    assert used == [config]


def test_each_run_is_polled_with_the_key_of_its_own_service_client(world):
    used = {}

    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            used[run_id] = (config.api_key, config.base_url)
            return {"training_run_id": run_id}

    monitor = world.monitor(
        options={"rest_module": Rest, "config": Config("tml-fallback", "https://other.example")}
    )
    monitor.monitor_run(RUN, world.service)
    monitor.monitor_run(OTHER, lambda: world.service)
    world.fake.advance(10)

    assert used == {
        RUN: ("tml-fake", "https://tinker.invalid"),
        OTHER: ("tml-fallback", "https://other.example"),
    }


def test_without_any_key_the_own_rest_module_is_a_config_error_at_the_door():
    monitor = Monitor(Policy(enabled=True), scheduler=FakeScheduler(), executor=InlineExecutor())

    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        monitor.monitor_run(RUN, FakeServiceClient)


def test_a_persons_own_rest_module_may_need_no_key(world):
    world.rest.set_run(RUN)
    monitor = world.monitor()

    run = monitor.monitor_run(RUN, lambda: world.service)
    world.fake.advance(10)

    assert run.state == "healthy"
    assert polls_of(world, RUN) == 1


def test_registration_and_status_do_no_io(world):
    monitor = world.monitor()

    monitor.monitor_run(RUN, world.service)
    monitor.status()
    monitor.stop_monitoring(RUN)

    assert world.rest.calls == []
    assert world.service.created == []


def test_a_second_registration_is_the_same_handle_with_new_metadata_and_service(world):
    world.corrupt()
    monitor, other_service = world.monitor(), FakeServiceClient()
    run = monitor.monitor_run(RUN, world.service, {"team": "a"})

    again = monitor.monitor_run(RUN, other_service, {"team": "b"})
    world.fake.advance(10)

    assert again is run
    assert len(monitor.status()) == 1
    assert {event.metadata["team"] for event in world.events.events if event.run_id} == {"b"}
    assert world.service.created == []
    assert len(other_service.created) == 1


def test_metadata_is_a_copy_that_nobody_can_change(world):
    given = {"team": "a"}
    run = world.monitor().monitor_run(RUN, world.service, given)

    given["team"] = "b"

    assert run.status().metadata == {"team": "a"}
    with pytest.raises(TypeError):
        run.status().metadata["team"] = "c"


def test_training_client_in_the_metadata_is_read_as_the_client(world):
    client = world.service.create_training_client_from_state(weights("1"))

    run = world.monitor().monitor_run(
        client.model_id, world.service, {"training_client": client, "team": "a"}
    )

    assert run.client is client
    assert run.status().metadata == {"team": "a"}


def test_the_argument_goes_before_the_training_client_in_the_metadata(world):
    run = world.monitor().monitor_run(
        RUN, world.service, {"training_client": "in the metadata"}, client="the argument"
    )

    assert run.client == "the argument"


# Polling


def test_the_first_sweep_comes_an_interval_after_the_first_run_and_so_on(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    watched.fake.advance(3)
    monitor.monitor_run(RUN, watched.service)

    watched.fake.advance(30)

    assert watched.rest.times == [13.0, 23.0, 33.0]


def test_a_run_given_later_joins_the_next_sweep(watched):
    watched.rest.set_run(RUN)
    watched.rest.set_run(OTHER)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    watched.fake.advance(5)

    monitor.monitor_run(OTHER, watched.service)
    watched.fake.advance(5)

    assert sorted(watched.rest.calls) == [(GET, RUN), (GET, OTHER)]
    assert watched.rest.times == [10.0, 10.0]


def test_the_next_sweep_comes_an_interval_after_the_end_of_the_one_before(watched):
    watched.rest.set_run(RUN)
    watched.rest.during = lambda run_id: watched.fake.advance(3)
    watched.monitor().monitor_run(RUN, watched.service)

    watched.fake.advance(40)

    assert watched.rest.times == [10.0, 23.0, 36.0]


def test_sweeps_never_overlap(watched):
    watched.rest.set_run(RUN)
    watched.rest.set_run(OTHER)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    monitor.monitor_run(OTHER, watched.service)
    watched.rest.during = lambda run_id: (monitor.poll_now(), watched.fake.advance(15))

    watched.fake.advance(10)

    assert sorted(watched.rest.calls) == [(GET, RUN), (GET, OTHER)]
    assert len(watched.events.of("swept")) == 1


def test_a_run_given_during_a_sweep_joins_the_next_and_arms_no_second_timer(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    watched.rest.during = lambda run_id: monitor.monitor_run(OTHER, watched.service)

    watched.fake.advance(10)

    assert watched.rest.calls == [(GET, RUN)]
    assert watched.fake.pending == (20.0,)


def test_poll_now_sweeps_at_once_and_the_next_sweep_comes_an_interval_later(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    watched.fake.advance(4)

    monitor.poll_now()

    assert watched.rest.times == [4.0]
    assert watched.fake.pending == (14.0,)


def test_a_monitor_without_runs_arms_no_timer(world):
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)
    monitor.stop_monitoring(RUN)

    world.fake.advance(10)

    assert world.fake.pending == ()
    assert world.rest.calls == []


def test_a_run_given_after_the_last_one_was_stopped_is_polled_again(watched):
    watched.rest.set_run(RUN)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    monitor.stop_monitoring(RUN)
    watched.fake.advance(25)

    monitor.monitor_run(RUN, watched.service)
    watched.fake.advance(10)

    assert watched.rest.times == [35.0]


def test_swept_tells_what_the_sweep_came_to(watched):
    for run_id in (RUN, OTHER):
        watched.rest.set_run(run_id)
    watched.rest.fail(ApiTimeoutError("slow"))
    watched.rest.during = lambda run_id: watched.fake.advance(1.5)
    monitor = watched.monitor()
    monitor.monitor_run(RUN, watched.service)
    monitor.monitor_run(OTHER, watched.service)

    watched.fake.advance(10)

    swept = watched.events.one("swept")
    assert (swept.runs, swept.requests, swept.errors) == (2, 2, 1)
    assert swept.duration == 3.0
    assert swept.run_id is None


def test_a_healthy_run_is_told_of_by_nothing_but_its_status(world):
    path = weights("000100")
    world.rest.set_run(RUN, last_checkpoint=path)
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    before = run.status()

    world.fake.advance(10)

    assert world.events.names == []
    assert before.last_poll is None
    assert run.status().last_poll is not None
    assert run.status().last_checkpoint.tinker_path == path


# Polls that fail


def times_of(world, name, seconds, step=1.0):
    """At which seconds events of a name come, within so many seconds."""
    times = []
    began = world.fake.now()
    with signals.subscribe(lambda *_, **__: times.append(world.fake.now()), name):
        while world.fake.now() < began + seconds:
            world.fake.advance(step)
    return times


def test_poll_error_comes_when_a_run_begins_to_fail_then_at_most_once_a_minute(world):
    world.rest.set_run(RUN)
    world.rest.fail(ApiTimeoutError("slow"), times=19)
    run = world.monitor().monitor_run(RUN, world.service)

    times = times_of(world, "poll_error", 190)

    assert times == [10.0, 70.0, 130.0, 190.0]
    assert isinstance(world.events.of("poll_error")[0].error, ApiTimeoutError)
    assert run.state == "failing"


def test_poll_error_comes_at_once_again_after_a_success(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)
    world.rest.fail(ApiTimeoutError("slow"))
    world.fake.advance(10)
    world.fake.advance(10)
    assert (run.state, run.status().last_error) == ("healthy", None)

    world.rest.fail(ApiTimeoutError("slow again"))
    world.fake.advance(10)

    assert [str(event.error) for event in world.events.of("poll_error")] == ["slow", "slow again"]
    assert str(run.status().last_error) == "slow again"


def test_poll_error_is_published_for_each_run_that_fails(world):
    monitor = world.monitor()
    for run_id in (RUN, OTHER):
        monitor.monitor_run(run_id, world.service)
    world.rest.fail(ApiTimeoutError("slow"), times=6)

    world.fake.advance(30)

    assert sorted(event.run_id for event in world.events.of("poll_error")) == [RUN, OTHER]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "corrupted",
        [],
        {},
        {"training_run_id": RUN, "corrupted": "true"},
        {"training_run_id": RUN, "last_checkpoint": "a string"},
        {"training_run_id": RUN, "last_checkpoint": ["a", "list"]},
        {"training_run_id": 7},
        {"training_run_id": OTHER, "corrupted": True},
    ],
    ids=repr,
)
def test_an_answer_that_does_not_fit_is_a_poll_error_of_that_run_alone(world, answer):
    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            return answer if run_id == RUN else {"training_run_id": run_id}

    monitor = world.monitor(options={"rest_module": Rest})
    run, other = (monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER))

    world.fake.advance(10)

    assert world.events.names == ["poll_error"]
    assert world.events.one("poll_error").run_id == RUN
    assert isinstance(world.events.one("poll_error").error, ApiResponseError)
    assert (run.state, other.state) == ("failing", "healthy")


@pytest.mark.parametrize("error", [ApiTimeoutError("slow"), ValueError("a bug"), KeyError("x")])
def test_a_run_whose_polls_fail_stays_monitored_and_is_recovered_when_seen_again(world, error):
    world.corrupt()
    world.rest.fail(error, times=5)
    world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(60)

    assert world.events.names == ["poll_error", *RECOVERY]


def test_a_poll_error_does_not_show_the_key(world):
    world.rest.fail(ValueError("bad header X-API-Key: tml-fake"))
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10)

    event = world.events.one("poll_error")
    assert "tml-fake" not in repr(event)
    assert "tml-fake" not in str(run.status().last_error)
    assert event.error.__cause__ is None
    assert event.error.__context__ is None


def test_a_run_that_cannot_be_found_is_missing_is_told_once_and_polled_slowly(watched):
    run = watched.monitor().monitor_run(RUN, watched.service)

    watched.fake.advance(400)

    assert run.state == "missing"
    event = watched.events.one("missing")
    assert event.run_id == RUN
    assert event.error.status == 404
    assert watched.rest.times == [10.0, 20.0, 30.0, 130.0, 230.0, 330.0]


def test_a_missing_run_that_is_seen_again_is_healthy_and_polled_as_before(watched):
    run = watched.monitor().monitor_run(RUN, watched.service)
    watched.fake.advance(35)
    assert run.state == "missing"

    watched.rest.set_run(RUN)
    watched.fake.advance(115)

    assert run.state == "healthy"
    assert watched.rest.times[-3:] == [130.0, 140.0, 150.0]


def test_a_missing_run_that_turns_out_corrupted_is_recovered(watched):
    watched.monitor().monitor_run(RUN, watched.service)
    watched.fake.advance(35)

    watched.corrupt()
    watched.fake.advance(100)

    assert watched.events.names[-5:] == RECOVERY


# From detection to a successor


def test_a_corrupted_run_is_detected_and_recovered_in_the_order_of_the_contract(world):
    path = world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service, {"team": "a"})

    world.fake.advance(10)

    assert world.events.names == RECOVERY
    assert {event.run_id for event in world.events.events if event.name != "swept"} == {RUN}
    assert world.service.created == [(path, True)]
    (client,) = world.service.clients
    completed = world.events.one("completed")
    assert completed.client is run.client is client
    assert completed.successor_id == run.run_id == client.model_id
    assert completed.checkpoint.tinker_path == path
    assert (completed.attempt, completed.duration) == (1, 0.0)
    assert completed.metadata == {"team": "a"}
    assert (run.root_id, run.state, run.status().recoveries) == (RUN, "healthy", 1)


def test_the_sender_of_all_events_is_the_monitor(world):
    world.corrupt()
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)

    world.fake.advance(10)

    assert {id(sender) for sender in world.events.senders} == {id(monitor)}


def test_the_handle_shows_the_new_client_before_completed_and_that_before_on_recovery(world):
    world.corrupt()
    log = []

    def on_recovery(old, new, checkpoint):
        log.append(("on_recovery", old, new, checkpoint.tinker_path, run.client is new))

    run = world.monitor(on_recovery=on_recovery).monitor_run(RUN, world.service, client="before")
    with signals.subscribe(
        lambda _, event: log.append((event.name, run.client is event.client, run.run_id)),
        "completed",
    ):
        world.fake.advance(10)

    (client,) = world.service.clients
    assert log == [
        ("completed", True, client.model_id),
        ("on_recovery", "before", client, weights("000100"), True),
    ]


def test_the_old_client_of_on_recovery_is_that_of_the_generation_before(world):
    world.corrupt()
    pairs = []
    monitor = world.monitor(on_recovery=lambda old, new, _: pairs.append((old, new)))
    run = monitor.monitor_run(RUN, world.service, client="first")
    world.fake.advance(10)

    world.corrupt(run.run_id)
    world.fake.advance(10)

    second, third = world.service.clients
    assert pairs == [("first", second), (second, third)]


@pytest.mark.parametrize("failing", [True, False], ids=["on_failure", "on_recovery"])
def test_a_callback_that_raises_is_logged_and_changes_nothing(world, caplog, failing):
    def callback(*_):
        raise RuntimeError("the callback's own fault")

    name = "on_failure" if failing else "on_recovery"
    world.corrupt()
    if failing:
        world.service.fail(ValueError("no"), times=3)
    monitor = world.monitor(**{name: callback})
    run = monitor.monitor_run(RUN, world.service)
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    other = monitor.monitor_run(OTHER, FakeServiceClient())

    with caplog.at_level(logging.ERROR):
        world.fake.advance(60)

    assert (run.state, other.state) == ("exhausted" if failing else "healthy", "healthy")
    assert any(record.exc_info for record in caplog.records)


def test_the_successor_is_polled_from_then_on_and_the_old_run_never_again(world):
    world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(50)

    assert polls_of(world, RUN) == 1
    assert polls_of(world, run.run_id) == 4


def test_a_successor_that_is_corrupted_in_its_turn_is_recovered(world):
    world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)
    second = run.run_id

    world.corrupt(second, "000200")
    world.fake.advance(10)

    assert world.events.names == [*RECOVERY, *RECOVERY]
    assert [event.run_id for event in world.events.of("completed")] == [RUN, second]
    assert world.service.created[1] == (weights("000200", second), True)
    assert (run.root_id, run.status().generation) == (RUN, 2)


def test_a_lineage_tells_each_generation_and_how_it_ended(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)
    (only,) = run.lineage
    world.fake.advance(30)

    first, live = run.lineage
    assert (only.run_id, only.checkpoint, only.ended_at) == (RUN, None, None)
    assert (first.run_id, first.attempts, first.orphans) == (RUN, 2, ())
    assert first.cause
    assert first.started_at == only.started_at
    assert first.ended_at == live.started_at > first.started_at
    assert (live.run_id, live.checkpoint) == (run.run_id, weights("000100"))
    assert (live.ended_at, live.cause, live.attempts) == (None, None, 0)


def two_generations(world, **policy):
    world.corrupt()
    monitor = world.monitor(**policy)
    run = monitor.monitor_run(RUN, world.service, {"team": "a"}, client="first")
    world.fake.advance(10)
    return monitor, run


@pytest.mark.parametrize("generation", [0, 1], ids=["the first id", "the live id"])
def test_any_id_of_a_lineage_means_the_run(world, generation):
    monitor, run = two_generations(world)
    run_id = run.lineage[generation].run_id

    assert monitor.monitor_run(run_id, world.service) is run
    assert monitor.status(run_id) == run.status()
    assert len(monitor.status()) == 1
    monitor.stop_monitoring(run_id)

    assert run.state == "stopped"
    assert monitor.status() == ()


def test_a_client_that_is_not_of_the_live_generation_is_ignored(world):
    monitor, run = two_generations(world)
    live, old = run.client, type("Client", (), {"model_id": RUN})()

    monitor.monitor_run(RUN, world.service, client=old)

    assert run.client is live


@pytest.mark.parametrize("generation", [0, 1], ids=["by the first id", "by the live id"])
def test_a_client_of_the_live_generation_is_taken(world, generation):
    monitor, run = two_generations(world)
    new = type("Client", (), {"model_id": run.run_id})()

    monitor.monitor_run(run.lineage[generation].run_id, world.service, client=new)

    assert run.client is new


def test_metadata_given_for_an_old_id_is_carried_from_then_on(world):
    monitor, run = two_generations(world)

    monitor.monitor_run(RUN, world.service, {"team": "b"})

    assert run.status().metadata == {"team": "b"}


def test_the_runs_metadata_and_the_lineage_travel_to_the_successor(world):
    world.corrupt(user_metadata={"team": "a"})
    world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10)

    (metadata,) = world.service.metadata
    assert metadata["team"] == "a"
    assert all(isinstance(value, str) for value in metadata.values())
    assert RUN in metadata.values()
    assert weights("000100") in metadata.values()


# One incident per run


def test_sweeps_that_see_a_run_again_while_it_is_recovered_start_no_second_incident(world):
    world.corrupt()
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    monitor.monitor_run(RUN, world.service)

    world.fake.advance(50)
    monitor.poll_now()
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(50)

    assert world.events.names == ["detected", "started"]
    assert len(pool.waiting) == 1


def test_two_polls_that_see_the_same_corruption_start_one_incident(watched):
    """The second poll is answered while the answer to the first is still on its way."""
    watched.corrupt()
    monitor = watched.monitor()
    run = monitor.monitor_run(RUN, watched.service)
    outcomes = []

    def during(run_id):
        watched.rest.during = lambda run_id: None
        outcomes.append(run.recover())

    watched.rest.during = during
    watched.fake.advance(10)

    assert [future.done() for future in outcomes] == [True]
    assert watched.events.names == [*ATTEMPT, "completed"]
    assert len(watched.service.created) == 1


def test_a_poll_answered_for_a_generation_before_says_nothing_of_the_live_one(watched):
    watched.rest.set_run(RUN, last_checkpoint=weights("000100"))
    monitor = watched.monitor()
    run = monitor.monitor_run(RUN, watched.service)

    def during(run_id):
        watched.rest.during = lambda run_id: None
        run.recover().result(0)
        watched.rest.fail(ApiTimeoutError("of the run before"))

    watched.rest.during = during
    watched.fake.advance(10)

    assert run.status().generation == 1
    assert run.state == "healthy"
    assert "poll_error" not in watched.events.names


def test_recovering_a_run_by_hand_while_it_is_recovered_is_an_error(world):
    world.corrupt()
    run = world.monitor(ManualExecutor()).monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(AlreadyPendingError) as caught:
        run.recover()

    assert caught.value.run_id == RUN
    assert world.events.names == ["detected", "started"]


def test_a_healthy_run_may_be_recovered_by_hand(world):
    world.rest.set_run(RUN, last_checkpoint=weights("000100"))
    run = world.monitor().monitor_run(RUN, world.service)

    event = run.recover().result(0)

    assert event is world.events.one("completed")
    assert world.events.names == [*ATTEMPT, "completed"]
    assert run.run_id == event.successor_id


# Stopping a run


def test_stop_monitoring_is_idempotent_and_takes_ids_handles_and_what_is_unknown(world):
    monitor = world.monitor()
    run, other = (monitor.monitor_run(run_id, world.service) for run_id in (RUN, OTHER))

    monitor.stop_monitoring("unknown:train:0")
    monitor.stop_monitoring(RUN)
    monitor.stop_monitoring(RUN)
    monitor.stop_monitoring(other)
    other.stop()

    assert [run.state, other.state] == ["stopped", "stopped"]
    assert monitor.status() == ()


def test_a_stopped_run_is_polled_no_more_and_the_others_are(world):
    monitor = world.monitor()
    for run_id in (RUN, OTHER):
        world.rest.set_run(run_id)
        monitor.monitor_run(run_id, world.service)

    monitor.stop_monitoring(RUN)
    world.fake.advance(20)

    assert (polls_of(world, RUN), polls_of(world, OTHER)) == (0, 2)


def test_what_an_attempt_brings_after_stop_monitoring_is_not_adopted(world, caplog):
    world.corrupt()
    service, calls = Meanwhile(), []
    monitor = world.monitor(on_recovery=lambda *_: calls.append("on_recovery"))
    run = monitor.monitor_run(RUN, service, client="mine")
    service.during = lambda: monitor.stop_monitoring(RUN)

    with caplog.at_level(logging.WARNING):
        world.fake.advance(100)

    assert (run.run_id, run.client, run.state) == (RUN, "mine", "stopped")
    assert world.events.names == ["detected", "started", "checkpoint_selected"]
    assert calls == []
    (orphan,) = service.clients
    assert any(f"made run {orphan.model_id} " in r.getMessage() for r in caplog.records)
    assert monitor.status() == ()


def test_an_attempt_that_was_stopped_before_its_client_was_made_makes_none(world):
    world.corrupt()
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    pool.begin_next()

    monitor.stop_monitoring(RUN)
    pool.finish_next()

    assert world.service.created == []
    assert world.events.names == ["detected", "started"]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("detected", ["detected"]),
        ("started", ["detected", "started"]),
        ("checkpoint_selected", ["detected", "started", "checkpoint_selected"]),
    ],
)
def test_a_run_that_a_receiver_stops_is_not_recovered(world, name, names):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)

    with signals.subscribe(lambda _, event: monitor.stop_monitoring(event.run_id), name):
        world.fake.advance(100)

    assert world.events.names == names
    assert world.service.created == []
    assert run.state == "stopped"


def test_stopping_a_run_that_waits_frees_the_slot_for_the_next(world):
    world.corrupt()
    world.rest.set_run(OTHER, corrupted=True, last_checkpoint=weights("1", OTHER))
    pool = ManualExecutor()
    monitor = world.monitor(pool)
    monitor.monitor_run(RUN, world.service)
    other = monitor.monitor_run(OTHER, world.service)
    world.fake.advance(10)
    assert len(pool.waiting) == 1

    monitor.stop_monitoring(RUN)
    while pool.waiting:
        pool.run_next()

    assert other.status().recoveries == 1
    assert [event.run_id for event in world.events.of("completed")] == [OTHER]


def test_the_future_of_a_recovery_that_was_stopped_says_so(world):
    world.corrupt()
    monitor = world.monitor(ManualExecutor())
    future = monitor.monitor_run(RUN, world.service).recover()

    monitor.stop_monitoring(RUN)

    assert isinstance(future.exception(0), MonitorStoppedError)


def test_a_run_that_was_stopped_may_be_given_again_and_has_a_new_handle(world):
    world.rest.set_run(RUN)
    monitor = world.monitor()
    old = monitor.monitor_run(RUN, world.service)
    monitor.stop_monitoring(RUN)

    new = monitor.monitor_run(RUN, world.service)

    assert new is not old
    assert (old.state, new.state) == ("stopped", "healthy")


def test_the_handle_of_before_does_not_stop_the_run_that_was_given_again(world):
    monitor = world.monitor()
    old = monitor.monitor_run(RUN, world.service)
    monitor.stop_monitoring(RUN)
    new = monitor.monitor_run(RUN, world.service)

    old.stop()

    assert new.state == "healthy"


def test_a_run_that_was_stopped_cannot_be_recovered_by_hand(world):
    run = world.monitor().monitor_run(RUN, world.service)
    run.stop()

    with pytest.raises(MonitorStoppedError):
        run.recover()
    assert world.events.names == []


def test_a_run_that_a_receiver_stops_when_its_client_is_there_does_not_adopt_it(world):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service, client="mine")

    with signals.subscribe(lambda *_, **__: run.stop(), "client_created"):
        world.fake.advance(100)

    assert world.events.names == ["detected", *ATTEMPT]
    assert (run.run_id, run.client, run.state) == (RUN, "mine", "stopped")


# Exhaustion


def exhausted_run(world, **policy):
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)
    monitor = world.monitor(**policy)
    run = monitor.monitor_run(RUN, world.service, client="first")
    world.fake.advance(60)
    assert run.state == "exhausted"
    return monitor, run


def test_an_exhausted_run_stays_in_the_map_and_is_not_polled(world):
    monitor, run = exhausted_run(world)
    polls = polls_of(world, RUN)

    world.fake.advance(100)

    assert polls_of(world, RUN) == polls == 1
    assert [status.state for status in monitor.status()] == ["exhausted"]
    assert str(run.status().last_error) == "no"
    assert len(world.events.of("exhausted")) == 1


def test_exhausted_comes_before_on_failure(world):
    log = []
    monitor = world.monitor(on_failure=lambda run_id, error: log.append((run_id, str(error))))
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)
    monitor.monitor_run(RUN, world.service)

    with signals.subscribe(lambda _, event: log.append(event.name), "exhausted"):
        world.fake.advance(60)

    assert log == ["exhausted", (RUN, "no")]


def test_monitor_run_begins_an_exhausted_run_anew(world):
    monitor, run = exhausted_run(world)
    world.events.clear()

    assert monitor.monitor_run(RUN, world.service) is run
    assert (run.state, run.status().last_error) == ("healthy", None)
    world.fake.advance(10)

    assert world.events.names == RECOVERY
    assert run.status().recoveries == 1


def test_recover_begins_an_exhausted_run_anew(world):
    _, run = exhausted_run(world)
    world.events.clear()

    event = run.recover().result(0)

    assert world.events.names == [*ATTEMPT, "completed"]
    assert event.attempt == 1
    assert run.state == "healthy"


def test_a_lineage_that_is_corrupted_too_often_is_left_alone(world):
    _, run = two_generations(world, max_incidents=2)
    world.corrupt(run.run_id)
    world.fake.advance(10)
    world.corrupt(run.run_id)
    world.events.clear()

    world.fake.advance(10)

    assert world.events.names == ["detected", "exhausted"]
    assert run.state == "exhausted"
    event = world.events.one("exhausted")
    assert (event.attempt, type(event.error)) == (0, IncidentBudgetError)
    assert event.error.incidents == 2
    assert len(world.service.created) == 2


def test_a_run_over_its_budget_calls_on_failure(world):
    calls = []
    _, run = two_generations(world, max_incidents=1, on_failure=lambda *args: calls.append(args))
    second = run.run_id
    world.corrupt(second)

    world.fake.advance(10)

    assert [(run_id, type(error)) for run_id, error in calls] == [(second, IncidentBudgetError)]


def test_incidents_outside_the_window_do_not_count(world):
    _, run = two_generations(world, max_incidents=1, incident_window=100.0)
    world.fake.advance(100)

    world.corrupt(run.run_id)
    world.fake.advance(10)

    assert run.status().recoveries == 2


@pytest.mark.parametrize("by_hand", [True, False], ids=["recover", "monitor_run"])
def test_beginning_anew_restores_the_budget(world, by_hand):
    monitor, run = two_generations(world, max_incidents=1)
    world.corrupt(run.run_id)
    world.fake.advance(10)
    assert run.state == "exhausted"

    if by_hand:
        run.recover()
    else:
        monitor.monitor_run(RUN, world.service)
        world.fake.advance(10)

    assert (run.state, run.status().recoveries) == ("healthy", 2)


# Waiting


def test_wait_returns_the_client_of_a_healthy_run_at_once(world):
    run = world.monitor().monitor_run(RUN, world.service, client="mine")

    assert run.wait(0) == "mine"
    assert world.fake.now() == 0.0


def test_wait_steps_to_the_moment_when_the_run_is_recovered(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)
    assert run.state == "waiting"

    client = run.wait(60)

    assert client is run.client is world.service.clients[0]
    assert 10.0 < world.fake.now() <= 15.0


def test_wait_gives_up_after_its_timeout(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(TimeoutError, match="waiting"):
        run.wait(2.0)
    assert world.fake.now() == 12.0


def test_wait_for_an_exhausted_run_raises_with_the_story_of_its_attempts(world):
    _, run = exhausted_run(world)

    with pytest.raises(RecoveryExhaustedError) as caught:
        run.wait(1.0)

    assert (caught.value.run_id, caught.value.attempts) == (RUN, 3)
    assert [str(n) in line and "no" in line for n, line in enumerate(caught.value.history, 1)] == [
        True,
        True,
        True,
    ]


def test_wait_for_a_stopped_run_raises(world):
    run = world.monitor().monitor_run(RUN, world.service, client="mine")
    run.stop()

    with pytest.raises(MonitorStoppedError):
        run.wait(1.0)


# What it shows


def test_status_is_a_tuple_of_immutable_snapshots(world):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service, {"team": "a"})
    before = monitor.status()

    world.fake.advance(10)

    assert isinstance(before, tuple)
    assert (before[0].run_id, before[0].recoveries) == (RUN, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before[0].state = "healthy"
    (after,) = monitor.status()
    assert after == run.status() == monitor.status(run) == monitor.status(RUN)
    assert {field.name for field in dataclasses.fields(after)} == {
        "run_id",
        "root_id",
        "state",
        "generation",
        "last_poll",
        "last_error",
        "last_checkpoint",
        "next_attempt",
        "recoveries",
        "metadata",
    }


def test_the_status_of_a_run_that_backs_off_tells_when_and_why(world):
    world.corrupt()
    world.service.fail(ConnectionResetError("gone"))
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10)

    status, failed = run.status(), world.events.one("failed")
    assert (status.state, str(status.last_error)) == ("waiting", "gone")
    assert status.next_attempt == failed.time + timedelta(seconds=failed.retry_in)
    world.fake.advance(10)
    assert run.status().next_attempt is None


def test_the_status_of_an_unknown_run_is_a_key_error(world):
    with pytest.raises(KeyError, match="unknown"):
        world.monitor().status("unknown:train:0")


def test_a_notebook_shows_every_text_escaped(world):
    nasty = "<img src=x onerror='alert(1)'>"
    world.rest.fail(ValueError(nasty))
    monitor = world.monitor()
    run = monitor.monitor_run(nasty, world.service)
    world.fake.advance(10)

    for html in (monitor._repr_html_(), monitor.status()._repr_html_(), run._repr_html_()):
        assert "<img" not in html
        assert html.count("&lt;img") == 2
        assert "failing" in html


def test_a_notebook_shows_a_successor_with_where_it_came_from(world):
    _, run = two_generations(world)

    html = run._repr_html_()

    assert run.run_id in html
    assert f"from <code>{RUN}</code>" in html
    assert weights("000100") in html


def test_a_notebook_shows_the_first_hundred_of_many_runs(world):
    monitor = world.monitor()
    for number in range(103):
        monitor.monitor_run(f"{number:04d}:train:0", world.service)

    html = monitor._repr_html_()

    assert html.count("<code>") == 100
    assert "3 more" in html


def test_the_reprs_tell_where_things_stand(world):
    monitor = world.monitor(start=False)
    assert "not started" in repr(monitor)

    run = monitor.start().monitor_run(RUN, world.service)

    assert repr(monitor) == "<Monitor started, 1 runs>"
    assert repr(run) == f"<MonitoredRun {RUN} healthy generation 0>"


# Two monitors


def shared(world):
    """Two monitors on one recovery executor, both with the same corrupted run."""
    world.corrupt()
    executor = RecoveryExecutor(InlineExecutor(), scheduler=world.fake, rest_module=world.rest)
    monitors = [world.monitor(executor) for _ in range(2)]
    runs = [monitor.monitor_run(RUN, world.service, client="first") for monitor in monitors]
    return executor, monitors, runs


def test_a_second_monitor_joins_the_incident_and_both_have_the_successor(world):
    _, monitors, runs = shared(world)
    world.service.fail(ConnectionResetError())

    world.fake.advance(20)

    assert len(world.service.created) == 1
    (client,) = world.service.clients
    assert [run.client for run in runs] == [client, client]
    assert [run.state for run in runs] == ["healthy", "healthy"]
    assert [event.name for event in world.events.of("detected")] == ["detected", "detected"]
    completed = world.events.events.index(world.events.one("completed"))
    assert world.events.senders[completed] is monitors[0]


@pytest.mark.parametrize("whole", [True, False], ids=["the monitor", "its run"])
def test_who_joined_an_incident_goes_on_alone_when_the_other_stops(world, whole):
    _, monitors, runs = shared(world)
    world.service.fail(ConnectionResetError())
    world.fake.advance(10)

    if whole:
        monitors[0].stop()
    else:
        monitors[0].stop_monitoring(RUN)
    world.fake.advance(60)

    assert [run.state for run in runs] == ["stopped", "healthy"]
    assert runs[1].client is world.service.clients[0]
    assert len(world.service.created) == 1


def test_a_run_whose_executor_is_shut_down_by_its_owner_is_exhausted_and_not_stuck(world):
    executor, _, runs = shared(world)
    world.service.fail(ConnectionResetError(), times=9)
    future = executor.recover(RUN, world.service, Policy(enabled=True))
    world.fake.advance(10)
    assert {run.state for run in runs} <= {"recovering", "waiting"}

    executor.shutdown()

    assert isinstance(future.exception(0), MonitorStoppedError)
    assert [run.state for run in runs] == ["exhausted", "exhausted"]
    assert world.service.created == []


def test_an_executor_that_is_shut_down_exhausts_a_run_with_what_to_do(world):
    executor, monitors, runs = shared(world)

    executor.shutdown()
    world.fake.advance(10)

    assert [run.state for run in runs] == ["exhausted", "exhausted"]
    assert {type(event.error) for event in world.events.of("exhausted")} == {MonitorStoppedError}
    assert len(monitors[0].status()) == 1


# Determinism and size


def eventful(world):
    """A scenario with failures, backoffs, several runs and a second generation."""
    for number in range(6):
        world.corrupt(f"{number}:train:0", "a", "b")
    world.rest.set_run("7:train:0")
    world.service.fail(ConnectionResetError("gone"), times=4)
    world.service.fail(ApiStatusError.of(400, "does not load"))
    world.service.fail(ApiStatusError.of(429, retry_after=7.0), times=2)
    world.rest.fail(ApiTimeoutError("slow"), times=3)
    monitor = world.monitor(max_attempts=2)
    runs = [monitor.monitor_run(f"{number}:train:0", world.service) for number in range(8)]
    world.fake.advance(45)
    for run in runs[:2]:
        world.corrupt(run.run_id)
    world.fake.advance(200)
    told = [
        (
            event.name,
            event.run_id,
            getattr(event, "attempt", None),
            getattr(event, "retry_in", None),
            str(getattr(event, "error", None)),
            getattr(event, "successor_id", None),
        )
        for event in world.events.events
    ]
    return told, [status.state for status in monitor.status()], world.rest.calls


def test_the_same_scenario_run_twice_does_the_same():
    outcomes = []
    for _ in range(2):
        world = World()
        with signals.subscribe(world.events):
            outcomes.append(eventful(world))

    assert outcomes[0] == outcomes[1]
    assert {"failed", "completed", "exhausted", "poll_error", "missing"} <= {
        name for name, *_ in outcomes[0][0]
    }


class CountedId(str):
    """A run id whose comparisons are calls that can be counted."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return str.__eq__(self, other)


def calls_made(function):
    """How many functions were called, ours and built-in ones."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def dispatch(number, pool, measured=lambda function: function()):
    """Have so many runs corrupted at once; what `measured` made of it, and the events."""
    world = World()
    monitor = world.monitor(pool)
    for n in range(number):
        run_id = CountedId(f"{n}:train:0")
        world.corrupt(run_id)
        monitor.monitor_run(run_id, world.service)

    def everything():
        world.fake.advance(10)
        while getattr(pool, "waiting", ()):
            pool.run_next()

    with signals.subscribe(world.events):
        outcome = measured(everything)
    return outcome, world.events


POOLS = pytest.mark.parametrize(
    "make_pool", [ManualExecutor, InlineExecutor], ids=["queued", "at once"]
)


@POOLS
def test_the_work_for_runs_that_are_corrupted_at_once_grows_with_their_number(make_pool):
    few, _ = dispatch(100, make_pool(), calls_made)
    many, _ = dispatch(1_000, make_pool(), calls_made)

    assert many < 1.1 * (1_000 / 100) * few


@POOLS
def test_five_thousand_runs_that_are_corrupted_at_once_are_all_recovered(make_pool):
    _, events = dispatch(5_000, make_pool())

    ids = {f"{n}:train:0" for n in range(5_000)}
    for name in ("detected", "started", "completed"):
        assert len(events.of(name)) == 5_000
        assert {event.run_id for event in events.of(name)} == ids
