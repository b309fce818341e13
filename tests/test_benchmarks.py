"""The benchmarks' machinery in a tiny size: what is counted and drawn, never how long it takes."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from benchmarks.account import ROW_BYTES, index_of, row_of, run_id
from benchmarks.chart import chart
from benchmarks.control import ServerProcess
from benchmarks.figures import exponent, quantile
from benchmarks.report import page, table
from benchmarks.targets import METHODS, targets
from benchmarks.workers import Worker, probe

from tinkex import TrainingRun
from tinkex.polling.reasons import AT_ONCE

CALLS = {
    name: {"median": 0.0001, "p99": 0.0002, "max": 0.001}
    for name in ("monitor_run", "status", "stop_monitoring", "state")
}


@pytest.fixture(scope="module")
def control():
    with ServerProcess() as running:
        yield running


def sweeps_of(control, name, runs, count):
    with Worker(name, control, runs, patience=30.0) as worker:
        for _ in range(count):
            worker.sweep()
    return worker


@pytest.mark.parametrize("name", ["floor", "tinkex"])
def test_a_sweep_asks_for_as_many_pages_as_the_account_has(control, name):
    control("setup", runs=250)

    worker = sweeps_of(control, name, 250, 3)

    assert [sweep["counts"]["lists"] for sweep in worker.sweeps] == [3, 3, 3]
    assert [sweep["counts"]["requests"] for sweep in worker.sweeps] == [3, 3, 3]
    assert 1 <= worker.connections <= 8
    assert all(sweep["memory"] > 1e6 for sweep in worker.sweeps)


def test_the_official_sdk_asks_for_each_run(control):
    control("setup", runs=20)

    worker = sweeps_of(control, "sdk-loop", 20, 1)

    assert worker.sweeps[0]["counts"]["gets"] == 20


@pytest.mark.large
def test_a_few_runs_of_a_large_account_are_asked_for_one_by_one(control):
    control("setup", runs=5_000)

    found = probe("few", control.url, runs=5, sweeps=2)

    assert found["requests"] == [5, 5]


def test_all_runs_that_are_corrupted_at_once_are_recovered(control):
    control("setup", runs=30)

    found = probe("recovery", control.url, runs=30, workers=4)

    assert found["recovered"] == 30
    # One page, then each run's checkpoints, and searches for reasons until the first is a 404.
    assert 1 + 30 < found["requests"] <= 1 + 30 + AT_ONCE


def test_calls_are_timed_while_an_account_is_refused_comes_back_and_loops_wait(control):
    control("setup", runs=31, latency=0.0)

    refusal = probe("calls_in_refusal", control.url, runs=30, rounds=1)
    loops = probe("calls_with_loops", control.url, runs=30, loops=5, sweeps=2)
    looks = probe("status_of_all", control.url, runs=30, repeats=2, seconds=0.1)

    for found in (refusal["refused"], refusal["back"], loops["without"], loops["with"], looks):
        assert all(found[name]["count"] for name in METHODS)


def test_a_worker_that_cannot_begin_says_why(control):
    with pytest.raises(RuntimeError, match="nothing like this"):
        Worker("nothing like this", control, 1, patience=5.0).__enter__()


def test_rows_are_as_long_and_as_true_as_those_of_real_servers():
    row = row_of(run_id(77), corrupted=True)

    run = TrainingRun.from_json(json.loads(row))

    assert abs(len(row) - ROW_BYTES) <= 1
    assert run.corrupted
    assert run.last_checkpoint.tinker_path.startswith(f"tinker://{run_id(77)}/")
    assert index_of(run.training_run_id) == 77


def test_an_exponent_is_the_slope_on_logarithmic_axes():
    assert exponent([(10, 3.0), (100, 300.0), (1000, 30_000.0)]) == pytest.approx(2.0)
    assert quantile(range(1, 101), 0.99) == 99


def test_all_that_was_found_is_reported_and_drawn():
    found = everything()

    text, markdown, drawing = table(found), page(found), ElementTree.fromstring(chart(found))

    for each in targets(found):
        assert each.met
        assert each.what in text
        assert each.what in markdown
    assert "official SDK, one by one" in text
    assert "{" not in markdown
    assert len(drawing.findall("{*}polyline")) == 4


def everything():
    """What a measurement finds, made up."""
    walls = {"floor": 1e-5, "tinkex": 1e-5, "sdk": 2e-3, "sdk-loop": 2e-2}
    sweeps = [
        {
            "variant": name,
            "runs": runs,
            "latency": 0.01,
            "first": runs * wall,
            "wall": runs * wall,
            "cpu": runs * wall,
            "sweeps": 1,
            "requests": runs,
            "connections": 8,
            "memory": 4e7,
            "server_cpu": 0.1,
        }
        for name, wall in walls.items()
        for runs in (100, 1_000, 10_000, 100_000)
        if runs <= 10_000 or not name.startswith("sdk")
    ]
    spread = {"count": 9, "median": 0.5, "p99": 0.9, "max": 1.0}
    return {
        "machine": {
            "cores": 2,
            "cpu": "a CPU",
            "system": "Linux",
            "python": "3.11",
            "packages": {"requests": "2.32", "tinker": None},
            "load_before": 0.1,
            "load_after": 0.2,
            "day": "2026-11-23",
        },
        "sweeps": sweeps,
        "ceiling": {"pages": 10_000.0, "runs": 10_000.0},
        "detection": {"runs": 9, **spread, "sweep": spread},
        "calls_in_sweep": {"runs": 9, **CALLS},
        "calls_in_hang": {"runs": 9, **CALLS},
        "calls_in_refusal": {"runs": 9, "refused": CALLS, "back": CALLS},
        "calls_with_loops": {
            "runs": 9,
            "without": {**CALLS, "sweep": spread},
            "with": {**CALLS, "sweep": spread},
        },
        "status_of_all": {"runs": 9, **CALLS, "seconds": spread, "ratio": 3.0},
        "memory": {"runs": 9, "registered": 300.0, "swept": 600.0},
        "recovery": {"runs": 9, "recovered": 9, "seconds": 1.0},
        "recovery_8": {"runs": 9, "recovered": 9, "seconds": 1.0},
        "imports": {"tinkex": 0.11, "monitor": 0.14, "required": 0.1},
        "idle": {"runs": 9, "fraction": 0.0001},
        "few": {"runs": 9, "requests": [5, 5]},
        "hung_listed": {"runs": 9, "with": spread, "without": spread},
        "hung_single": {"runs": 9, "with": spread, "without": spread},
        "seconds": 1.0,
    }
