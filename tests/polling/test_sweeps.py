"""What a sweep asks for: the cheaper of an account's list and single runs, and never too little."""

from __future__ import annotations

import random

import pytest
from support.sites import (
    Site,
    assert_all_are_polled,
    assert_each_is_recovered,
    ids,
    refuses,
    sweep,
    watch,
)

from tinkex.errors import ApiStatusError
from tinkex.types import TrainingRunPage

# The cheaper way


@pytest.mark.large
def test_five_runs_of_an_account_with_fifty_thousand_cost_five_requests(world):
    site = Site(ids(50_000))
    monitor, _ = watch(world, site, ids(50_000)[::10_000])

    first = sweep(world, site)

    assert first <= 6
    assert [sweep(world, site) for _ in range(5)] == [5] * 5
    assert_all_are_polled(world, site, monitor)


def test_three_hundred_runs_that_are_all_there_are_cost_one_page(world):
    site = Site(ids(300))
    monitor, runs = watch(world, site, ids(300))

    assert [sweep(world, site) for _ in range(4)] == [1] * 4
    assert site.lists == [(0, 500)]
    assert world.events.of("swept")[-1].runs == 300
    assert world.events.of("swept")[-1].requests == 1
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[::97])


@pytest.mark.large
def test_pages_end_as_soon_as_every_run_was_seen(world):
    site = Site(ids(5000))
    monitor, _ = watch(world, site, ids(150))

    sweep(world, site)

    assert sweep(world, site) == 1
    assert site.lists == [(0, 250)]
    assert_all_are_polled(world, site, monitor)


@pytest.mark.large
def test_where_runs_stand_far_down_a_long_list_they_are_asked_for_one_by_one(world):
    site = Site(ids(5000))
    monitor, _ = watch(world, site, ids(5000)[-20:])

    sweep(world, site)

    assert sweep(world, site) == 20
    assert site.lists == []
    assert_all_are_polled(world, site, monitor)


@pytest.mark.large
def test_runs_that_drift_down_a_long_list_do_not_drag_the_pages_along(world):
    site = Site(ids(20_000))
    monitor, _ = watch(world, site, ids(20))
    assert sweep(world, site, 2) <= 2

    site.order = lambda listed: [*listed[20:], *listed[:20]]
    drifted = sweep(world, site)

    assert drifted <= 40
    assert sweep(world, site, 2) == 20
    assert_all_are_polled(world, site, monitor)


def test_what_was_learnt_is_learnt_anew_after_an_hour(world):
    site = Site(ids(2000))
    monitor, _ = watch(world, site, ids(2000)[-20:])
    sweep(world, site, 2)
    site.order = lambda listed: listed[::-1]

    world.fake.advance(3700.0)

    assert sweep(world, site) == 1
    assert_all_are_polled(world, site, monitor)


# Absence proves nothing


def test_a_run_that_no_page_shows_is_asked_for(world):
    hidden = ids(300)[5::30]
    site = Site(ids(300), hidden=hidden)
    monitor, runs = watch(world, site, ids(300))

    sweep(world, site, 3)

    assert sorted(site.gets) == sorted(hidden)
    assert site.gets.total() == len(hidden)
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[5:70:30])


@pytest.mark.parametrize("total", [None, 0, 1, 50, 299, 3000, -5, "many", True, 2.5])
def test_a_wrong_total_hides_no_run(world, total):
    site = Site(ids(300), total=total)
    monitor, runs = watch(world, site, ids(300))

    sweep(world, site)

    assert_all_are_polled(world, site, monitor)
    assert sweep(world, site) <= 301
    assert_each_is_recovered(world, site, runs[::99])


def test_rows_that_move_between_pages_hide_no_run(world):
    chance = random.Random(7)
    site = Site(ids(400), order=lambda listed: chance.sample(listed, len(listed)))
    monitor, runs = watch(world, site, ids(400)[::2])

    sweep(world, site)

    assert_all_are_polled(world, site, monitor, sweeps=8)
    assert_each_is_recovered(world, site, runs[::40])


def test_a_row_that_comes_twice_is_one_run(world):
    site = Site(ids(200), page=lambda rows, offset: [*rows, *rows[::-1]])
    monitor, runs = watch(world, site, ids(200))

    sweep(world, site)

    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[::50])
    assert len(world.events.of("detected")) == 4


@pytest.mark.parametrize("cap", [1, 7, 20, 99])
def test_a_server_that_gives_smaller_pages_hides_no_run(world, cap):
    site = Site(ids(300), cap=cap)
    monitor, runs = watch(world, site, ids(300))

    sweep(world, site)

    assert_all_are_polled(world, site, monitor)
    assert sweep(world, site) <= 301
    assert_each_is_recovered(world, site, runs[::99])


def test_a_page_that_was_short_once_does_not_make_sweeps_dear_for_ever(world):
    site = Site(ids(40), cap=1)
    watch(world, site, ids(40))
    sweep(world, site)
    site.cap = 500

    world.fake.advance(3700.0)

    assert sweep(world, site) == 1


def test_an_empty_list_hides_no_run(world):
    site = Site(ids(50), hidden=ids(50))
    monitor, runs = watch(world, site, ids(50))

    sweep(world, site)

    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[:2])


# Servers that do not list


@pytest.mark.parametrize("status", [404, 405, 422, 501])
def test_a_refused_list_is_noticed_in_the_same_sweep_and_remembered(world, status):
    site = Site(ids(50), page=refuses(ApiStatusError.of(status)))
    monitor, runs = watch(world, site, ids(50))

    first = sweep(world, site)
    later = [sweep(world, site) for _ in range(5)]

    assert first == 51
    assert later == [50] * 5
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[:2])


def test_a_rest_module_without_a_list_will_do(world):
    class Single:
        def __init__(self, site):
            self.get_training_run = site.get_training_run

    site = Site(ids(50))
    monitor, _ = watch(world, Single(site), ids(50))

    assert sweep(world, site) == 50
    assert_all_are_polled(world, site, monitor)


def test_an_answer_that_is_no_page_is_a_refusal(world):
    site = Site(ids(50), page=lambda rows, offset: "<html>")
    monitor, _ = watch(world, site, ids(50))

    sweep(world, site)

    assert sweep(world, site) == 50
    assert_all_are_polled(world, site, monitor)


# Rows and pages that are bad


@pytest.mark.parametrize(
    "bad",
    [None, 5, "row", [], {}, {"training_run_id": 5}, {"training_run_id": None}],
    ids=repr,
)
def test_a_bad_row_costs_that_row_and_not_the_page(world, bad):
    def spoil(rows, offset):
        return [bad, *rows[1:]] if rows else rows

    site = Site(ids(100), page=spoil)
    monitor, runs = watch(world, site, ids(100))

    sweep(world, site)

    assert sweep(world, site) <= 3
    assert dict(site.gets) == {ids(100)[0]: 1}
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, [runs[0], runs[50]])


@pytest.mark.parametrize(
    "fields",
    [{"corrupted": "yes"}, {"corrupted": None}, {"corrupted": 1}],
    ids=repr,
)
def test_a_row_that_cannot_be_read_is_asked_for_by_itself(world, fields):
    def spoil(rows, offset):
        return [{**rows[0], **fields}, *rows[1:]] if rows else rows

    site = Site(ids(100), page=spoil)
    monitor, runs = watch(world, site, ids(100))

    sweep(world, site)

    assert sweep(world, site) <= 3
    assert dict(site.gets) == {ids(100)[0]: 1}
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, [runs[0], runs[50]])


def test_a_page_as_our_own_rest_module_reads_it_loses_only_its_bad_row():
    rows = [{"training_run_id": "a"}, None, "b", {"training_run_id": "c"}]

    page = TrainingRunPage.from_json({"training_runs": rows, "cursor": {"total_count": 4}})

    assert [row["training_run_id"] for row in page.rows] == ["a", "c"]
    assert page.total_count == 4
