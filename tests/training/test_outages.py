"""A server that goes down while a run is trained may come back with an older state of it."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import contextmanager

import pytest
from support.recorder import PATIENCE
from support.world import RUN, weights

from tinkex import Policy, signals
from tinkex.testing import FakeServiceClient, FakeTrainingClient


class Listener:
    """Accepts connections on a port of its own, and can go down and come back."""

    def __init__(self, *, closes=False):
        self._closes = closes
        self.port = 0
        self.accepted = threading.Semaphore(0)
        self._open = []
        self.start()

    def start(self):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def _accept(self, listening):
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._open.append(connection)
            if self._closes:
                connection.close()
            self.accepted.release()

    def stop(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            connection.close()

    def wait_for_connections(self, count=1):
        for _ in range(count):
            assert self.accepted.acquire(timeout=PATIENCE)


class Rest:
    """A rest module of a server that answers, or does not."""

    def __init__(self):
        self.is_up = True

    def get_training_run(self, config, run_id):
        if not self.is_up:
            raise ConnectionRefusedError("no server")
        return {"training_run_id": run_id}


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.stop()


class Site:
    """A run on that server, with a monitor on real threads."""

    def __init__(self, bench, listener, **policy):
        self.rest, self.service = Rest(), FakeServiceClient()
        self.service._base_url = f"http://127.0.0.1:{listener.port}"
        policy = Policy(enabled=True, poll_interval=1000.0, **policy)
        self.monitor = bench.monitor(policy, rest_module=self.rest)
        self.client = FakeTrainingClient(RUN)
        self.run = self.monitor.monitor_run(RUN, self.service, client=self.client)


@contextmanager
def heard(text):
    """An event that is set when a line with this text is logged."""
    told = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                told.set()

    handler = Handler()
    logging.getLogger("tinkex").addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger("tinkex").removeHandler(handler)


def go_down(site, listener):
    site.rest.is_up = False
    listener.stop()


def come_back(site, listener):
    listener.start()
    site.rest.is_up = True


def test_what_was_trained_since_the_save_is_trained_again(bench, listener):
    site, trained = Site(bench, listener), []
    is_lost = threading.Event()
    with signals.subscribe(lambda sender, event: is_lost.set(), "detected", sender=site.monitor):
        for segment in site.run.segments():
            with segment:
                for step in segment.steps(4):
                    segment.client.optim_step().result()
                    trained.append(step)
                    if step == 1:
                        segment.save_state("at-2", step=2)
                    if step == 2 and len(trained) == 3:
                        listener.wait_for_connections()
                        go_down(site, listener)
                        assert is_lost.wait(PATIENCE)
                        come_back(site, listener)

    assert trained == [0, 1, 2, 2, 3]
    assert site.service.created == [(weights("at-2"), True)]
    assert site.run.lineage[0].cause == "rolled_back"
    bench.told.wait_for("completed", RUN)
    names = bench.told.names_of(RUN)
    assert names == ["detected", "started", "checkpoint_selected", "client_created", "completed"]


@pytest.mark.parametrize(
    ("options", "saves", "told"),
    [
        ({"on_doubt": "warn"}, True, "left as it is"),
        ({}, False, "no checkpoint has a step"),
    ],
    ids=["the policy says so", "there is nothing to go back to"],
)
def test_a_run_that_is_not_restored_is_warned_of(bench, listener, caplog, options, saves, told):
    caplog.set_level(logging.WARNING, "tinkex")
    site = Site(bench, listener, **options)
    with heard("the server went down") as warned, next(site.run.segments()) as segment:
        segment.client.optim_step().result()
        if saves:
            segment.save_state("a", step=0)
        listener.wait_for_connections()
        go_down(site, listener)
        assert warned.wait(PATIENCE)
        come_back(site, listener)
        segment.client.optim_step().result()

    assert any(told in record.getMessage() for record in caplog.records)
    assert site.service.created == []
    assert site.run.state == "healthy"


def test_a_connection_that_is_closed_and_accepted_again_means_nothing(bench):
    listener = Listener(closes=True)
    try:
        site = Site(bench, listener)
        with next(site.run.segments()) as segment:
            segment.save_state("a", step=0)
            segment.client.optim_step().result()
            listener.wait_for_connections(2)
            segment.client.optim_step().result()
    finally:
        listener.stop()

    assert site.service.created == []


def test_a_run_to_which_nothing_was_submitted_has_nothing_to_lose(bench, listener):
    site = Site(bench, listener)

    with next(site.run.segments()) as segment:
        segment.save_state("a", step=0)
        listener.wait_for_connections()
        go_down(site, listener)
        come_back(site, listener)
        listener.wait_for_connections()

        segment.client.optim_step().result()

    assert site.service.created == []


@pytest.mark.parametrize("on_doubt", ["recover", "ignore"])
def test_one_thread_looks_where_the_policy_wants_it(bench, listener, on_doubt):
    site = Site(bench, listener, on_doubt=on_doubt)

    for _ in range(3):
        with next(site.run.segments()):
            looking = [each for each in bench.threads() if each.name == "tinkex-outage"]

    assert len(looking) == (on_doubt == "recover")


def test_an_outage_between_two_loops_is_not_forgotten(bench, listener):
    site = Site(bench, listener)
    with next(site.run.segments()) as segment:
        segment.client.optim_step().result()
        segment.save_state("a", step=1)
        listener.wait_for_connections()
    with heard("the next loop goes back") as warned:
        go_down(site, listener)
        assert warned.wait(PATIENCE)
        come_back(site, listener)

    with next(site.run.segments()) as segment:
        assert segment.start_step == 1

    assert site.service.created == [(weights("a"), True)]


def test_stopping_the_monitor_ends_the_thread_that_looks(bench, listener):
    site = Site(bench, listener)
    segment = next(site.run.segments())

    with segment:
        listener.wait_for_connections()
        site.monitor.stop()

        assert [each for each in bench.threads() if each.name == "tinkex-outage"] == []
