"""A server that goes down while a run is trained may come back with an older state of it."""

from __future__ import annotations

import logging

import pytest
from support.outages import Listener, Site, heard
from support.recorder import PATIENCE
from support.world import RUN, weights


def test_what_was_trained_since_the_save_is_trained_again(bench, listener):
    site, trained = Site(bench, listener), []
    for segment in site.run.segments():
        with segment:
            for step in segment.steps(4):
                segment.client.optim_step().result()
                trained.append(step)
                if step == 1:
                    segment.save_state("at-2", step=2)
                if step == 2 and len(trained) == 3:
                    site.go_down()
                    site.come_back()

    assert trained == [0, 1, 2, 2, 3]
    assert site.service.created == [(weights("at-2"), True)]
    assert site.run.lineage[0].cause == "rolled_back"
    bench.told.wait_for("completed", RUN)
    names = [name for name in bench.told.names_of(RUN) if name != "poll_error"]
    assert names == ["detected", "started", "checkpoint_selected", "client_created", "completed"]


@pytest.mark.parametrize(
    ("options", "saves", "told"),
    [
        ({"on_doubt": "warn"}, True, "on_doubt='warn'"),
        ({}, False, "no checkpoint has a step"),
    ],
    ids=["the policy says so", "there is nothing to go back to"],
)
def test_a_run_that_is_not_restored_is_warned_of(bench, listener, caplog, options, saves, told):
    caplog.set_level(logging.WARNING, "tinkex")
    site = Site(bench, listener, **options)
    with next(site.run.segments()) as segment:
        segment.client.optim_step().result()
        if saves:
            segment.save_state("a", step=0)
        segment.client.optim_step().result()
        site.go_down()
        site.come_back()
        segment.client.optim_step().result()

    assert any(told in record.getMessage() for record in caplog.records)
    assert site.service.created == []
    assert site.run.state == "healthy"


def test_a_connection_that_is_closed_and_accepted_again_means_nothing(bench):
    listener = Listener(closes=True)
    try:
        site = Site(bench, listener)
        with next(site.run.segments()) as segment:
            segment.save_state("a", step=0)
            segment.client.optim_step().result()
            listener.wait_for_connections(2)
            segment.client.optim_step().result()
    finally:
        listener.stop()

    assert site.service.created == []


def test_a_run_to_which_nothing_was_submitted_has_nothing_to_lose(bench, listener):
    site = Site(bench, listener)

    with next(site.run.segments()) as segment:
        segment.save_state("a", step=0)
        site.go_down()
        site.come_back()

        segment.client.optim_step().result()

    assert site.service.created == []


def test_one_thread_looks_at_a_server(bench, listener):
    site = Site(bench, listener)

    for _ in range(3):
        with next(site.run.segments()):
            looking = [each for each in bench.threads() if each.name == "tinkex-outage"]

    assert len(looking) == 1


def test_an_outage_between_two_loops_is_not_forgotten(bench, listener):
    site = Site(bench, listener)
    with next(site.run.segments()) as segment:
        segment.client.optim_step().result()
        segment.save_state("a", step=1)
    with heard("it is restored") as settled:
        site.go_down()
        site.come_back()
        assert settled.wait(PATIENCE)

    with next(site.run.segments()) as segment:
        assert segment.start_step == 1

    assert site.service.created == [(weights("a"), True)]


def test_stopping_the_monitor_ends_the_thread_that_looks(bench, listener):
    site = Site(bench, listener)
    segment = next(site.run.segments())

    with segment:
        listener.wait_for_connections()
        site.monitor.stop()

        assert [each for each in bench.threads() if each.name == "tinkex-outage"] == []
