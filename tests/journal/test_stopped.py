"""Runs of a journal after their stop, and runs that two monitors of one process share."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from support.journals import rows
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import Journal, Monitor, Policy
from tinkex.errors import JournalError
from tinkex.testing import FakeRest, FakeServiceClient, FakeTrainingClient


@pytest.fixture
def life(path):
    """Monitors with threads of their own: what was noted and what waits is written together."""
    rest, made = FakeRest(), []
    rest.set_run(RUN)

    def begin():
        made.append(Monitor(Policy(enabled=True), rest_module=rest, journal=path))
        return made[-1]

    yield begin
    for each in made:
        each.stop()


def monitored(monitor):
    return monitor.monitor_run(RUN, FakeServiceClient(), client=FakeTrainingClient(RUN))


def test_a_loop_whose_run_is_monitored_no_more_saves_on(life, path):
    monitor = life()
    run = monitored(monitor)
    segment = next(run.segments())
    with segment:
        segment.save_state("000001", step=0)
        monitor.stop_monitoring(run)
        segment.save_state("000002", step=1)

    steps = rows(path, "SELECT step FROM checkpoint ORDER BY rowid")
    assert steps == [(0,), (1,)]
    assert rows(path, "SELECT owner_id FROM lease") == [(None,)]
    assert rows(path, "SELECT state FROM run") == [("stopped",)]


def test_what_comes_after_a_stop_does_not_end_the_run_that_is_monitored_again(life, path):
    monitor = life()
    run = monitored(monitor)
    segment = next(run.segments())
    with segment:
        segment.save_state("000001", step=0)
        monitor.stop_monitoring(run)
        again = monitored(monitor)
        segment.save_state("000002", step=1)
    with next(again.segments()) as segment:
        segment.save_state("000003", step=2)

    assert again.state == "healthy"
    assert rows(path, "SELECT state FROM run") == [("monitored",)]


def test_a_monitor_that_stops_takes_no_run_from_another_of_its_process(life):
    first, second = life(), life()
    monitored(first)
    run = monitored(second)
    segment = next(run.segments())
    with segment:
        segment.save_state("000001", step=0)
        first.stop()
        segment.save_state("000002", step=1)

    assert run.state == "healthy"


def test_what_is_saved_after_the_end_of_the_monitor_opens_the_file_no_more(life, path):
    before = set(threading.enumerate())
    monitor = life()
    run = monitored(monitor)
    segment = next(run.segments())
    with segment:
        segment.save_state("000001", step=0)
        monitor.stop()
        segment.save_state("000002", step=1)
        begun = set(threading.enumerate()) - before
        assert "tinkex-journal" not in {each.name for each in begun}
        with pytest.raises(JournalError, match="stopped"):
            segment.save_state("000001", step=2, overwrite=True)

    assert len(life().resume(FakeServiceClient())) == 1


@pytest.mark.parametrize("timeout", [0.0, 0.5])
def test_a_disk_that_hangs_does_not_hold_up_the_end_of_a_monitor(life, path, timeout):
    hangs = threading.Event()
    with Journal(path) as journal:
        monitor = life()
        monitored(monitor)
        journal.store.post(lambda _: hangs.wait(PATIENCE), print)
    began = time.monotonic()
    monitor.stop(timeout)
    took = time.monotonic() - began
    hangs.set()

    assert took < timeout + 1.0


def test_what_happens_at_once_is_told_in_its_order(life, path):
    monitor = life()
    for _ in range(3):
        monitor.stop_monitoring(monitored(monitor))
    monitored(monitor)
    monitor.stop()

    with Journal(path) as journal:
        assert [each.kind for each in journal.history(RUN)] == [
            *["registered", "stopped"] * 3,
            "registered",
        ]


SCRIPT = """
import sys
from tinkex import Monitor, Policy
from tinkex.testing import FakeRest, FakeServiceClient

monitor = Monitor(Policy(enabled=True), rest_module=FakeRest(), journal=sys.argv[1]).start()
for number in range(50):
    monitor.monitor_run(f"{number}:train:0", FakeServiceClient())
"""


def test_a_script_that_ends_without_a_stop_leaves_its_runs(path):
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True, timeout=60)

    assert rows(path, "SELECT count(*) FROM run WHERE state = 'monitored'") == [(50,)]
    assert rows(path, "SELECT count(*) FROM lease WHERE owner_id NOTNULL") == [(0,)]
