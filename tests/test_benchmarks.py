"""The benchmarks' machinery in a tiny size: what is counted and drawn, never how long it takes."""

from __future__ import annotations

import itertools
import json
from xml.etree import ElementTree

import pytest
from benchmarks.account import MARK, NEWS_EVERY, ODD_EVERY, index_of, row_of, run_id
from benchmarks.chart import chart
from benchmarks.control import ServerProcess
from benchmarks.figures import exponent, quantile
from benchmarks.report import page, table
from benchmarks.server import Account
from benchmarks.targets import METHODS, targets
from benchmarks.workers import Worker, probe

from tinkex import TrainingRun
from tinkex.errors import ApiResponseError
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


def test_a_journal_holds_all_runs_and_sweeps_of_healthy_ones_change_nothing_in_it(control):
    control("setup", runs=31, latency=0.0)

    found = probe("journals", control.url, runs=30, incidents=2)

    assert found["changes"] == 0
    assert found["incident"]["with"]["count"] == found["incident"]["without"]["count"] == 2


def test_calls_are_timed_while_an_account_is_refused_comes_back_and_loops_wait(control):
    control("setup", runs=31, latency=0.0)

    refusal = probe("calls_in_refusal", control.url, runs=30, rounds=1)
    control("refuse", status=0)
    loops = probe("calls_with_loops", control.url, runs=30, loops=5, sweeps=2)
    control("refuse", status=0)
    looks = probe("status_of_all", control.url, runs=30, repeats=2, seconds=0.1)

    for found in (refusal["refused"], refusal["back"], loops["without"], loops["with"], looks):
        assert all(found[name]["count"] for name in METHODS)


def test_a_worker_that_cannot_begin_says_why(control):
    with pytest.raises(RuntimeError, match="nothing like this"):
        Worker("nothing like this", control, 1, patience=5.0).__enter__()


def row(index, **options):
    return json.loads(row_of(index, **options).replace(MARK, b"13:36:05"))


def test_rows_are_as_true_as_those_of_real_servers():
    run = TrainingRun.from_json(row(77, corrupted=True))

    assert run.corrupted
    assert run.last_checkpoint.tinker_path.startswith(f"tinker://{run_id(77)}/weights/")
    assert run.last_checkpoint.expires_at > run.last_checkpoint.time
    assert run.last_sampler_checkpoint.checkpoint_type == "sampler"
    assert index_of(run.training_run_id) == 77


def test_one_row_in_a_thousand_has_a_value_that_nobody_expects():
    rows = [row(index) for index in range(8 * ODD_EVERY)]

    # Of the eight odd values one is allowed: whether a run is a LoRA need not be told.
    assert sum(map(is_misfit, rows)) == 7
    assert sum(each["is_lora"] is None for each in rows) == 1


def is_misfit(row):
    try:
        TrainingRun.from_json(row)
    except ApiResponseError:
        return True
    return False


def rows_of(account, offset, limit):
    _, body = account.answer(b"GET", f"/api/v1/training_runs?limit={limit}&offset={offset}")
    return json.loads(body)["training_runs"]


def test_at_each_sweep_one_run_in_twenty_has_saved():
    account = Account()
    account.do_setup(runs=250)
    sweeps = [[*rows_of(account, 0, 100), *rows_of(account, 100, 100)] for _ in range(30)]
    account.do_reset(moves=0)
    still = [*rows_of(account, 0, 100), *rows_of(account, 100, 100)]
    late = rows_of(account, 200, 100)

    for before, after in itertools.pairwise(sweeps):
        assert sum(differ(*each) for each in zip(before, after, strict=True)) == 200 / NEWS_EVERY
    assert not any(differ(*each) for each in zip(sweeps[-1], still, strict=True))
    for index, each in enumerate(late, 200):
        _, alone = account.answer(b"GET", f"/api/v1/training_runs/{run_id(index)}")
        assert not differ(json.loads(alone), each)


def differ(before, after):
    """Whether a newer checkpoint has come; checks that nothing else has changed."""
    paths = [each["last_checkpoint"]["tinker_path"] for each in (before, after)]
    assert paths == sorted(paths)
    same = {"last_checkpoint", "last_sampler_checkpoint", "last_request_time"}
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in before.keys() - same)
    return paths[0] != paths[1]


def test_a_page_has_no_more_rows_than_the_server_allows():
    account = Account()
    account.do_setup(runs=250, cap=50)

    assert len(rows_of(account, 0, 100)) == 50

    account.do_setup(runs=250, cap=50, refuses=1)

    assert account.answer(b"GET", "/api/v1/training_runs?limit=51&offset=0")[0] == 422
    assert len(rows_of(account, 200, 50)) == 50


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
            "cap": cap,
            "first": runs * wall,
            "wall": runs * wall * (0.5 if (cap, name) == (500, "tinkex") else 1.0),
            "cpu": runs * wall,
            "sweeps": 1,
            "requests": runs,
            "connections": 8,
            "memory": 4e7,
            "server_cpu": 0.1,
        }
        for name, wall in walls.items()
        for runs in (100, 1_000, 10_000, 100_000)
        for cap in (100, 500)
        if (runs <= 10_000 and cap == 100) or not name.startswith("sdk")
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
        "journals": {
            "runs": 10,
            "seconds": 1.0,
            "without": 0.5,
            "incident": {"with": {"median": 0.01}, "without": {"median": 0.005}},
            "changes": 0,
        },
        "recovery_8": {"runs": 9, "recovered": 9, "seconds": 1.0},
        "imports": {"tinkex": 0.11, "monitor": 0.14, "required": 0.1},
        "idle": {"runs": 9, "fraction": 0.0001},
        "few": {"runs": 9, "requests": [5, 5]},
        "hung_listed": {"runs": 9, "with": spread, "without": spread},
        "hung_single": {"runs": 9, "with": spread, "without": spread},
        "seconds": 1.0,
    }
