"""Exits and cancellations in foreign code are errors like any other: no run, no thread is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest
import tenacity
from support.real_threads import QUICK
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import Policy
from tinkex.testing import FakeServiceClient

KINDS = [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit]

#: More than there are threads for attempts.
MANY = 40


@pytest.fixture
def died(monkeypatch):
    """The threads that an error ended."""
    threads = []
    monkeypatch.setattr(threading, "excepthook", lambda told: threads.append(told.thread))
    return threads


def refusing():
    """A service client that makes no client."""
    service = FakeServiceClient()
    service.fail(ConnectionResetError(), times=1000)
    return service


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["wait", "stop"])
def test_a_strategy_that_exits_gives_its_run_up(bench, died, kind, name):
    base = {"wait": tenacity.wait.wait_base, "stop": tenacity.stop.stop_base}[name]

    class Exits(base):
        def __call__(self, state):
            raise kind

    bench.server.corrupt(RUN)
    monitor = bench.monitor(Policy(enabled=True, poll_interval=0.01, **{name: Exits()}))

    run = monitor.monitor_run(RUN, refusing())

    bench.told.wait_for("exhausted", RUN)
    assert run.state == "exhausted"
    monitor.stop(PATIENCE)
    assert died == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_runs_that_exits_takes_no_thread_from_recoveries(bench, died, kind):
    def list_training_runs(config, *, limit, offset):
        raise kind

    bench.server.list_training_runs = list_training_runs
    run_ids = [f"{number:04}:train:0" for number in range(MANY)]
    bench.server.corrupt(*run_ids)
    monitor = bench.monitor(QUICK)

    for run_id in run_ids:
        monitor.monitor_run(run_id, refusing())

    for run_id in run_ids:
        bench.told.wait_for("exhausted", run_id)
    monitor.stop(PATIENCE)
    assert died == []
