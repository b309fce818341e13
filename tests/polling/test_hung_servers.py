"""The monitor over HTTP against a server on this machine that does not answer."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from support.real_threads import QUICK, path_of
from support.recorder import PATIENCE, Recorder
from support.world import RUN

from tinkex import Config, Monitor, signals
from tinkex.errors import ApiTimeoutError
from tinkex.testing import FakeServiceClient


class Site:
    """A server of runs on this machine; what is asked of a run in `hanging` gets no answer."""

    def __init__(self):
        self.hanging = set()
        self.corrupted = set()
        self.arrived = threading.Semaphore(0)
        self.released = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                site.answer(self)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                site.answer(self)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, handler):
        path = unquote(handler.path).partition("?")[0].removeprefix("/api/v1/training_runs/")
        run_id, _, what = path.partition("/")
        key = what or run_id
        if key in self.hanging:
            self.arrived.release()
            self.released.wait(3 * PATIENCE)
        checkpoint = {"tinker_path": path_of(run_id), "checkpoint_type": "training"}
        answer = (
            {"checkpoints": [checkpoint]}
            if what
            else {
                "training_run_id": run_id,
                "corrupted": run_id in self.corrupted,
                "last_checkpoint": checkpoint,
            }
        )
        body = json.dumps(answer).encode()
        try:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:
            handler.close_connection = True

    def close(self):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(PATIENCE)


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def monitor_of(site):
    """Makes monitors of runs on the site, which are stopped after the test."""
    config = Config("tml-0123456789abcdef", site.url)
    with ExitStack() as stack:

        def make(told, policy=QUICK):
            monitor = Monitor(policy, rest_client_fun=lambda _: SimpleNamespace(config=config))
            stack.callback(monitor.stop, 0.0)
            stack.enter_context(signals.subscribe(told, sender=monitor))
            return monitor.start()

        yield make


@pytest.fixture
def our_threads():
    """Lists the threads of tinkex that were made since the test began."""
    before = set(threading.enumerate())
    return lambda: [
        each
        for each in threading.enumerate()
        if each.name.startswith("tinkex") and each not in before
    ]


def test_a_run_is_recovered_over_http_while_the_server_does_not_answer_for_others(site, monitor_of):
    hung = [f"hung:train:{number}" for number in range(3)]
    site.hanging.update(hung)
    site.corrupted.add(RUN)
    told = Recorder()
    monitor = monitor_of(told)

    for run_id in (*hung, RUN):
        monitor.monitor_run(run_id, FakeServiceClient())
    event = told.wait_for("completed", RUN)

    assert event.checkpoint.tinker_path == path_of(RUN)
    assert monitor.status(RUN).recoveries == 1


def test_stop_cuts_off_polls_that_hang_and_leaves_no_thread(site, monitor_of, our_threads):
    hung = [f"hung:train:{number}" for number in range(3)]
    site.hanging.update(hung)
    monitor = monitor_of(Recorder())
    for run_id in hung:
        monitor.monitor_run(run_id, FakeServiceClient())
    for _ in hung:
        assert site.arrived.acquire(timeout=PATIENCE)

    began = monotonic()
    monitor.stop(timeout=PATIENCE)
    took = monotonic() - began

    assert took < 1.0
    assert our_threads() == []


def test_stop_cuts_off_a_search_for_a_reason_that_hangs(site, monitor_of, our_threads):
    site.hanging.add("api/v1/sessions/search")
    site.corrupted.add(RUN)
    told = Recorder()
    monitor = monitor_of(told)
    monitor.monitor_run(RUN, FakeServiceClient())
    assert site.arrived.acquire(timeout=PATIENCE)

    began = monotonic()
    monitor.stop(timeout=PATIENCE)
    took = monotonic() - began

    assert took < 0.8
    assert told.one("detected", RUN).reason is None
    assert our_threads() == []


def test_an_attempt_that_lists_checkpoints_is_not_cut_off_before_the_timeout_of_stop(
    site, monitor_of
):
    site.hanging.add("checkpoints")
    told = Recorder()
    monitor = monitor_of(told)
    handle = monitor.monitor_run(RUN, FakeServiceClient())
    future = handle.recover()
    assert site.arrived.acquire(timeout=PATIENCE)
    stopping = threading.Thread(target=monitor.stop, args=(PATIENCE,), daemon=True)
    stopping.start()

    site.released.set()
    event = future.result(timeout=PATIENCE)
    stopping.join(PATIENCE)

    assert event.checkpoint.tinker_path == path_of(RUN)
    assert told.names_of(RUN)[-1] == "completed"
    assert told.of("failed") == []


def test_an_attempt_that_hangs_in_a_listing_is_cut_off_by_stop(site, monitor_of, our_threads):
    site.hanging.add("checkpoints")
    monitor = monitor_of(Recorder())
    handle = monitor.monitor_run(RUN, FakeServiceClient())
    handle.recover()
    assert site.arrived.acquire(timeout=PATIENCE)

    began = monotonic()
    monitor.stop(timeout=0.3)
    took = monotonic() - began

    assert took < 5.0
    for thread in our_threads():
        thread.join(PATIENCE)
    assert our_threads() == []


@pytest.mark.long
def test_a_poll_takes_no_longer_than_its_bound(site, monitor_of):
    site.hanging.add(RUN)
    told = Recorder()
    monitor = monitor_of(told)

    began = monotonic()
    monitor.monitor_run(RUN, FakeServiceClient())
    error = told.wait_for("poll_error", RUN).error
    took = monotonic() - began

    assert isinstance(error, ApiTimeoutError)
    assert 4.5 < took < 15.0
