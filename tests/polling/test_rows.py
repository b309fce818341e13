"""What a row of a list says of a healthy run: nothing new, or news that must not be missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.sites import (
    EVERY,
    Site,
    TextSite,
    WideTextSite,
    assert_all_are_polled,
    ids,
    not_polled,
    sweep,
    watch,
)

from tinkex import Checkpoint
from tinkex.rest.pages import PageReader
from tinkex.types.answers import fitting

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


def filled(site):
    site.rows[RUN] = {"last_checkpoint": saved(), "user_metadata": {"name": "sft"}}
    return site


@pytest.fixture(params=[Site, TextSite, WideTextSite])
def site(request):
    return filled(request.param(RUNS))


@pytest.fixture
def text_site():
    return filled(TextSite(RUNS))


@pytest.fixture
def parsed(monkeypatch):
    """The ids of the runs whose rows were parsed, in their order."""
    found = []
    read = PageReader.parts

    def parts(*args):
        for part in read(*args):
            found.extend(row["training_run_id"] for row, _ in part)
            yield part

    monkeypatch.setattr(PageReader, "parts", parts)
    return found


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


# Rows that are passed over, since their text is that of the sweep before


@pytest.mark.parametrize("kind", [TextSite, WideTextSite])
def test_rows_that_only_moved_on_are_not_even_parsed(world, parsed, kind):
    site = filled(kind(RUNS))
    monitor, _ = watch(world, site, RUNS)
    sweep(world, site, 2)
    for number in range(4):
        parsed.clear()
        before = world.events.of("swept")[-1].time
        for run_id in RUNS:
            site.rows[run_id]["last_request_time"] = at(number)
        sweep(world, site)

        # The first row shows where the others begin, and no row follows the last one.
        assert set(parsed) <= {RUNS[0], RUNS[-1]} or number == 0
        assert not_polled(monitor, before) == []


def test_the_last_request_of_another_object_is_news_like_any_other(world, text_site, parsed):
    site = text_site
    moving = {"last_request_time": "a"}
    site.rows[RUN] = {"user_metadata": moving, "last_request_time": "a"}
    watch(world, site, RUNS)
    sweep(world, site, 2)
    for value in "bcd":
        parsed.clear()
        moving["last_request_time"] = value

        sweep(world, site)

        assert RUN in parsed


@pytest.mark.parametrize(
    "change",
    [
        {"corrupted": True},
        {"corrupted": True, "last_request_time": "2026-01-01T00:00:09Z"},
        {"last_request_time": '2026", "corrupted": true, "x": "'},
    ],
    ids=repr,
)
def test_a_flag_is_seen_whatever_else_moves(world, text_site, change):
    watch(world, text_site, RUNS)
    text_site.rows[RUN]["last_request_time"] = "2026-01-01T00:00:00Z"
    sweep(world, text_site, 3)

    text_site.rows[RUN].update(change)
    sweep(world, text_site)

    assert ("detected" in world.events.names) == change.get("corrupted", False)


def test_a_run_that_failed_meanwhile_is_looked_at_again(world, text_site):
    _, [run, *_] = watch(world, text_site, [RUN, *RUNS[:5], *RUNS[6:]])
    sweep(world, text_site, 3)
    text_site.hidden = {RUN}
    text_site.get_errors[RUN] = ValueError("once")
    sweep(world, text_site)
    failed = run.state
    text_site.hidden = set()

    sweep(world, text_site)

    assert (failed, run.state) == ("failing", "healthy")


def test_an_older_row_than_what_a_single_poll_told_is_taken_as_it_is(world, text_site, parsed):
    monitor, _ = watch(world, text_site, RUNS)
    sweep(world, text_site, 3)
    older = text_site.rows[RUN]["last_checkpoint"]
    text_site.rows[RUN]["last_checkpoint"] = saved(tinker_path=f"{PATH}2")
    text_site.hidden = {RUN}
    sweep(world, text_site)
    newer = last(monitor).tinker_path
    text_site.rows[RUN]["last_checkpoint"] = older
    text_site.hidden = set()

    sweep(world, text_site)

    assert (newer, last(monitor).tinker_path) == (f"{PATH}2", PATH)


def test_a_checkpoint_that_soon_expires_is_warned_of_though_its_row_is_as_before(
    world, text_site, parsed
):
    text_site.rows[RUN]["last_checkpoint"]["expires_at"] = at(6 * EVERY + 100.0)
    watch(world, text_site, RUNS, unprotected_after=100.0)
    sweep(world, text_site, 3)
    parsed.clear()
    sweep(world, text_site)
    quiet = RUN not in parsed and world.events.names == []

    sweep(world, text_site, 9)

    assert quiet
    assert len(world.events.of("unprotected", RUN)) == 1
