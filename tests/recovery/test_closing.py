"""Service clients that tinkex opened itself are closed; those that callers may hold are not."""

from __future__ import annotations

import functools
import gc
import logging
import weakref
from types import SimpleNamespace

import pytest
from support.closing import closed, closing_class, failing
from support.world import RUN, ManualExecutor, weights

from tinkex import Policy, RecoveryExecutor, signals
from tinkex import service as services
from tinkex.testing import FakeServiceClient, InlineExecutor

KEY = "tml-the-key-of-this-account"


@pytest.fixture
def kind():
    return closing_class()


def recover(world, run):
    """Have the server corrupt the live run, and a recovery follow."""
    world.corrupt(run.run_id)
    world.fake.advance(10.0)


# What an attempt opened and nothing uses


def test_what_a_failed_attempt_opened_is_closed_at_once(world, kind):
    run = world.monitor(backoff=1.0).monitor_run(RUN, failing(kind, 2))

    recover(world, run)
    at_first = closed(kind)
    world.fake.advance(60.0)

    assert at_first == [["errored"]]
    assert closed(kind) == [["errored"], ["errored"], []]
    assert run.state == "healthy"


def test_a_session_that_was_over_is_closed_and_the_one_in_its_place_is_not(world, kind):
    class Over(kind):
        def __init__(self):
            super().__init__()
            if len(self.made) == 1:
                self.fail(RuntimeError("ServiceClient is closed"))

    run = world.monitor().monitor_run(RUN, Over)

    recover(world, run)

    assert closed(kind) == [["errored"], []]
    assert run.state == "healthy"


@pytest.mark.parametrize("meanwhile", ["stopped", "timed out"])
def test_what_made_an_orphan_is_closed_at_once(world, kind, meanwhile):
    executor = ManualExecutor()
    monitor = world.monitor(executor, attempt_timeout=60.0, max_attempts=1)

    class Slow(kind):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            if meanwhile == "stopped":
                monitor.stop_monitoring(RUN)
            else:
                world.fake.advance(61.0)
            return super().create_training_client_from_state_with_optimizer(path, user_metadata)

    run = monitor.monitor_run(RUN, Slow)
    recover(world, run)

    executor.run_next()

    assert run.state == ("stopped" if meanwhile == "stopped" else "exhausted")
    assert closed(kind) == [["errored"]]


def test_a_client_that_a_receiver_was_shown_keeps_its_session(world, kind):
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, kind)

    def stop_it(sender, *, event):
        monitor.stop_monitoring(RUN)

    with signals.subscribe(stop_it, "client_created", sender=monitor):
        recover(world, run)
    monitor.stop()

    assert world.events.names[-1] == "client_created"
    assert closed(kind) == [[]]


# Generations


def test_that_of_a_replaced_generation_stays_open_until_the_monitor_stops(world, kind):
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, kind)
    clients = []
    for _ in range(3):
        recover(world, run)
        clients.append(run.client)
    before = closed(kind)

    monitor.stop()

    assert before == [[], [], []]
    assert closed(kind) == [["success"], ["success"], []]
    assert clients[-1] is run.client


def test_that_of_a_run_that_is_not_monitored_any_more_stays_open_too(world, kind):
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, kind)
    recover(world, run)

    monitor.stop_monitoring(run)
    monitor.stop()

    assert closed(kind) == [[]]


def test_one_is_let_go_with_its_training_client(world, kind):
    run = world.monitor().monitor_run(RUN, kind)
    recover(world, run)
    service = weakref.ref(kind.made.pop())
    world.events.clear()
    gc.collect()
    is_held = service() is not None

    recover(world, run)
    world.events.clear()
    gc.collect()

    assert is_held
    assert service() is None


def test_a_client_that_cannot_be_referred_to_weakly_does_no_harm(world):
    class Bare:
        __slots__ = ("model_id",)

    def create(self, path, user_metadata=None):
        made = Bare()
        made.model_id = f"made:{len(self.made)}"
        return made

    kind = closing_class(create_training_client_from_state_with_optimizer=create)
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, kind)

    recover(world, run)
    recover(world, run)
    monitor.stop()

    assert len(run.lineage) == 3
    assert closed(kind)[-1] == []


def test_a_recovery_that_was_asked_for_directly_leaves_its_session_to_the_caller(world, kind):
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    world.rest.set_run(RUN, checkpoints=[weights("000100")])
    future = executor.recover(RUN, failing(kind, 1), Policy(enabled=True, backoff=1.0))
    world.fake.advance(60.0)

    executor.shutdown()

    assert future.result().client.model_id
    assert closed(kind) == [["errored"], []]


# Whose they are


def test_a_partial_of_a_class_makes_our_own(world, kind):
    run = world.monitor(backoff=1.0).monitor_run(RUN, functools.partial(failing(kind, 1)))

    recover(world, run)

    assert closed(kind) == [["errored"]]


def test_what_a_function_returns_is_never_closed(world, kind):
    shared = failing(kind, 1)()
    monitor = world.monitor(backoff=1.0)
    run = monitor.monitor_run(RUN, lambda: shared)

    for _ in range(2):
        recover(world, run)
        world.fake.advance(60.0)
    monitor.stop()

    assert len(run.lineage) == 3
    assert closed(kind) == [[]]


def test_an_instance_that_was_given_is_never_closed(world, kind):
    given = failing(kind, 1)()
    monitor = world.monitor(backoff=1.0)
    run = monitor.monitor_run(RUN, given)

    for _ in range(2):
        recover(world, run)
        world.fake.advance(60.0)
    monitor.stop()

    assert len(run.lineage) == 3
    assert closed(kind) == [[]]


def test_a_clone_of_the_official_class_is_closed_and_its_original_is_not(world):
    kind = closing_class(__module__="tinker.lib.public_interfaces.service_client")
    given = kind()
    given.fail(RuntimeError("ServiceClient is closed"), times=9)
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, given)

    recover(world, run)
    recover(world, run)
    monitor.stop()

    assert len(run.lineage) == 3
    assert closed(kind) == [[], ["success"], []]


def test_what_a_module_of_the_callers_own_opened_is_never_closed(world, kind):
    module = SimpleNamespace(**{name: getattr(services, name) for name in services.__all__})
    module.open_service_client = lambda given: given()
    monitor = world.monitor(options={"service_client_module": module}, backoff=1.0)
    run = monitor.monitor_run(RUN, failing(kind, 1))

    recover(world, run)

    assert closed(kind) == [[]]


# What `close` does


def test_an_error_of_close_changes_nothing_and_shows_no_key(world, kind, caplog):
    def close(self, status):
        raise RuntimeError(f"refused for {KEY}")

    kind.close = close
    caplog.set_level(logging.DEBUG)
    monitor = world.monitor(backoff=1.0)
    run = monitor.monitor_run(RUN, failing(kind, 1))

    recover(world, run)
    world.fake.advance(60.0)
    recover(world, run)
    monitor.stop()

    assert len(run.lineage) == 3
    told = [r for r in caplog.records if "could not be closed" in r.getMessage()]
    assert [(r.levelno, "RuntimeError" in r.getMessage()) for r in told] == [
        (logging.INFO, True)
    ] * 2
    assert KEY not in caplog.text


def test_a_service_client_without_close_is_only_let_go(world):
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, FakeServiceClient)

    recover(world, run)
    recover(world, run)
    monitor.stop()

    assert len(run.lineage) == 3
