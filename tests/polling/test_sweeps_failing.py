"""Sweeps that meet trouble: pages that fail, servers that ask for patience, several accounts."""

from __future__ import annotations

import pytest
from support.sites import (
    EVERY,
    Site,
    Tenant,
    assert_all_are_polled,
    assert_each_is_recovered,
    ids,
    refuses,
    sweep,
    watch,
)
from support.world import ManualExecutor

from tinkex.errors import ApiConnectionError, ApiStatusError, ApiTimeoutError
from tinkex.testing import FakeServiceClient


def fails_at(offset, error):
    """A page that cannot be had; the others can."""

    def page(rows, at):
        if at == offset:
            raise error
        return rows

    return page


TROUBLE = [
    ApiStatusError.of(500),
    ApiTimeoutError("slow"),
    ApiConnectionError("cut"),
    KeyError("bug"),
]


@pytest.mark.parametrize("error", TROUBLE, ids=repr)
def test_a_page_that_always_fails_hides_no_run_and_has_none_fail(world, error):
    site = Site(ids(300), page=fails_at(100, error))
    monitor, runs = watch(world, site, ids(300))

    sweep(world, site)

    assert_all_are_polled(world, site, monitor, sweeps=6)
    assert_each_is_recovered(world, site, [runs[5], runs[150], runs[295]])


@pytest.mark.parametrize("error", TROUBLE, ids=repr)
def test_a_list_that_always_fails_does_not_leave_the_monitor_blind(world, error):
    site = Site(ids(50), page=refuses(error))
    _, runs = watch(world, site, ids(50))
    sweep(world, site, 4)

    site.corrupted.add(runs[20].run_id)
    world.fake.advance(2 * EVERY)

    assert runs[20].status().recoveries == 1
    assert [run.run_id for run in runs if run.state == "missing"] == []


@pytest.mark.parametrize(
    "error",
    [ApiConnectionError("refused"), ApiStatusError.of(401), ApiStatusError.of(429)],
    ids=repr,
)
def test_an_account_that_cannot_be_reached_at_all_is_not_asked_run_by_run(world, error):
    site = Site(ids(300), page=refuses(error))
    _, runs = watch(world, site, ids(300))

    assert sweep(world, site) == 1
    assert {run.state for run in runs} == {"failing"}
    assert len(world.events.of("poll_error")) == 300


def test_runs_are_healthy_again_with_the_first_page_that_comes(world):
    site = Site(ids(300), page=refuses(ApiConnectionError("refused")))
    site.get_errors = dict.fromkeys(ids(300), ApiConnectionError("refused"))
    monitor, _ = watch(world, site, ids(300))
    sweep(world, site, 5)
    site.get_errors.clear()
    site.page = lambda rows, offset: rows

    sweep(world, site, 2)
    world.events.clear()

    assert_all_are_polled(world, site, monitor)
    assert sweep(world, site) == 1


# Patience


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("listing", [True, False], ids=["page", "run"])
def test_a_server_that_asks_for_patience_is_left_alone_for_as_long(world, status, listing):
    patience = ApiStatusError.of(status, retry_after=60.0)
    count = 50 if listing else 1
    site = Site(ids(count))
    monitor, _ = watch(world, site, ids(count))
    if listing:
        site.page = refuses(patience)
    else:
        site.get_errors = {ids(1)[0]: patience}
    asked = sweep(world, site)
    site.page, site.get_errors = (lambda rows, offset: rows), {}

    during = [sweep(world, site) for _ in range(5)]
    after = sum(sweep(world, site) for _ in range(2))

    assert asked == 1
    assert during == [0] * 5
    assert after > 0
    assert {status.state for status in monitor.status()} == {"healthy"}


def test_patience_with_one_account_costs_the_others_nothing(world):
    slow, quick = Tenant(world.service, "slow"), Tenant(world.service, "quick")
    site = Site(ids(2))
    monitor, _ = watch(world, site, ids(2)[:1], tenant=slow)
    watch(world, site, ids(2)[1:], tenant=quick, monitor=monitor)
    site.get_errors = {ids(2)[0]: ApiStatusError.of(429, retry_after=60.0)}
    sweep(world, site)
    site.get_errors.clear()

    asked = []
    for _ in range(5):
        sweep(world, site)
        asked.append((site.accounts[slow.config], site.accounts[quick.config]))

    assert asked == [(0, 1)] * 5


def test_the_rest_of_a_sweep_leaves_an_account_alone_that_asked_for_patience(world):
    site = Site(ids(1000))
    _, runs = watch(world, site, ids(1000)[::120])
    sweep(world, site, 2)
    site.get_errors = dict.fromkeys(ids(1000), ApiStatusError.of(429, retry_after=60.0))

    assert sweep(world, site) == 1
    assert [run.state for run in runs].count("failing") == 1
    assert [run.state for run in runs].count("healthy") == 8


# Several accounts


def test_each_account_has_its_own_list_and_its_own_key(world):
    big, small = Tenant(world.service, "big"), Tenant(world.service, "small")
    site = Site(ids(300))
    monitor, _ = watch(world, site, ids(300)[:297], tenant=big)
    watch(world, site, ids(300)[297:], tenant=small, monitor=monitor)

    sweep(world, site, 2)

    assert site.accounts[big.config] == 1
    assert 0 < site.accounts[small.config] <= 3
    assert_all_are_polled(world, site, monitor)


def test_an_account_whose_list_is_refused_does_not_change_how_another_is_asked(world):
    old, new = Tenant(world.service, "old"), Tenant(world.service, "new")

    class TwoServers(Site):
        def list_training_runs(self, config, *, limit, offset):
            page = super().list_training_runs(config, limit=limit, offset=offset)
            if config == old.config:
                raise ApiStatusError.of(404)
            return page

    site = TwoServers(ids(300))
    monitor, _ = watch(world, site, ids(300)[:150], tenant=old)
    watch(world, site, ids(300)[150:], tenant=new, monitor=monitor)

    sweep(world, site, 2)

    assert site.accounts[old.config] == 150
    assert site.accounts[new.config] <= 3
    assert_all_are_polled(world, site, monitor)


# Which runs count


def test_exhausted_and_pending_runs_are_not_asked_for(world):
    site = Site(ids(6))
    site.corrupted = {ids(6)[0], ids(6)[1]}
    executor = ManualExecutor()
    runs = watch_with(world, site, executor)
    sweep(world, site)
    world.service.fail(ApiStatusError.of(400), times=9)
    executor.run_next()

    sweep(world, site, 3)

    assert [run.state for run in runs[:3]] == ["exhausted", "recovering", "healthy"]
    assert world.events.of("swept")[-1].runs == 4
    assert ids(6)[0] not in site.gets
    assert ids(6)[1] not in site.gets


def watch_with(world, site, executor):
    monitor = world.monitor(
        executor,
        options={"rest_module": site, "rest_client_fun": lambda service: service},
        poll_interval=EVERY,
        fallback_checkpoints=0,
    )
    tenant = Tenant(world.service)
    return [monitor.monitor_run(run_id, tenant) for run_id in ids(6)]


def test_rows_of_generations_before_say_nothing_of_the_live_ones(world):
    site = Site(ids(100))
    monitor, runs = watch(world, site, ids(100))
    sweep(world, site)
    site.corrupted = set(ids(100)[:10])
    sweep(world, site)
    successors = [run.run_id for run in runs[:10]]
    site.listed += successors

    sweep(world, site, 5)

    assert [run.run_id for run in runs[:10]] == successors
    assert len(world.events.of("detected")) == 10
    assert {status.state for status in monitor.status()} == {"healthy"}
    assert site.requests <= 3


def test_a_missing_run_is_not_looked_for_page_after_page(world):
    site = Site(ids(300))
    _, runs = watch(world, site, ids(300))
    site.listed = site.listed[:-1]

    sweep(world, site, 20)

    assert runs[-1].state == "missing"
    assert {run.state for run in runs[:-1]} == {"healthy"}
    assert sum(sweep(world, site) for _ in range(10)) <= 10 * 4


# One sweep at a time


def test_a_sweep_that_is_asked_for_during_a_sweep_is_skipped(world):
    class Impatient(Site):
        def get_training_run(self, config, run_id):
            monitor.poll_now()
            return super().get_training_run(config, run_id)

        def list_training_runs(self, config, *, limit, offset):
            monitor.poll_now()
            return super().list_training_runs(config, limit=limit, offset=offset)

    site = Impatient(ids(150), hidden=ids(150)[:3])
    monitor, _ = watch(world, site, ids(150))

    requests = [sweep(world, site) for _ in range(3)]

    assert all(count <= 5 for count in requests)
    assert len(world.events.of("swept")) == 3


def test_a_refused_account_is_asked_few_times_a_sweep_however_many_runs_it_has(world):
    refused = ApiStatusError.of(402)
    site = Site(ids(300), page=refuses(refused))
    site.get_errors = dict.fromkeys(ids(300), refused)
    _, runs = watch(world, site, ids(300))

    assert [sweep(world, site) for _ in range(6)] == [1, 8] * 3
    assert {run.state for run in runs} == {"failing"}


def test_a_run_and_a_list_that_are_refused_hide_no_other_run(world):
    refused = ApiStatusError.of(403)
    site = Site(ids(300), page=refuses(refused))
    site.get_errors = {ids(1)[0]: refused}
    _, runs = watch(world, site, ids(300))
    sweep(world, site, 4)

    site.corrupted.add(runs[299].run_id)
    world.fake.advance(2 * EVERY)

    assert runs[299].status().recoveries == 1


@pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_error_whose_text_exits_costs_its_run_alone(bench, exit_):
    class OddError(Exception):
        def __str__(self):
            raise exit_

    class OddServer(type(bench.server)):
        def get_training_run(self, config, run_id):
            answer = super().get_training_run(config, run_id)
            if run_id.startswith("odd"):
                raise OddError
            return answer

    server = OddServer()
    monitor = bench.monitor(rest_module=server)
    odd = monitor.monitor_run("odd:train:0", FakeServiceClient())
    monitor.monitor_run("well:train:0", FakeServiceClient())

    bench.told.wait_for("poll_error", "odd:train:0")
    server.wait_for_more_polls("well:train:0", 3)

    # Where others of the account are found, it is this run that is not.
    assert odd.state in ("failing", "missing")
    assert type(odd.status().last_error).__name__ == "ServiceError"
