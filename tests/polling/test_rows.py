"""What a row of a list says of a healthy run: nothing new, or news that must not be missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.sites import EVERY, Site, assert_all_are_polled, ids, sweep, watch

from tinkex import Checkpoint
from tinkex.types import fitting

RUNS = ids(12)
RUN = RUNS[5]
PATH = f"tinker://{RUN}/weights/000001"
DAY = 86_400.0


def at(seconds):
    """The text of a time so many seconds from now."""
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%fZ}"


def saved(**fields):
    """A checkpoint as a server sends it, all fields filled."""
    return {
        "checkpoint_id": "weights/000001",
        "checkpoint_type": "training",
        "time": "2026-01-01T00:00:00Z",
        "tinker_path": PATH,
        "size_bytes": 230644,
        "public": False,
        "expires_at": at(DAY),
        "user_metadata": {"tinkex_step": "1", "note": "x"},
        **fields,
    }


@pytest.fixture
def site():
    made = Site(RUNS)
    made.rows[RUN] = {"last_checkpoint": saved(), "user_metadata": {"name": "sft"}}
    return made


def last(monitor):
    return monitor.status(RUN).last_checkpoint


def test_the_whole_checkpoint_is_there_for_whoever_asks(world, site):
    monitor, _ = watch(world, site, RUNS)

    sweep(world, site, 2)

    wanted = {**site.rows[RUN]["last_checkpoint"], "checkpoint_id": "000001"}
    assert last(monitor) == Checkpoint.from_json(wanted)


def test_rows_without_news_are_not_converted(world, site, monkeypatch):
    converted = []
    monkeypatch.setattr(
        "tinkex.ports.fitting", lambda kind, data: converted.append(data) or fitting(kind, data)
    )
    monitor, _ = watch(world, site, RUNS)
    seen = []
    for number in range(4):
        site.rows[RUN]["last_request_time"] = at(number)
        sweep(world, site)
        seen.append(monitor.status(RUN).last_poll)

    assert converted == []
    assert seen == sorted(set(seen))
    assert_all_are_polled(world, site, monitor)


def test_nor_are_rows_with_a_new_checkpoint(world, site, monkeypatch):
    monkeypatch.setattr("tinkex.ports.fitting", None)
    monitor, _ = watch(world, site, RUNS)
    for number in range(2, 5):
        path = f"tinker://{RUN}/weights/{number}"
        site.rows[RUN]["last_checkpoint"] = saved(tinker_path=path, time=f"2026-01-0{number}")

        sweep(world, site)

        assert (last(monitor).tinker_path, last(monitor).time.day) == (path, number)


@pytest.mark.parametrize(
    "change",
    [
        {"time": "2026-01-02T00:00:00Z", "size_bytes": 5},
        {"expires_at": "2126-01-01T00:00:00Z"},
        {"expires_at": None},
        {"time": None},
    ],
    ids=repr,
)
def test_a_name_that_is_saved_again_or_expires_at_another_time_is_noticed(world, site, change):
    monitor, _ = watch(world, site, RUNS)
    sweep(world, site, 2)

    site.rows[RUN]["last_checkpoint"].update(change)
    sweep(world, site)

    wanted = Checkpoint.from_json({**site.rows[RUN]["last_checkpoint"], "checkpoint_id": "000001"})
    assert last(monitor) == wanted


@pytest.mark.parametrize("missing", ["time", "expires_at", "size_bytes", "checkpoint_type"])
def test_a_server_may_send_fewer_fields(world, site, monkeypatch, missing):
    monkeypatch.setattr("tinkex.ports.fitting", None)
    monitor, _ = watch(world, site, RUNS)
    del site.rows[RUN]["last_checkpoint"][missing]

    sweep(world, site, 2)

    wanted = Checkpoint.from_json({**site.rows[RUN]["last_checkpoint"], "checkpoint_id": "000001"})
    assert last(monitor) == wanted


def test_a_checkpoint_of_a_type_that_cannot_be_trained_from_keeps_its_type(world, site):
    site.rows[RUN]["last_checkpoint"]["checkpoint_type"] = "external"
    monitor, _ = watch(world, site, RUNS)

    sweep(world, site, 3)

    assert last(monitor).checkpoint_type == "external"


def test_a_path_of_more_than_one_line_is_kept_as_it_is(world, site):
    odd = f"{PATH}\n2026-01-01T00:00:00Z\n"
    site.rows[RUN]["last_checkpoint"]["tinker_path"] = odd
    monitor, _ = watch(world, site, RUNS)

    sweep(world, site, 3)

    assert last(monitor).tinker_path == odd


@pytest.mark.parametrize("gone", [False, True], ids=["still told", "not told any more"])
def test_a_checkpoint_that_soon_expires_is_warned_of_but_not_at_each_sweep(world, site, gone):
    site.rows[RUN]["last_checkpoint"]["expires_at"] = at(4 * EVERY + 100.0)
    watch(world, site, RUNS, unprotected_after=100.0)
    sweep(world, site, 2)
    before = world.events.of("unprotected")
    if gone:
        site.rows[RUN]["last_checkpoint"] = None

    sweep(world, site, 20)

    told = world.events.of("unprotected", RUN)
    assert before == []
    assert 2 <= len(told) <= 3
    assert told[0].checkpoint.tinker_path == PATH


def test_runs_without_a_checkpoint_that_were_warned_of_cost_no_more_than_others(
    world, site, monkeypatch
):
    read = []
    monkeypatch.setattr(
        "tinkex.ports.fitting", lambda kind, data: read.append(data) or fitting(kind, data)
    )
    for run_id in RUNS:
        site.rows[run_id] = {"last_checkpoint": None}
    watch(world, site, RUNS, unprotected_after=100.0)

    sweep(world, site, 19)

    # Once for each of them, when it was warned of.
    assert len(world.events.of("unprotected")) == len(read) == len(RUNS)
