"""Why a run was flagged, asked over HTTP and of modules that hang: nothing waits long for it."""

from __future__ import annotations

import threading
from asyncio import CancelledError
from contextlib import ExitStack
from time import monotonic
from types import SimpleNamespace

import pytest
from support.real_threads import QUICK, Server
from support.recorder import PATIENCE, Recorder
from support.rehearsal_http import Client
from support.world import OTHER, RECOVERY, RUN

from tinkex import Config, Monitor, signals
from tinkex.polling.reasons import AT_ONCE
from tinkex.rehearsal import Fault, RehearsalServer
from tinkex.testing import FakeServiceClient

ROUTE = "POST */sessions/search"


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def watched(server):
    """Has a run of the server monitored over HTTP, and gives what is told."""
    config = Config(server.api_key, server.url)
    told = Recorder()
    with ExitStack() as stack:
        monitor = Monitor(QUICK, rest_client_fun=lambda _: SimpleNamespace(config=config))
        stack.callback(monitor.stop, 0.0)
        stack.enter_context(signals.subscribe(told, sender=monitor))
        monitor.start()
        yield SimpleNamespace(monitor=monitor, told=told)


def lost(server, watched, ends_session="poisoned"):
    """Have a run corrupted and detected, and give the event."""
    client = Client(server)
    run_id = client.run()
    client.save(run_id, "000001")
    server.corrupt(run_id, ends_session=ends_session)
    watched.monitor.monitor_run(run_id, FakeServiceClient())
    event = watched.told.wait_for("detected", run_id)
    watched.told.wait_for("completed", run_id)
    return event


@pytest.mark.parametrize("ends_session", ["poisoned", "finished"])
def test_the_reason_comes_over_http(server, watched, ends_session, caplog):
    event = lost(server, watched, ends_session)

    assert event.reason == (
        f"internal: Training run {event.run_id} was lost to a failure of the backend."
    )
    assert f"reason={event.reason}" in caplog.text
    assert server.api_key not in caplog.text


@pytest.mark.parametrize("ends_session", ["gone", None])
def test_a_session_that_did_not_fail_or_is_gone_is_no_reason(server, watched, ends_session):
    assert lost(server, watched, ends_session).reason is None


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_the_route_is_asked_once(server, watched, status):
    handle = server.add_fault(Fault(route=ROUTE, kind="status", status=status))

    assert [lost(server, watched).reason for _ in range(3)] == [None] * 3

    assert handle.hits == 1


@pytest.mark.parametrize("body", ["<html>", "", "null", "[]", '"sessions"', '{"sessions": [7]}'])
def test_an_answer_that_is_no_search_is_no_reason(server, watched, body):
    handle = server.add_fault(Fault(route=ROUTE, kind="garbage", body=body))

    assert lost(server, watched).reason is None
    assert handle.hits == 1


def test_a_server_that_does_not_answer_is_waited_for_a_second_and_then_left_alone(server, watched):
    handle = server.add_fault(Fault(route=ROUTE, kind="hang"))

    began = monotonic()
    reasons = [lost(server, watched).reason for _ in range(3)]
    took = monotonic() - began

    assert reasons == [None] * 3
    assert handle.hits == 1
    assert 0.9 < took < 5.0


# Modules that hang


class HungSearch(Server):
    """A rest module whose searches hang before `gate` is opened, but for those of `quick` ones."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate
        self.searched = []
        self.entered = threading.Event()
        self.quick = set()

    def search_sessions(self, config, session_id):
        self.searched.append(session_id)
        if session_id not in self.quick:
            self.entered.set()
            self.gate.wait(3 * PATIENCE)
        status = {"type": "failed", "category": "internal", "message": "lost"}
        return [{"session_id": session_id, "status": status}]


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt, CancelledError])
def test_whatever_a_search_raises_costs_only_the_reason(bench, kind):
    class Raising(Server):
        def search_sessions(self, config, session_id):
            raise kind

    bench.server = Raising()
    bench.server.corrupt(RUN)

    bench.monitor().monitor_run(RUN, FakeServiceClient())
    bench.told.wait_for("completed", RUN)

    assert bench.told.names_of(RUN)[: len(RECOVERY)] == RECOVERY
    assert bench.told.one("detected", RUN).reason is None


@pytest.fixture
def hung(bench):
    bench.server = HungSearch(bench.gate())
    return bench.server


class NotedService(FakeServiceClient):
    """A service client that notes what was told of its run when it made a training client."""

    def __init__(self, told):
        super().__init__()
        self._told = told
        self.told_before = []

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self.told_before += self._told.names_of(RUN)
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


def test_an_attempt_begins_while_the_reason_is_waited_for(bench, hung):
    hung.corrupt(RUN)
    service = NotedService(bench.told)

    bench.monitor().monitor_run(RUN, service)
    bench.told.wait_for("completed", RUN)

    assert service.created
    assert service.told_before == []
    assert bench.told.names_of(RUN)[: len(RECOVERY)] == RECOVERY
    assert bench.told.one("detected", RUN).reason is None


def test_the_events_of_other_runs_do_not_wait(bench, hung):
    hung.quick.add(OTHER.partition(":")[0])
    hung.corrupt(RUN, OTHER)
    monitor = bench.monitor()
    monitor.monitor_run(RUN, FakeServiceClient())
    assert hung.entered.wait(PATIENCE)

    monitor.monitor_run(OTHER, FakeServiceClient())
    event = bench.told.wait_for("detected", OTHER)
    bench.told.wait_for("completed", OTHER)

    assert bench.told.names_of(RUN) == []
    assert event.reason == "internal: lost"


def test_a_mass_corruption_is_told_of_within_bounds_while_searches_hang(bench, hung):
    run_ids = [f"run{number}:train:0" for number in range(200)]
    hung.corrupt(*run_ids)
    monitor = bench.monitor()

    for run_id in run_ids:
        monitor.monitor_run(run_id, FakeServiceClient())
    # If each waited for its search, that would take longer than is waited here.
    bench.told.wait_for("completed", count=len(run_ids))

    assert {event.reason for event in bench.told.of("detected")} == {None}
    assert {event.run_id for event in bench.told.of("detected")} == set(run_ids)
    assert len(hung.searched) == AT_ONCE


def test_stop_does_not_wait_for_a_reason(bench, hung):
    hung.corrupt(RUN)
    monitor = bench.monitor()
    monitor.monitor_run(RUN, FakeServiceClient())
    assert hung.entered.wait(PATIENCE)

    began = monotonic()
    stopping = threading.Thread(target=monitor.stop, args=(PATIENCE,), daemon=True)
    stopping.start()
    event = bench.told.wait_for("detected", RUN)
    took = monotonic() - began
    hung.gate.set()
    stopping.join(PATIENCE)

    assert event.reason is None
    assert took < 0.8
    assert not stopping.is_alive()
