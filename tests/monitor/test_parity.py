"""What the Elixir original's monitor has, in this one: options, state, events and policy."""

from __future__ import annotations

from types import SimpleNamespace as Bag

import pytest

from tinkex import Config, Monitor, Policy, RecoveryExecutor, Specific, signals
from tinkex.errors import PolicyError, RecoveryDisabledError
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000050"


class Bench:
    """A monitor on fakes, with what its signals said."""

    def __init__(self, policy=None, **options):
        self.time = FakeScheduler()
        self.rest = FakeRest()
        self.service = FakeServiceClient()
        self.events = []
        options.setdefault("rest_module", self.rest)
        options.setdefault("scheduler", self.time)
        options.setdefault("executor", InlineExecutor())
        if policy is None and "config" not in options:
            policy = Policy(enabled=True, poll_interval=10.0, backoff=1.0)
        self.monitor = Monitor(policy, **options)
        self.subscription = signals.subscribe(
            lambda _, event: self.events.append(event), sender=self.monitor
        )
        self.monitor.start()

    def recover(self, **options):
        self.rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)
        handle = self.monitor.monitor_run(RUN, self.service, **options)
        self.time.advance(10.0)
        return handle

    def names(self):
        return [event.name for event in self.events if event.name != "swept"]

    def only(self, name):
        [event] = [event for event in self.events if event.name == name]
        return event


@pytest.fixture
def bench():
    made = []

    def make(*args, **kwargs):
        made.append(Bench(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.subscription.close()
        each.monitor.stop(timeout=0.0)


def test_recovery_is_disabled_unless_a_policy_enables_it(bench):
    made = bench(Policy())

    with pytest.raises(RecoveryDisabledError):
        made.monitor.monitor_run(RUN, made.service)

    assert made.monitor.status() == ()


def test_a_policy_may_be_a_mapping_with_the_names_of_the_original(bench):
    made = bench({"enabled": True, "poll_interval_ms": 250, "backoff_ms": 10, "max_backoff_ms": 20})

    policy = made.monitor.policy

    assert policy == Policy(enabled=True, poll_interval=0.25, backoff=0.01, max_backoff=0.02)


def test_without_a_policy_that_of_the_config_counts(bench):
    made = bench(config=Config("tml-key", recovery={"enabled": True, "max_attempts": 7}))

    policy = made.monitor.policy

    assert policy == Policy(enabled=True, max_attempts=7)


def test_the_config_is_what_runs_are_polled_with_where_the_service_client_has_no_key(bench):
    class Keyless:
        def create_training_client_from_state_with_optimizer(self, path):
            raise NotImplementedError

    asked_with = []

    class Rest(FakeRest):
        def get_training_run(self, config, run_id):
            asked_with.append(config)
            return super().get_training_run(config, run_id)

    config = Config("tml-key", "https://tinker.example")
    made = bench(Policy(enabled=True, poll_interval=10.0), config=config, rest_module=Rest())

    made.monitor.monitor_run(RUN, Keyless())
    made.time.advance(10.0)

    assert asked_with == [config]


def test_any_object_with_get_training_run_is_a_rest_module(bench):
    asked = []

    def get_training_run(config, run_id):
        asked.append(run_id)
        return {"training_run_id": run_id}

    made = bench(rest_module=Bag(get_training_run=get_training_run))
    handle = made.monitor.monitor_run(RUN, made.service)

    made.time.advance(10.0)

    assert asked == [RUN]
    assert handle.state == "healthy"


def test_rest_client_fun_says_which_config_belongs_to_a_service_client(bench):
    given, asked_with = [], []
    config = Config("tml-key")

    def rest_client_fun(service):
        given.append(service)
        return Bag(config=config)

    def get_training_run(config, run_id):
        asked_with.append(config)
        return {"training_run_id": run_id}

    rest = Bag(get_training_run=get_training_run)
    made = bench(rest_module=rest, rest_client_fun=rest_client_fun)

    made.monitor.monitor_run(RUN, made.service)
    made.time.advance(10.0)

    assert given == [made.service]
    assert asked_with == [config]


def test_what_rest_client_fun_raises_is_what_monitor_run_raises(bench):
    def rest_client_fun(service):
        raise LookupError("no such service client")

    made = bench(rest_client_fun=rest_client_fun)

    with pytest.raises(LookupError, match="no such service client"):
        made.monitor.monitor_run(RUN, made.service)

    assert made.monitor.status() == ()


def test_a_service_client_module_makes_the_training_clients(bench):
    calls = []

    def create(service, path, **options):
        calls.append((service, path))
        return Bag(model_id="made:train:1")

    module = Bag(
        create_rest_client=lambda service: None,
        create_training_client_from_state=create,
        create_training_client_from_state_with_optimizer=create,
    )
    made = bench(service_client_module=module)

    handle = made.recover()

    assert calls == [(made.service, PATH)]
    assert handle.run_id == "made:train:1"


def test_the_executor_is_where_attempts_are_made(bench):
    class Counting(InlineExecutor):
        submitted = 0

        def submit(self, function, /, *args, **kwargs):
            self.submitted += 1
            return super().submit(function, *args, **kwargs)

    pool = Counting()

    bench(executor=pool).recover()
    bench(executor=RecoveryExecutor(pool)).recover()

    assert pool.submitted == 2


def test_the_scheduler_is_asked_for_every_wait(bench):
    intervals = []
    fake = FakeScheduler()

    def scheduler(interval, function):
        intervals.append(interval)
        return fake(interval, function)

    made = bench(Policy(enabled=True, poll_interval=12.5), scheduler=scheduler)
    made.monitor.monitor_run(RUN, made.service)
    fake.advance(30.0)

    assert intervals == [12.5, 12.5, 12.5]


def test_start_returns_the_monitor_and_may_be_called_twice(bench):
    made = bench()

    assert made.monitor.start() is made.monitor
    assert made.monitor.start() is made.monitor


def test_monitor_run_begins_polls_that_go_on(bench):
    made = bench()
    made.rest.set_run(RUN)

    made.monitor.monitor_run(RUN, made.service)
    made.time.advance(35.0)

    assert made.rest.calls == [("get_training_run", RUN)] * 3


def test_metadata_may_name_the_training_client_as_in_the_original(bench):
    made = bench()
    client = Bag(model_id=RUN)

    handle = made.monitor.monitor_run(RUN, made.service, {"training_client": client, "team": "a"})

    assert handle.client is client
    assert handle.status().metadata == {"team": "a"}


def test_stop_monitoring_ends_polls_and_does_not_mind_unknown_runs(bench):
    made = bench()
    made.monitor.monitor_run(RUN, made.service)

    made.monitor.stop_monitoring(RUN)
    made.monitor.stop_monitoring(RUN)
    made.monitor.stop_monitoring("unknown:train:0")
    made.time.advance(60.0)

    assert made.rest.calls == []
    assert made.monitor.status() == ()


def test_the_state_of_each_run_can_be_looked_at(bench):
    made = bench()
    made.rest.set_run(RUN, last_checkpoint=PATH)
    made.monitor.monitor_run(RUN, made.service, {"team": "a"})

    made.time.advance(10.0)
    [status] = made.monitor.status()

    assert (status.run_id, status.state, dict(status.metadata)) == (RUN, "healthy", {"team": "a"})
    assert status.last_checkpoint.tinker_path == PATH


def test_a_run_keeps_its_service_client_and_its_config(bench):
    first, second = Config("tml-one"), Config("tml-two")
    services = {first: FakeServiceClient(), second: FakeServiceClient()}
    asked_with = {}

    def get_training_run(config, run_id):
        asked_with[run_id] = config
        checkpoint = {"tinker_path": f"tinker://{run_id}/weights/1"}
        return {"training_run_id": run_id, "corrupted": True, "last_checkpoint": checkpoint}

    made = bench(
        rest_module=Bag(get_training_run=get_training_run),
        rest_client_fun=lambda service: Bag(
            config=next(config for config, each in services.items() if each is service)
        ),
    )
    made.monitor.monitor_run("a:train:0", services[first])
    made.monitor.monitor_run("b:train:0", services[second])

    made.time.advance(10.0)

    assert asked_with["a:train:0"] is first
    assert asked_with["b:train:0"] is second
    assert services[first].created == [("tinker://a:train:0/weights/1", True)]
    assert services[second].created == [("tinker://b:train:0/weights/1", True)]


def test_there_is_one_timer_for_the_next_sweep(bench):
    made = bench()

    for number in range(5):
        made.monitor.monitor_run(f"{number}:train:0", made.service)

    assert made.time.pending == (10.0,)


def test_the_events_of_a_recovery_come_in_the_order_of_the_original(bench):
    made = bench()
    made.service.fail(RuntimeError("no capacity"))

    made.recover()
    made.time.advance(1.0)

    assert made.names() == [
        "detected",
        "started",
        "checkpoint_selected",
        "failed",
        "started",
        "checkpoint_selected",
        "client_created",
        "completed",
    ]


def test_detected_carries_the_run_and_its_checkpoint(bench):
    made = bench()

    made.recover(metadata={"team": "a"})
    event = made.only("detected")

    assert (event.run_id, dict(event.metadata)) == (RUN, {"team": "a"})
    assert event.checkpoint.tinker_path == PATH
    assert event.run.corrupted


def test_poll_error_carries_the_error_and_the_run_stays_monitored(bench):
    made = bench()
    error = ConnectionError("no route")
    made.rest.set_run(RUN)
    made.rest.fail(error)

    handle = made.monitor.monitor_run(RUN, made.service)
    made.time.advance(10.0)
    state = handle.state
    made.time.advance(10.0)

    assert made.only("poll_error").error is error
    assert (state, handle.state) == ("failing", "healthy")


def test_started_and_checkpoint_selected_carry_the_attempt_and_the_strategy(bench):
    made = bench()

    made.recover()
    started, selected = made.only("started"), made.only("checkpoint_selected")

    assert (started.attempt, started.strategy) == (1, "latest")
    assert (selected.attempt, selected.strategy) == (1, "latest")
    assert selected.checkpoint.tinker_path == PATH


def test_client_created_and_completed_carry_the_client_and_its_run(bench):
    made = bench()

    handle = made.recover()
    made_client, completed = made.only("client_created"), made.only("completed")

    assert made_client.client is completed.client is handle.client
    assert made_client.successor_id == completed.successor_id == handle.run_id
    assert completed.duration == 0.0


def test_failed_and_exhausted_carry_the_error(bench):
    made = bench(Policy(enabled=True, poll_interval=10.0, max_attempts=1))
    error = RuntimeError("no capacity")
    made.service.fail(error)

    made.recover()
    failed, exhausted = made.only("failed"), made.only("exhausted")

    assert (failed.attempt, failed.error, failed.retry_in) == (1, error, None)
    assert (exhausted.attempt, exhausted.error) == (1, error)


def test_max_attempts_is_how_often_a_restore_may_fail(bench):
    made = bench(Policy(enabled=True, poll_interval=10.0, max_attempts=2, backoff=1.0))
    made.service.fail(RuntimeError("no capacity"), times=9)

    made.recover()
    made.time.advance(60.0)

    assert made.names().count("started") == 2
    assert made.names()[-1] == "exhausted"


def test_the_backoff_doubles_up_to_its_maximum(bench):
    policy = Policy(enabled=True, poll_interval=10.0, max_attempts=6, backoff=1.0, max_backoff=4.0)
    made = bench(policy)
    made.service.fail(RuntimeError("no capacity"), times=9)

    made.recover()
    made.time.advance(60.0)
    waits = [event.retry_in for event in made.events if event.name == "failed"]

    assert waits.pop() is None
    assert all(
        plain / 2 <= wait <= plain for wait, plain in zip(waits, [1, 2, 4, 4, 4], strict=True)
    )


def test_poll_interval_is_what_lies_between_two_sweeps(bench):
    made = bench(Policy(enabled=True, poll_interval=3.0))
    made.rest.set_run(RUN)
    made.monitor.monitor_run(RUN, made.service)

    made.time.advance(9.5)

    assert len(made.rest.calls) == 3


@pytest.mark.parametrize("strategy", [("specific", PATH), {"specific": PATH}, PATH, Specific(PATH)])
def test_a_specific_checkpoint_is_restored_whatever_the_latest_is(bench, strategy):
    made = bench(Policy(enabled=True, poll_interval=10.0, checkpoint_strategy=strategy))
    latest = f"tinker://{RUN}/weights/000099"
    made.rest.set_run(RUN, corrupted=True, last_checkpoint=latest)

    made.monitor.monitor_run(RUN, made.service)
    made.time.advance(10.0)

    assert made.service.created == [(PATH, True)]


def test_the_strategy_best_is_reserved_as_in_the_original():
    with pytest.raises(PolicyError, match="reserved"):
        Policy(checkpoint_strategy="best")


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_restore_optimizer_says_whether_the_optimizer_comes_back(bench, with_optimizer):
    made = bench(Policy(enabled=True, poll_interval=10.0, restore_optimizer=with_optimizer))

    made.recover()

    assert made.service.created == [(PATH, with_optimizer)]


def test_on_recovery_is_called_with_both_clients_and_the_checkpoint(bench):
    calls = []
    policy = Policy(enabled=True, poll_interval=10.0, on_recovery=lambda *args: calls.append(args))
    made = bench(policy)
    old = Bag(model_id=RUN)

    handle = made.recover(client=old)
    [(old_client, new_client, checkpoint)] = calls

    assert old_client is old
    assert new_client is handle.client
    assert checkpoint.tinker_path == PATH


def test_on_failure_is_called_with_the_run_and_the_error(bench):
    calls = []
    policy = Policy(
        enabled=True,
        poll_interval=10.0,
        max_attempts=1,
        on_failure=lambda *args: calls.append(args),
    )
    made = bench(policy)
    error = RuntimeError("no capacity")
    made.service.fail(error)

    made.recover()

    assert calls == [(RUN, error)]
