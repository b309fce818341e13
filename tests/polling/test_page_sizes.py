"""How many rows are asked for in a page: as many as an account's server gives."""

from __future__ import annotations

import pytest
from support.sites import Site, assert_all_are_polled, assert_each_is_recovered, ids, sweep, watch

from tinkex.errors import ApiResponseError, ApiStatusError, ApiTimeoutError
from tinkex.polling.detection import Detection


class Strict(Site):
    """Refuses pages of more than `most` rows, or of `bad` sizes, with `error`."""

    def __init__(self, *args, most=500, error=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.most = most
        self.error = error or ApiStatusError.of(422)

    def list_training_runs(self, config, *, limit, offset):
        if limit > self.most:
            self.lists.append((offset, limit))
            raise self.error
        return super().list_training_runs(config, limit=limit, offset=offset)


def asked_in_a_sweep(world, site):
    sweep(world, site)
    return site.lists


def test_large_pages_are_asked_for_where_the_server_gives_them(world):
    site = Site(ids(1200))
    monitor, runs = watch(world, site, ids(1200))

    assert asked_in_a_sweep(world, site) == [(0, 500), (500, 500), (1000, 500)]
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[::599])


def test_no_more_rows_are_asked_for_than_runs_are_looked_for(world):
    site = Site(ids(3000))
    watch(world, site, ids(80))

    assert asked_in_a_sweep(world, site) == [(0, 100)]


@pytest.mark.parametrize(
    "error",
    [ApiStatusError.of(422), ApiStatusError.of(400), ApiResponseError("an answer of 20 MB")],
    ids=["422", "400", "too large"],
)
@pytest.mark.parametrize(("most", "size", "tries"), [(499, 250, 1), (250, 250, 1), (100, 100, 2)])
def test_a_size_that_is_refused_is_made_smaller_in_the_same_sweep(world, error, most, size, tries):
    site = Strict(ids(1000), most=most, error=error)
    monitor, runs = watch(world, site, ids(1000))

    first = sweep(world, site)
    later = asked_in_a_sweep(world, site)

    assert first == tries + 1000 // size
    assert later == [(offset, size) for offset in range(0, 1000, size)]
    assert site.gets.total() == 0
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[::499])


def test_a_page_counts_once_though_its_failure_could_not_be_dealt_with(world, monkeypatch):
    site = Strict(ids(1000), most=250)
    monitor, _ = watch(world, site, ids(1000))
    all_failed, errors = Detection.all_failed, [ValueError("once")]

    def fails_once(*args):
        if errors:
            raise errors.pop()
        all_failed(*args)

    monkeypatch.setattr(Detection, "all_failed", fails_once)

    sweep(world, site)
    sweep(world, site)

    assert_all_are_polled(world, site, monitor)


@pytest.mark.parametrize("cap", [100, 120, 333])
def test_a_server_that_gives_fewer_rows_has_the_rest_asked_for(world, cap):
    site = Site(ids(1000), cap=cap)
    monitor, runs = watch(world, site, ids(1000))

    first = sweep(world, site)
    second = sweep(world, site)

    pages = -(-1000 // cap)
    assert second == pages
    assert first <= pages + 6
    assert site.gets.total() == 0
    assert {limit for _, limit in site.lists} == {cap}
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[::333])


def test_a_page_too_slow_for_its_bound_is_asked_for_with_fewer_rows(world):
    site = Strict(ids(1000), most=100, error=ApiTimeoutError("slow"))
    monitor, _ = watch(world, site, ids(1000))

    sweep(world, site, 4)
    asked = asked_in_a_sweep(world, site)

    assert {limit for _, limit in asked} == {100}
    assert len(asked) == 10
    assert_all_are_polled(world, site, monitor)


def test_a_size_is_learnt_anew_after_an_hour(world):
    site = Site(ids(1000), cap=100)
    watch(world, site, ids(1000))
    assert sweep(world, site, 2) == 10
    site.cap = 500

    world.fake.advance(3700.0)

    assert sweep(world, site) == 2


def test_a_server_that_gives_fewer_rows_in_the_middle_of_a_sweep_loses_none(world):
    site = Site(ids(2000))
    monitor, runs = watch(world, site, ids(2000))
    sweep(world, site)

    def shrink(rows, offset):
        site.cap = 200
        return rows

    site.page = shrink
    sweep(world, site)

    assert site.gets.total() == 0
    assert_all_are_polled(world, site, monitor)
    assert_each_is_recovered(world, site, runs[::777])


@pytest.mark.parametrize(
    "error",
    [ApiStatusError.of(413), ApiStatusError.of(414), ApiStatusError.of(500), ValueError("<= 100")],
    ids=["413", "414", "500", "a module's own"],
)
def test_a_size_refused_in_another_way_is_tried_once_with_fewer_rows(world, error):
    site = Strict(ids(1000), most=100, error=error)
    monitor, _ = watch(world, site, ids(1000))

    first = sweep(world, site)

    assert first <= 12
    assert len(asked_in_a_sweep(world, site)) == 10
    assert site.gets.total() == 0
    assert_all_are_polled(world, site, monitor)


def test_one_short_page_does_not_make_all_later_ones_short(world):
    site = Site(ids(3000))
    monitor, _ = watch(world, site, ids(3000))
    sweep(world, site)

    site.page = lambda rows, offset: rows[:1] if offset == 0 else rows
    once = sweep(world, site)
    site.page = lambda rows, offset: rows
    later = sweep(world, site)

    assert (once, later) == (7, 6)
    assert_all_are_polled(world, site, monitor)


@pytest.mark.parametrize("place", [0, 499])
def test_a_row_that_is_none_costs_two_requests_a_sweep(world, place):
    def spoil(rows, offset):
        return [None if offset == 0 and i == place else row for i, row in enumerate(rows)]

    class AsJson(Site):
        def list_training_runs(self, config, *, limit, offset):
            page = super().list_training_runs(config, limit=limit, offset=offset)
            cursor = {"total_count": page.total_count}
            return {"training_runs": page.training_runs, "cursor": cursor}

    site = AsJson(ids(3000), page=spoil)
    monitor, _ = watch(world, site, ids(3000))

    counts = [sweep(world, site) for _ in range(10)]

    assert counts == [8] * 10
    assert {status.state for status in monitor.status()} == {"healthy"}
