"""An attempt is data: a frozen task goes to the executor, a frozen report comes back."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from support import elsewhere
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import Config, Monitor, Policy, RecoveryExecutor, service, signals
from tinkex.errors import AttemptTimeoutError, ConfigError, RecoveryError, ServiceError
from tinkex.ports import RestPort, ServicePort
from tinkex.recovery.attempt import AttemptReport, AttemptTask, RecoveryRequest, run_attempt
from tinkex.testing import InlineExecutor

KEY = "tml-the-key-of-this-account"
CONFIG = Config(KEY, "https://tinker.invalid")
POLICY = Policy(enabled=True)


def task_of(service_client=elsewhere.Service, *, config=CONFIG, **fields):
    request = RecoveryRequest(
        run_id=RUN,
        root_id=RUN,
        service=service_client,
        policy=POLICY,
        rest=RestPort(elsewhere),
        services=ServicePort(service),
        recorded={},
        config=config,
        run_ids=(RUN,),
    )
    given = {
        "number": 1,
        "with_optimizer": True,
        "broken": frozenset(),
        "now": datetime(2026, 11, 24, tzinfo=UTC),
    }
    return AttemptTask(request=request, **{**given, **fields})


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_BASE_URL", CONFIG.base_url)


@pytest.fixture
def processes():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("pool", [InlineExecutor, ThreadPoolExecutor])
def test_an_attempt_brings_a_report_on_any_executor_of_this_process(pool, environment):
    with pool() as executor:
        report = executor.submit(run_attempt, task_of()).result(PATIENCE)

    assert report.error is None
    assert report.checkpoint.tinker_path == elsewhere.PATH
    assert report.successor_id == report.client.model_id == f"made by {os.getpid()} for a:train:0"
    report.client.held.close()


@pytest.mark.timeout(120)
def test_an_attempt_in_another_process_brings_back_the_id_of_the_successor(environment, processes):
    report = processes.submit(run_attempt, task_of()).result(60)

    assert report.error is None
    assert report.checkpoint.tinker_path == elsewhere.PATH
    assert report.successor_id.startswith("made by ")
    assert f"made by {os.getpid()} " not in report.successor_id
    assert report.client is None
    assert not report.has_client


@pytest.mark.timeout(120)
def test_an_error_in_another_process_comes_back_in_the_report(environment, processes):
    report = processes.submit(run_attempt, task_of(elsewhere.Failing)).result(60)

    assert isinstance(report.error, ServiceError)
    assert "no such state" in str(report.error)
    assert report.loading


def test_no_key_travels_with_a_task_or_its_report(environment):
    task = task_of()
    report = run_attempt(task)

    assert KEY.encode() not in pickle.dumps(task)
    assert KEY.encode() not in pickle.dumps(report)
    assert pickle.loads(pickle.dumps(task)).request.config.api_key is None
    report.client.held.close()


def test_a_report_leaves_its_service_clients_behind(environment):
    report = run_attempt(task_of())
    there = pickle.loads(pickle.dumps(report))

    assert [type(each) for each in report.opened] == [elsewhere.Service]
    assert there.opened == ()
    report.client.held.close()


def test_a_worker_does_not_send_its_key_to_another_server(environment, monkeypatch):
    monkeypatch.setenv("TINKER_BASE_URL", "https://other.invalid")

    report = run_attempt(pickle.loads(pickle.dumps(task_of())))

    assert isinstance(report.error, ConfigError)
    assert "https://other.invalid" in str(report.error)


def test_a_task_that_was_pickled_says_the_same(environment):
    task = task_of()
    there = pickle.loads(pickle.dumps(task))

    assert there.request.rest == task.request.rest
    assert there.request.services == task.request.services
    assert there.request._replace(config=None) == task.request._replace(config=None)
    assert (there.number, there.with_optimizer, there.now) == (1, True, task.now)


@pytest.mark.parametrize("value", [task_of(), AttemptReport()], ids=["task", "report"])
def test_what_goes_and_what_comes_is_frozen(value):
    with pytest.raises(AttributeError):
        value.with_optimizer = False


def test_the_work_publishes_nothing(world, environment):
    report = run_attempt(task_of())

    assert world.events.events == []
    report.client.held.close()


def test_a_client_that_is_not_waited_for_any_more_is_not_paid_for(environment):
    report = run_attempt(task_of(is_wanted=lambda: False))

    assert isinstance(report.error, AttemptTimeoutError)
    assert report.client is None


class Pickling(Executor):
    """An executor that runs each job as another process would: on copies of all that it gets."""

    def __init__(self):
        self.sent = []

    def submit(self, function, /, *args, **kwargs):
        """Run the job on copies, and return a copy of its result."""
        sent = pickle.dumps((function, args, kwargs))
        self.sent.append(sent)
        function, args, kwargs = pickle.loads(sent)
        future = Future()
        future.set_result(pickle.loads(pickle.dumps(function(*args, **kwargs))))
        return future


def test_a_monitor_submits_what_can_be_pickled_and_no_key_with_it(world, environment):
    pool = Pickling()
    monitor = world.monitor(pool, options={"rest_module": elsewhere, "config": CONFIG})

    monitor.monitor_run(RUN, elsewhere.Service)
    world.fake.advance(10)

    assert len(pool.sent) == 1
    assert KEY.encode() not in pool.sent[0]


def test_a_client_that_stays_in_another_process_ends_the_incident_at_once(world, environment):
    monitor = world.monitor(Pickling(), options={"rest_module": elsewhere, "config": CONFIG})
    run = monitor.monitor_run(RUN, elsewhere.Service)

    world.fake.advance(10)

    assert world.events.names == ["detected", "started", "failed", "exhausted"]
    error = world.events.one("exhausted").error
    assert isinstance(error, RecoveryError)
    assert "another process" in str(error)
    assert run.state == "exhausted"


@pytest.mark.parametrize(
    "make",
    [
        lambda pool: Monitor(POLICY, executor=pool),
        RecoveryExecutor,
    ],
    ids=["monitor", "executor"],
)
def test_a_pool_of_processes_is_refused_at_once(make):
    with ProcessPoolExecutor(1) as pool, pytest.raises(TypeError, match="ProcessPoolExecutor"):
        make(pool)


def test_the_successor_s_events_are_told_by_the_owner_of_the_incident(world, environment):
    senders = []

    def receiver(sender, *, event):
        senders.append((event.name, sender))

    with signals.subscribe(receiver, "checkpoint_selected", "client_created"):
        monitor = world.monitor()
        world.corrupt()
        monitor.monitor_run(RUN, world.service)
        world.fake.advance(10)

    assert senders == [("checkpoint_selected", monitor), ("client_created", monitor)]
