"""Many runs and loops at once: who is woken, what is held, and how often an error is looked at."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from support.recorder import PATIENCE, Recorder

from tinkex import Monitor, Policy, signals
from tinkex.errors import ApiStatusError
from tinkex.parts import POLL_WORKERS
from tinkex.polling import detection
from tinkex.runs import status
from tinkex.testing import FakeServiceClient, FakeTrainingClient
from tinkex.training import loop

RUNS = [f"session-{number}:train:0" for number in range(30)]


class Account:
    """A rest module without a list, one account; `error` is what every poll gets."""

    def __init__(self):
        self.error = None

    def get_training_run(self, config, run_id):
        if self.error is not None:
            raise self.error
        path = f"tinker://{run_id}/weights/000001"
        last = {"tinker_path": path, "checkpoint_id": "000001", "checkpoint_type": "training"}
        return {"training_run_id": run_id, "corrupted": False, "last_checkpoint": last}


class Lists(Account):
    """The same with a list of all runs."""

    def list_training_runs(self, config, *, limit, offset):
        shown = RUNS[offset : offset + limit]
        rows = [self.get_training_run(config, run_id) for run_id in shown]
        return SimpleNamespace(rows=rows, total_count=len(RUNS))


@pytest.fixture
def watched():
    """Makes a monitor on real threads of all runs over a rest module; returns it and handles."""
    monitors = []

    def make(account):
        monitor = Monitor(Policy(enabled=True, poll_interval=3600.0), rest_module=account)
        monitors.append(monitor)
        service = FakeServiceClient()
        handles = [
            monitor.monitor_run(each, service, client=FakeTrainingClient(each)) for each in RUNS
        ]
        return monitor.start(), handles

    yield make
    for each in monitors:
        each.stop(timeout=PATIENCE)


def wait_for_state(handles, state):
    """Wait until each run is in a state: a sweep may end before all that it brought is noted."""
    for each in handles:
        record = each._record
        assert each._parts.waits.wait(record, lambda r=record: r.state == state, PATIENCE)


def test_polls_that_fail_wake_no_waiting_loop(watched, monkeypatch):
    account = Account()
    monitor, handles = watched(account)
    looks, ended = threading.Semaphore(0), loop._has_ended
    monkeypatch.setattr(loop, "_has_ended", lambda record: looks.release() or ended(record))
    account.error = ApiStatusError.of(500)
    monitor.poll_now()
    wait_for_state(handles, "failing")
    with ThreadPoolExecutor(len(RUNS)) as pool:
        waiting = [pool.submit(each.wait, PATIENCE) for each in handles]
        for _ in RUNS:
            assert looks.acquire(timeout=PATIENCE)

        for _ in range(3):
            monitor.poll_now()

        # A poll thread may have yet to tell of the first failure.
        assert len([*iter(lambda: looks.acquire(blocking=False), False)]) <= POLL_WORKERS
        account.error = None
        monitor.poll_now()
        assert [each.result(PATIENCE) for each in waiting] == [each.client for each in handles]


def test_what_changes_one_run_holds_no_call_about_another(watched):
    monitor, (first, second, *_) = watched(Account())
    with first._record.lock, ThreadPoolExecutor(1) as pool:
        calls = (
            lambda: monitor.status(second).state,
            lambda: monitor.monitor_run("new:train:0", FakeServiceClient()).state,
            lambda: monitor.stop_monitoring("new:train:0"),
            lambda: second.lineage[0].run_id,
        )

        found = [pool.submit(each).result(PATIENCE) for each in calls]

    assert found == ["healthy", "healthy", None, second.run_id]


def test_an_error_of_the_whole_account_is_looked_through_once_and_told_at_once(
    watched, monkeypatch
):
    account = Lists()
    monitor, _handles = watched(account)
    monitor.poll_now()
    seen = []
    classify = detection.classify
    monkeypatch.setattr(detection, "classify", lambda error: seen.append(error) or classify(error))
    flushes, publisher = [], monitor._parts.publisher
    flush = publisher.flush
    monkeypatch.setattr(publisher, "flush", lambda: flushes.append(1) or flush())
    recorder = Recorder()
    account.error = ApiStatusError.of(402)

    with signals.subscribe(recorder, "poll_error"):
        monitor.poll_now()
        for each in RUNS:
            recorder.wait_for("poll_error", run_id=each)

    assert len(seen) == 1
    assert len(flushes) < len(RUNS) / 2


def test_a_look_at_all_runs_reads_no_checkpoint_before_it_is_asked_for(watched, monkeypatch):
    monitor, _ = watched(Lists())
    monitor.poll_now()
    monitor.poll_now()
    reads, read = [], status.as_checkpoint
    monkeypatch.setattr(status, "as_checkpoint", lambda kept: reads.append(kept) or read(kept))

    found = monitor.status()

    assert reads == []
    assert found[3].last_checkpoint.tinker_path == f"tinker://{RUNS[3]}/weights/000001"
    assert len(reads) == 1


def test_the_log_line_of_a_refused_account_names_a_few_runs_and_how_many_more(watched, caplog):
    account = Account()
    monitor, handles = watched(account)
    account.error = ApiStatusError.of(402)
    recorder = Recorder()
    with signals.subscribe(recorder, "paused"), caplog.at_level(logging.WARNING):
        monitor.poll_now()
        recorder.wait_for("paused")
    wait_for_state(handles, "failing")

    (line,) = [each.getMessage() for each in caplog.records if "paused" in each.getMessage()]

    assert recorder.one("paused").runs == tuple(RUNS)
    assert "and 25 more" in line
    assert len(line) < 500
