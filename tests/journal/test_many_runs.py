"""Many runs that are registered at once are written together, each as if it were alone."""

from __future__ import annotations

import sqlite3

import pytest
from support.journals import rows
from support.world import weights

from tinkex import Journal, Monitor, Policy

#: More than one statement takes, by an odd number.
COUNT = 1267

RUNS = [f"{number:04d}:train:0" for number in range(COUNT)]


@pytest.fixture(params=[None, 999], ids=["as it is", "of an old SQLite"])
def most_values(request):
    """How many values a statement takes."""
    return request.param


def life(world, journal, runs):
    """A monitor with threads that registers runs, and ends."""
    with Monitor(Policy(enabled=True), rest_module=world.rest, journal=journal) as monitor:
        for run_id in runs:
            monitor.monitor_run(run_id, world.service, {"run": run_id})


def test_all_are_written_in_their_order(world, path, most_values):
    with Journal(path) as journal:
        if most_values is not None:
            limit = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER
            journal.store.call(lambda db: db.setlimit(limit, most_values))
        life(world, journal, RUNS)
        found = journal.history()

    assert [(each.kind, each.run_id) for each in found] == [("registered", each) for each in RUNS]
    for table in ("lease", "run", "generation"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(COUNT,)]
    assert rows(path, "SELECT count(*) FROM lease WHERE owner_id NOTNULL") == [(0,)]


def test_those_that_are_known_are_gone_on_with(world, path):
    life(world, path, RUNS[:3])
    life(world, path, RUNS[:6])

    with Journal(path) as journal:
        told = [each.run_id for each in journal.history()]
    assert sorted(told) == sorted([*RUNS[:3], *RUNS[:6]])
    assert rows(path, "SELECT root_id, epoch FROM lease ORDER BY root_id") == [
        *((each, 2) for each in RUNS[:3]),
        *((each, 1) for each in RUNS[3:6]),
    ]


def test_one_that_is_stopped_and_begun_anew_at_once_is_told_twice(world, path):
    with Monitor(Policy(enabled=True), rest_module=world.rest, journal=path) as monitor:
        for run_id in RUNS[:3]:
            monitor.monitor_run(run_id, world.service).stop()
            monitor.monitor_run(run_id, world.service)

    with Journal(path) as journal:
        for run_id in RUNS[:3]:
            kinds = [each.kind for each in journal.history(run_id)]
            assert kinds == ["registered", "stopped", "registered"]


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_is_brought_back_whose_monitor_was_stopped_at_once(world, path, saved):
    with Monitor(Policy(enabled=True), rest_module=world.rest, journal=path) as monitor:
        for run_id in RUNS[:3]:
            run = monitor.monitor_run(run_id, world.service)
            if saved:
                run.record_checkpoint(weights("000001", run_id), step=1)

    with Monitor(Policy(enabled=True), rest_module=world.rest, journal=path) as monitor:
        assert sorted(run.run_id for run in monitor.resume(world.service)) == RUNS[:3]
