"""Nothing that others hand in or answer leaves a run, an incident or a sweep half-way."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from types import SimpleNamespace

import pytest
from support.sites import EVERY, Site, Tenant, account_of, ids
from support.world import OTHER, RUN, weights

from tinkex import RecoveryExecutor
from tinkex.errors import ApiPermissionError, ApiStatusError, ResumePointUnknownError
from tinkex.testing import FakeServiceClient, InlineExecutor


class OddExecutor(Executor):
    """Returns what no executor should."""

    def __init__(self, made):
        self.made = made

    def submit(self, function, /, *args, **kwargs):
        return self.made()


def foreign():
    future = Future()
    future.set_result(42)
    return future


@pytest.mark.parametrize("made", [lambda: None, foreign], ids=["no future", "a foreign result"])
def test_an_executor_that_keeps_no_promise_ends_in_exhausted(world, made):
    run = world.monitor(OddExecutor(made)).monitor_run(RUN, world.service)
    world.corrupt()

    world.fake.advance(100)

    assert run.state == "exhausted"
    assert world.events.names[-1] == "exhausted"


def test_a_config_that_is_not_ours_does_as_well(world):
    options = {"rest_client_fun": lambda service: SimpleNamespace(config="mine")}
    run = world.monitor(options=options).monitor_run(RUN, world.service)
    world.service.fail(RuntimeError("once"))
    world.corrupt()

    world.fake.advance(30)

    assert run.state == "healthy"
    assert len(run.lineage) == 2


@pytest.mark.parametrize("asked", [1e8, float("inf"), 1e300])
def test_no_server_can_ask_for_patience_without_end(world, asked):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)
    world.rest.fail(ApiStatusError.of(429, retry_after=asked))

    world.fake.advance(10)
    world.corrupt()
    world.fake.advance(320)

    assert len(run.lineage) == 2


@pytest.mark.parametrize("bad", [{"time": "not a time"}, {"size_bytes": "12"}])
def test_a_checkpoint_that_does_not_fit_costs_neither_status_nor_recovery(world, bad):
    site = Site(ids(9))
    tenant = Tenant(world.service)
    options = {"rest_module": site, "rest_client_fun": account_of}
    monitor = world.monitor(options=options)
    runs = [monitor.monitor_run(run_id, tenant) for run_id in site.listed]
    hit = site.listed[4]
    row = {"tinker_path": weights("c1", hit), "time": "2026-01-01T00:00:00Z", **bad}
    site.rows[hit]["last_checkpoint"] = row

    world.fake.advance(EVERY)

    assert [status.state for status in monitor.status()] == ["healthy"] * 9
    site.rows[hit].clear()
    site.corrupted.add(hit)
    world.fake.advance(EVERY)
    assert len(runs[4].lineage) == 2


def test_a_blocked_account_begins_no_recovery_that_comes_later(world):
    run = world.monitor().monitor_run(RUN, world.service)
    world.rest.set_run(RUN, last_checkpoint=weights("c1"))
    world.rest.fail(ApiStatusError.of(402), times=3)
    world.fake.advance(10)
    world.service.fail(ConnectionError("while blocked"), times=1)

    run.recover()

    assert world.service.created == []
    assert "started" not in world.events.names
    world.fake.advance(100)
    assert world.events.names.count("paused") == world.events.names.count("resumed") == 1


def test_a_monitor_that_stops_while_paused_leaves_no_run_waiting(world):
    executor = RecoveryExecutor(InlineExecutor())
    first, second = FakeServiceClient(), FakeServiceClient()
    stopped = world.monitor(executor)
    stopped.monitor_run(RUN, first)
    world.corrupt()
    first.fail(ApiPermissionError(403))
    world.fake.advance(10)
    stopped.stop()

    run = world.monitor(executor).monitor_run(OTHER, second)
    world.corrupt(OTHER)
    world.fake.advance(10)

    assert len(run.lineage) == 2


def test_a_monitor_that_a_receiver_stops_blocks_no_other_on_the_same_executor(world):
    executor = RecoveryExecutor(InlineExecutor())
    first, second = world.monitor(executor), world.monitor(executor)
    first.monitor_run(RUN, world.service)
    from tinkex import signals

    with signals.subscribe(lambda sender, event: first.stop(), "detected", sender=first):
        world.corrupt()
        world.fake.advance(10)
    run = second.monitor_run(RUN, world.service)
    world.fake.advance(10)

    assert len(run.lineage) == 2


@pytest.mark.parametrize("is_told", [True, False], ids=["the server tells", "nobody tells"])
def test_the_step_of_a_save_whose_answer_is_lost_is_what_the_server_tells(world, is_told):
    world.rest.set_run(RUN)
    from tinkex.testing import FakeTrainingClient

    client = FakeTrainingClient(RUN)
    client.save_state = lambda name: _lost()
    run = world.monitor().monitor_run(RUN, world.service, client=client)
    run.record_checkpoint(weights("000010"), step=10)
    resumes = []

    def go():
        for segment in run.segments():
            with segment:
                resumes.append(segment.resume)
                if segment.resume is None:
                    # The name is saved again: at which step is what the lost answer would tell.
                    saved = {"tinker_path": weights("000010")}
                    if is_told:
                        saved["user_metadata"] = {"tinkex_step": "12"}
                    world.rest.set_run(RUN, corrupted=True, last_checkpoint=saved)
                    segment.save_state("000010", step=12)

    if is_told:
        go()
        assert resumes[1].step == 12
    else:
        with pytest.raises(ResumePointUnknownError, match="000010"):
            go()


def _lost():
    future = Future()
    future.set_exception(ValueError("the connection broke"))
    return future


def test_runs_that_failed_loads_leave_behind_are_listed_with_their_generation(world):
    site = Site([RUN])
    tenant = Tenant(world.service)
    options = {"rest_module": site, "rest_client_fun": account_of}
    run = world.monitor(options=options).monitor_run(RUN, tenant)
    site.rows[RUN]["last_checkpoint"] = {"tinker_path": weights("c1")}
    site.corrupted.add(RUN)
    site.listed.append("left:train:1")
    site.rows["left:train:1"]["user_metadata"] = {"tinkex_recovered_from": RUN}
    world.service.fail(RuntimeError("a failed load"))

    world.fake.advance(60)

    assert [generation.orphans for generation in run.lineage] == [("left:train:1",), ()]
