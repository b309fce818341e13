"""Incidents that end, or whose caller is interrupted, at odd moments: nothing is stuck or lost."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import tenacity
from support.recorder import PATIENCE
from support.world import OTHER, RUN, ManualExecutor, weights

from tinkex import Config, Monitor, Policy, RecoveryExecutor, signals
from tinkex.errors import ApiStatusError
from tinkex.recovery.attempt import run_attempt
from tinkex.testing import FakeScheduler, FakeServiceClient


def events(world, run_id=RUN):
    return [e.name for e in world.events.events if e.run_id == run_id]


def test_a_run_that_a_receiver_of_detected_registers_anew_is_told_of_when_it_recovers(world):
    done, pool = [], ManualExecutor()
    world.corrupt()
    world.corrupt(OTHER)
    monitor = world.monitor(pool, on_recovery=lambda *a: done.append(a[1].model_id))
    monitor.monitor_run(RUN, world.service, client="r")
    world.fake.advance(10)  # RUN has the only slot
    again = []

    def receiver(sender, event):
        if event.run_id == OTHER and not again:
            monitor.stop_monitoring(OTHER)
            again.append(monitor.monitor_run(OTHER, world.service, client="o2"))

    with signals.subscribe(receiver, "detected"):
        monitor.monitor_run(OTHER, world.service, client="o1")
        world.fake.advance(30)
        while pool.waiting:
            pool.run_next()
    assert again[0].run_id != OTHER  # it was recovered ...
    assert "completed" in events(world, OTHER)  # ... but nobody is told
    assert again[0].run_id in done  # ... nor is on_recovery called


def test_a_monitor_that_joined_tells_what_the_owner_of_the_incident_refuses(world):
    done, pool = [], ManualExecutor()
    world.corrupt()
    shared = RecoveryExecutor(pool, scheduler=world.fake, rest_module=world.rest)
    a = world.monitor(shared)
    b = world.monitor(shared, on_recovery=lambda *x: done.append("b"))
    a.monitor_run(RUN, world.service)
    run = b.monitor_run(RUN, world.service, client="b")
    world.fake.advance(10)

    def receiver(sender, event):
        a.stop_monitoring(RUN)

    with signals.subscribe(receiver, "client_created", sender=a):
        pool.run_next()
    assert run.state == "healthy"
    assert run.run_id != RUN
    assert "completed" in events(world)


def test_a_failure_of_an_incident_that_has_ended_does_not_reach_the_next_one(world):
    class Wait(tenacity.wait.wait_base):
        def __call__(self, state):
            a.stop(0)  # as another thread may, just now
            return 1.0

    pool = ManualExecutor()
    world.corrupt()
    world.service.fail(ConnectionResetError())
    shared = RecoveryExecutor(pool, max_concurrent=2, scheduler=world.fake, rest_module=world.rest)
    a = world.monitor(shared, wait=Wait())
    b = world.monitor(shared)
    a.monitor_run(RUN, world.service)
    run = b.monitor_run(RUN, world.service, client="b")
    world.fake.advance(10)
    pool.run_next()
    pool.run_next()
    made = world.service.clients[0].model_id
    orphans = [o for g in run.lineage for o in g.orphans]
    assert run.run_id == made or made in orphans, (run.state, run.status().last_error)


def test_runs_left_behind_are_looked_for_when_the_last_attempt_times_out(world):
    row = {"training_run_id": "left:train:0", "user_metadata": {"tinkex_recovered_from": RUN}}
    page = SimpleNamespace(training_runs=[row], total_count=1)
    world.rest.list_training_runs = lambda config, *, limit, offset: page
    pool = ManualExecutor()
    world.corrupt()
    world.service.fail(ValueError("half loaded"))
    run = world.monitor(pool, max_attempts=2, attempt_timeout=5.0).monitor_run(RUN, world.service)
    world.fake.advance(10)
    pool.run_next()
    world.fake.advance(10)
    pool.begin_next()
    pool.running.clear()  # it hangs for good
    world.fake.advance(10)
    pool.run_next()
    assert run.state == "exhausted"
    assert run.lineage[-1].orphans == ("left:train:0",)


def test_a_client_is_handed_over_though_a_receiver_of_client_created_is_interrupted(world):
    world.corrupt()
    run = world.monitor().monitor_run(RUN, world.service, client="first")

    def receiver(sender, event):
        raise KeyboardInterrupt

    with signals.subscribe(receiver, "client_created"), pytest.raises(KeyboardInterrupt):
        run.recover()
    world.fake.advance(7200)
    assert run.state != "recovering"


def test_a_retry_that_gets_no_timer_ends_the_incident(world):
    class Scheduler(FakeScheduler):
        def __call__(self, interval, function):
            if interval < 3 and not self.__dict__.setdefault("hit", []):
                self.hit.append(1)
                raise RuntimeError("can't start new thread")
            return super().__call__(interval, function)

    world.fake = Scheduler()
    world.corrupt()
    world.service.fail(ConnectionResetError())
    run = world.monitor(backoff=2.0).monitor_run(RUN, world.service)
    future = run.recover()
    world.fake.advance(7200)
    assert future.done(), run.state


class KeyInError:
    def get_training_run(self, config, run_id):
        raise OSError

    def list_checkpoints(self, config, run_id):
        raise ConnectionResetError(f"GET failed, X-API-Key: {config.api_key}")


def make_service():
    raise AssertionError


def test_neither_the_worker_s_key_nor_headers_travel(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-worker-key")
    config = Config("tml-main-key", headers={"Authorization": "Bearer secret"})
    rest = KeyInError()
    monitor = Monitor(
        Policy(enabled=True), rest_module=rest, config=config, scheduler=FakeScheduler()
    )
    run = monitor.monitor_run(RUN, make_service)
    task = pickle.dumps(monitor._parts.controller.next_task(run._record))
    report = pickle.dumps(run_attempt(pickle.loads(task)))
    assert (b"tml-worker-key" in report, b"Bearer secret" in task) == (False, False)


def test_a_checkpoint_that_is_chosen_after_the_timeout_is_not_told(world):
    class Scheduler(FakeScheduler):
        armed = False

        def now(self):
            frame = sys._getframe(1)
            while frame and self.armed:
                if frame.f_code.co_name == "_selected":
                    self.armed = False
                    self.advance(6)  # the attempt's time is over just now
                frame = frame.f_back
            return super().now()

    world.fake = Scheduler()
    pool = ManualExecutor()
    world.corrupt()
    monitor = world.monitor(pool, attempt_timeout=5.0, backoff=50.0, max_backoff=50.0)
    run = monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    world.fake.armed = True
    pool.run_next()
    assert events(world) == ["detected", "started", "failed"]
    assert run.status().next_attempt is not None


def test_a_held_account_works_again_when_the_server_answers_that_a_run_is_gone(world):
    status = [402]
    get = world.rest.get_training_run

    def answer(config, run_id):
        if run_id == OTHER:
            raise ApiStatusError.of(status[0])
        return get(config, run_id)

    world.rest.get_training_run = answer
    world.corrupt()
    world.service.fail(ApiStatusError.of(402))
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service)
    monitor.monitor_run(OTHER, world.service)
    world.fake.advance(30)
    status[0] = 404  # the bill is paid, and the other run was deleted
    world.fake.advance(86400)
    assert run.state == "healthy"


def test_an_interrupt_in_a_receiver_of_started_leaks_no_slot(world):
    world.corrupt()
    world.corrupt(OTHER)
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)

    def receiver(sender, event):
        raise KeyboardInterrupt

    with signals.subscribe(receiver, "started"), pytest.raises(KeyboardInterrupt):
        world.fake.advance(10)
    other = monitor.monitor_run(OTHER, world.service)
    world.fake.advance(7200)
    assert other.state == "healthy"


class Cancelled(BaseException):
    """An error that is no `Exception`, as a cancellation is."""


class Cancelling(FakeServiceClient):
    """A service client of its own key, which its first client's error tells."""

    made = 0

    def __init__(self):
        super().__init__()
        self._api_key = "tml-secret-0123456789abcdef"

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        type(self).made += 1
        if type(self).made == 1:
            raise Cancelled(f"key {self._api_key}") from ApiStatusError.of(404)
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


def test_a_cancellation_in_an_attempt_shows_no_key_and_steps_down_as_any_error(world):
    world.corrupt(RUN, "000050", "000100")
    with ThreadPoolExecutor(1) as pool:
        executor = RecoveryExecutor(pool, rest_module=world.rest)
        with signals.subscribe(world.events, sender=executor):
            done = executor.recover(RUN, Cancelling, Policy(enabled=True)).result(PATIENCE)
        executor.shutdown()

    assert done.checkpoint.checkpoint_id == "000050"
    assert "tml-secret" not in str([event.error for event in world.events.of("failed")])


def test_a_later_attempt_considers_no_other_checkpoint_than_the_plan(world):
    world.rest.list_checkpoints = None
    world.rest.set_run(RUN, last_checkpoint=weights("newest"))
    run = world.monitor().monitor_run(RUN, world.service, client="first")
    run.record_checkpoint(weights("mine"), step=5)
    world.service.fail(ConnectionResetError())

    run.recover()
    world.fake.advance(5)

    assert [path for path, _ in world.service.created] == [weights("mine")]


@pytest.mark.parametrize("name", ["paused", "resumed"])
def test_receivers_of_an_account_s_signals_see_the_run_as_it_is_now(world, name):
    world.corrupt()
    world.service.fail(ApiStatusError.of(402))
    run = world.monitor().monitor_run(RUN, world.service)
    states = []

    with signals.subscribe(lambda sender, event: states.append(str(run.state)), name):
        world.fake.advance(60)

    assert states == [{"paused": "waiting", "resumed": "healthy"}[name]]


def test_a_config_without_a_key_serves_a_rest_module_that_needs_none(world, no_environment):
    world.corrupt()
    config = pickle.loads(pickle.dumps(Config("tml-key-0123456789")))
    monitor = world.monitor(options={"config": config})

    run = monitor.monitor_run(RUN, FakeServiceClient)
    world.fake.advance(20)

    assert len(run.lineage) == 2


@pytest.mark.parametrize("rubbish", [0, "", [], {}, False])
def test_a_module_that_is_false_and_no_module_is_refused(rubbish):
    for name in ("rest_module", "service_client_module"):
        with pytest.raises(TypeError, match=name):
            Monitor(**{name: rubbish})
