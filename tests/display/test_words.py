"""Ages, durations, sizes and ids in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tinkex.display.words import (
    age,
    clock,
    count,
    day_and_time,
    duration,
    facts,
    name_of,
    one_line,
    short_id,
    size,
    tally,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3.0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (10.0, "10 s"),
        (119.9, "119 s"),
        (120.0, "2 min"),
        (7199.0, "119 min"),
        (7200.0, "2 h"),
        (172_799.0, "47 h"),
        (172_800.0, "2 d"),
        (8_640_000.0, "100 d"),
    ],
)
def test_a_duration_is_told_in_the_largest_unit_of_which_there_are_two(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("ago", "told"),
    [(0.5, "now"), (-0.5, "now"), (4.0, "4.0 s ago"), (300.0, "5 min ago"), (-30.0, "in 30 s")],
)
def test_an_age_is_told_from_now(ago, told):
    assert age(NOW - timedelta(seconds=ago), NOW) == told


def test_what_never_was_has_no_age():
    assert age(None, NOW) == ""


@pytest.mark.parametrize(
    ("count", "told"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (3_400_000, "3.4 MB")],
)
def test_a_size_is_told_in_its_largest_unit(count, told):
    assert size(count) == told


def test_the_largest_unit_of_size_is_not_left():
    assert size(12 * 10**15) == "12000.0 TB"


@pytest.mark.parametrize(
    ("run_id", "told"),
    [
        ("0e8407d0-6f81-4fb6:train:3", "0e8407d0..:train:3"),
        ("s:train:0", "s:train:0"),
        ("0e8407d0-6f81", "0e8407d0.."),
        (None, "(none)"),
    ],
)
def test_a_run_is_told_by_the_beginning_of_its_session(run_id, told):
    assert short_id(run_id) == told


def test_a_checkpoint_is_told_by_its_name():
    assert name_of("tinker://s:train:0/weights/000028") == "000028"


def test_the_facts_of_an_event_are_told_in_one_order_whatever_theirs():
    body = {
        "error": "gone\nfor good",
        "retry_in": 30.0,
        "attempt": 2,
        "checkpoint": "tinker://s:train:0/weights/000028",
        "successor_id": None,
        "client": "of no interest",
    }

    assert facts(body) == "attempt 2, checkpoint 000028, next in 30 s, gone for good"


def test_a_fact_that_does_not_fit_is_told_as_it_is():
    assert facts({"duration": "long"}) == "duration long"


def test_times_are_told_in_utc_whatever_their_zone():
    moment = NOW.astimezone(timezone(timedelta(hours=9)))

    assert clock(moment) == "03:04:05 UTC"
    assert day_and_time(moment) == "2026-01-02 03:04:05"
    assert day_and_time(None) == ""


def test_things_are_counted():
    assert [count(number, "run") for number in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
    assert count(2, "entry", "entries") == "2 entries"
    assert tally(["a", "b", "b"]) == "2 b, 1 a"
    assert tally([]) == ""


def test_a_text_is_put_on_one_line():
    assert one_line(" a\n\x1b b ") == "a b"
    assert one_line("abcdef", 5) == "abc.."
    assert one_line(ValueError("x")) == "x"
