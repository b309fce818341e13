"""Lineages are found in the account's list of runs, which is read until it is whole."""

from __future__ import annotations

import random

import pytest
from support.lineages import SECOND, THIRD, Account, carried, saved
from support.sites import Site
from support.world import RUN, weights

from tinkex.errors import ApiResponseError, ApiStatusError
from tinkex.lineage.lineages import lineage_named, lineage_of, list_all
from tinkex.ports import RestPort


def lineage(site, run_id=RUN):
    return lineage_of(RestPort(site), None, run_id)


def test_of_two_equal_generations_the_smaller_run_id_counts():
    site = Account()
    site.listed.append("1111:train:0")
    site.rows["1111:train:0"] = {
        "user_metadata": carried(SECOND, weights("000020", SECOND)),
        "last_checkpoint": saved("1111:train:0", "x", 25),
    }

    assert lineage(site).newest.training_run_id == "1111:train:0"


@pytest.mark.parametrize("last", ["0000:train:0", "ffff:train:0"])
def test_of_two_lineages_begun_under_one_name_the_same_one_counts_after_each_restart(last):
    site = Account()
    runs = {"bbbb:train:0": ("one", 0), "cccc:train:0": ("other", 0), last: ("one", 1)}
    for run_id, (root, number) in runs.items():
        made = {"tinkex_name": "a", "tinkex_root": root, "tinkex_generation": str(number)}
        site.listed.append(run_id)
        site.rows[run_id] = {"user_metadata": made, "last_checkpoint": saved(run_id, "x", 5)}

    assert lineage_named(RestPort(site), None, "a").newest.training_run_id == last


@pytest.mark.parametrize("seed", range(10))
def test_rows_that_move_while_the_list_is_read_are_all_found(seed):
    chance = random.Random(seed)

    def order(listed):
        # A run that was asked for something comes first, as real servers have it.
        listed.insert(0, listed.pop(chance.randrange(len(listed))))
        return listed

    site = Account(others=350, cap=100, order=order)

    assert set(list_all(RestPort(site), None)) == set(site.listed)


@pytest.mark.parametrize(("runs", "most"), [(97, 1), (9_997, 100)], ids=["100 runs", "10,000 runs"])
def test_a_list_that_stands_still_is_read_once(runs, most):
    site = Account(others=runs, cap=100)

    assert lineage(site).newest.training_run_id == THIRD
    assert len(site.lists) == most


def test_a_list_that_is_cut_short_is_an_error_and_not_an_account_without_the_run():
    site = Account(page=lambda rows, offset: rows[:7] if offset == 0 else [])

    with pytest.raises(ApiResponseError, match="7 of 43 runs"):
        lineage(site)


def test_a_list_without_a_total_is_read_to_its_end():
    site = Account(others=250, cap=100, total=None)

    assert len(list_all(RestPort(site), None)) == 253


def test_without_a_total_rows_that_move_while_it_is_read_are_found():
    def order(listed):
        # The last of the second page is asked for something after the first one was read.
        if len(site.lists) == 2:
            listed.insert(0, listed.pop(150))
        return listed

    site = Account(others=250, cap=100, total=None, order=order)

    assert set(list_all(RestPort(site), None)) == set(site.listed)


def test_a_server_that_sends_the_same_page_again_is_not_asked_for_ever():
    site = Account(others=250, cap=100, total=None, page=lambda rows, offset: rows)
    site.list_training_runs = lambda config, limit, offset: Site.list_training_runs(
        site, config, limit=limit, offset=0
    )

    assert len(list_all(RestPort(site), None)) == 100


def test_a_run_that_claims_to_come_from_itself_is_read_all_the_same():
    site = Account()
    site.rows[SECOND]["user_metadata"]["tinkex_recovered_from"] = THIRD

    assert lineage(site).newest.training_run_id in (SECOND, THIRD)


def test_where_a_server_gives_many_rows_few_pages_are_read():
    site = Account(others=9_997, cap=500)

    assert len(list_all(RestPort(site), None)) == 10_000
    assert len(site.lists) == 20


@pytest.mark.parametrize("status", [400, 413, 414, 422])
def test_where_a_server_refuses_many_rows_fewer_are_asked_for(status):
    site = Account(others=247)
    answer = site.list_training_runs

    def refusing(config, *, limit, offset):
        if limit > 100:
            raise ApiStatusError.of(status)
        return answer(config, limit=limit, offset=offset)

    site.list_training_runs = refusing

    assert len(list_all(RestPort(site), None)) == 250
    assert [limit for _, limit in site.lists] == [100, 100, 100]
