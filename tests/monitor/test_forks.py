"""Forked children: there a monitor is a stopped one that says so; the parent's goes on unharmed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from support.forks import in_child
from support.http_servers import RUN_JSON, Stub, as_json
from support.recorder import PATIENCE, Recorder
from support.world import OTHER, RUN, weights

from tinkex import Monitor, Policy, RecoveryExecutor, rest, signals
from tinkex.errors import MonitorStoppedError
from tinkex.journal.store import Store
from tinkex.testing import FakeRest, FakeServiceClient, FakeTrainingClient

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

LOCK = type(threading.Lock())


def refused(function, *args):
    with pytest.raises(MonitorStoppedError, match="forked"):
        function(*args)


def locks_of_ours():
    """Every lock that an object or a module of tinkex holds, but those of journals.

    Here none is open, and a fork would wait for those that other tests have left.
    """
    found = []
    objects = [each for each in gc.get_objects() if not isinstance(each, Store)]
    owners = [each for each in objects if str(type(each).__module__).startswith("tinkex.")]
    owners += [module for name, module in sys.modules.items() if name.startswith("tinkex.")]
    for owner in owners:
        names = [*getattr(owner, "__dict__", ()), *getattr(type(owner), "__slots__", ())]
        for name in (each for each in names if isinstance(each, str)):
            with suppress(Exception):  # what other tests have left may be half made
                held = getattr(owner, name)
                found += [held] if isinstance(held, LOCK) else []
    return list({id(each): each for each in found}.values())


@contextmanager
def held_elsewhere(locks):
    """Have another thread hold locks, as it may at the moment of a fork."""
    held, released, ended = threading.Event(), threading.Event(), []

    def hold():
        # A thread that an earlier test left behind may hold some for good.
        until = time.monotonic() + 0.5
        left = (max(0.0, until - time.monotonic()) for _ in locks)
        ended.extend(lock for lock in locks if lock.acquire(timeout=next(left)))
        held.set()
        released.wait(PATIENCE)
        for lock in ended:
            lock.release()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(PATIENCE)
    try:
        yield
    finally:
        released.set()
        thread.join(PATIENCE)


@pytest.fixture
def parent():
    """A started monitor on threads, with a run that is trained, and its events."""
    fake = FakeRest()
    fake.set_run(RUN)
    fake.set_run(OTHER)
    events = Recorder()
    monitor = Monitor(Policy(enabled=True, poll_interval=3600.0), rest_module=fake).start()
    monitor.rest = fake
    monitor.run = monitor.monitor_run(RUN, FakeServiceClient(), client=FakeTrainingClient(RUN))
    monitor.events = events
    with signals.subscribe(events, sender=monitor):
        monitor.poll_now()
        yield monitor
    monitor.stop()


def use_all(monitor):
    """Call all that there is, in a child; nothing may hang."""
    run = monitor.run
    for call in (monitor.start, monitor.poll_now, monitor.__enter__):
        refused(call)
    refused(monitor.monitor_run, RUN, FakeServiceClient())
    refused(monitor.monitor_run, OTHER, FakeServiceClient())
    for call in (run.wait, run.recover, run.segments, run.plan):
        refused(call)
    refused(lambda: run.record_checkpoint(weights("a"), step=1))
    refused(run.report_failure, OSError("of a loop"))
    assert monitor.is_stopped
    assert "stopped" in repr(monitor)
    assert [each.run_id for each in monitor.status()] == [RUN]
    assert monitor.status(RUN).run_id == monitor.status(run).run_id == RUN
    assert run.status().state == run.state
    assert [each.run_id for each in run.lineage] == [RUN]
    monitor.stop_monitoring(RUN)
    run.stop()
    monitor.stop()
    monitor.stop(60.0)
    monitor.__exit__()


def use_a_new_one():
    """Recover a run in a child with parts of its own."""
    fake, service, events = FakeRest(), FakeServiceClient(), Recorder()
    fake.set_run(RUN, corrupted=True, last_checkpoint=weights("a"))
    with Monitor(Policy(enabled=True), rest_module=fake) as monitor:
        with signals.subscribe(events, sender=monitor):
            run = monitor.monitor_run(RUN, service, client=FakeTrainingClient(RUN))
            monitor.poll_now()
            events.wait_for("completed")
        assert run.wait(PATIENCE) is service.clients[0]
        for segment in run.segments(resume_step=0):
            with segment:
                segment.client.forward_backward(1).result(PATIENCE)


def test_in_a_child_nothing_hangs_whatever_lock_was_held(parent):
    with held_elsewhere(locks_of_ours()):
        told = in_child(lambda: use_all(parent))

    assert told == ""


def test_in_a_child_status_answers_though_threads_were_about_to_take_its_locks(parent):
    over = threading.Event()

    def ask():
        while not over.is_set():
            parent.status(RUN)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        told = [in_child(lambda: parent.status(RUN)) for _ in range(5)]
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)

    assert told == [""] * 5


def test_a_child_may_have_a_monitor_of_its_own_whatever_lock_was_held(parent):
    with held_elsewhere(locks_of_ours()):
        told = in_child(use_a_new_one)

    assert told == ""


def test_the_monitor_of_the_parent_goes_on(parent):
    in_child(lambda: use_all(parent))

    parent.rest.set_run(RUN, corrupted=True, last_checkpoint=weights("a"))
    parent.poll_now()
    parent.events.wait_for("completed")

    assert not parent.is_stopped
    assert parent.run.wait(PATIENCE).path == weights("a")


def test_children_that_are_forked_in_the_middle_of_everything_do_not_hang(parent):
    over = threading.Event()

    def work():
        while not over.is_set():
            parent.monitor_run(OTHER, FakeServiceClient())
            parent.poll_now()
            parent.status()
            parent.stop_monitoring(OTHER)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        told = [
            in_child(lambda: (parent.status(), parent.stop(), use_a_new_one())) for _ in range(10)
        ]
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)

    assert told == [""] * 10


def test_an_incident_of_the_parent_is_not_joined_in_a_child(parent):
    hangs, entered = threading.Event(), threading.Event()

    class Hanging(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            entered.set()
            hangs.wait(PATIENCE)
            raise OSError("it hung")

    parent.monitor_run(RUN, Hanging())
    parent.rest.set_run(RUN, corrupted=True, last_checkpoint=weights("a"))
    parent.poll_now()
    assert entered.wait(PATIENCE)
    told = in_child(use_a_new_one)
    hangs.set()

    assert told == ""


def test_an_executor_of_the_parent_says_so_in_a_child():
    executor = RecoveryExecutor(rest_module=FakeRest())

    def use():
        refused(executor.recover, RUN, FakeServiceClient(), Policy(enabled=True))
        refused(lambda: Monitor(Policy(enabled=True), executor=executor))
        executor.shutdown()

    with held_elsewhere(locks_of_ours()):
        told = in_child(use)
    executor.shutdown()

    assert told == ""


def test_a_rest_client_asks_in_a_child_whatever_lock_was_held():
    from tinkex.config import Config
    from tinkex.errors import ApiConnectionError

    client, config = rest.RestClient(), Config("tml-key", "http://127.0.0.1:9")

    def ask():
        for each in (client, rest):
            with pytest.raises(ApiConnectionError):
                each.get_training_run(config, RUN, timeout=0.2)
        client.close()

    with held_elsewhere(locks_of_ours()):
        told = in_child(ask)
    client.close()

    assert told == ""


# Workers that copy a segment's client


def test_the_client_of_a_segment_raises_in_a_child_and_goes_on_in_the_parent(parent):
    for segment in parent.run.segments():
        with segment:
            client = segment.client
            pending = client.forward_backward(0)

            def use(segment=segment, client=client, pending=pending):
                refused(client.forward_backward, 1)
                refused(client.optim_step)
                refused(client.save_state, "a")
                refused(pending.result)
                refused(lambda: segment.save_state("a", step=1))
                refused(lambda: list(segment.steps(3)))
                assert client.model_id == RUN
                assert segment.__exit__(None, None, None) is False
                assert segment.__exit__(SystemExit, SystemExit(0), None) is False

            with held_elsewhere(locks_of_ours()):
                told = in_child(use)
            client.forward_backward(1).result(PATIENCE)
            client.optim_step().result(PATIENCE)
            segment.save_state("end", step=1)

    assert told == ""


def test_a_wait_that_a_child_begins_raises(parent):
    class Slow(FakeTrainingClient):
        def forward_backward(self, data, loss_fn="cross_entropy"):
            from concurrent.futures import Future

            return Future()

    parent.monitor_run(OTHER, FakeServiceClient(), client=Slow(OTHER))
    parent.rest.set_run(OTHER)
    run = parent.monitor_run(OTHER, FakeServiceClient())
    for segment in run.segments():
        with segment:
            pending = segment.client.forward_backward(1)
            told = in_child(lambda pending=pending: refused(pending.result))

    assert told == ""


def test_a_worker_that_copies_the_client_of_a_segment_is_told(parent):
    here, there = multiprocessing.Pipe()

    def work(client):
        try:
            client.forward_backward(1)
        except MonitorStoppedError as error:
            there.send(str(error))

    for segment in parent.run.segments():
        with segment, held_elsewhere(locks_of_ours()):
            context = multiprocessing.get_context("fork")
            worker = context.Process(target=work, args=(segment.client,), daemon=True)
            worker.start()
            assert here.poll(PATIENCE)
            worker.join(PATIENCE)

    assert "was forked from" in here.recv()


def test_a_child_leaves_the_connections_of_its_parent_open():
    server = Stub()
    server.will(as_json({**RUN_JSON, "training_run_id": RUN}))
    service = FakeServiceClient()
    service._base_url = server.url
    with Monitor(Policy(enabled=True, poll_interval=3600.0)) as monitor:
        monitor.monitor_run(RUN, service)
        monitor.poll_now()

        def leave():
            monitor.stop()
            gc.collect()

        told = in_child(leave)
        monitor.poll_now()
    server.close()

    assert told == ""
    assert len(server.requests) == 2
    assert len(server.connections) == 1
