"""Healthy runs that could not be restored: their owners learn of it in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.world import RUN, weights

from tinkex.runs.checkpoints import newest_checkpoint, unprotected_since
from tinkex.types import Checkpoint

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
WITHIN = 1800.0


def saved(name, *, time=None, expires_in=None, kind="weights"):
    return Checkpoint.from_json(
        {
            "tinker_path": f"tinker://{RUN}/{kind}/{name}",
            "time": time,
            "expires_at": None if expires_in is None else NOW + timedelta(seconds=expires_in),
        }
    )


@pytest.mark.parametrize(
    ("checkpoints", "newest"),
    [
        ([], None),
        ([saved("a")], "a"),
        ([saved("b", time=NOW), saved("a", time=NOW - timedelta(hours=1))], "b"),
        ([saved("a"), saved("b", time=NOW)], "b"),
        ([saved("s", time=NOW, kind="sampler_weights"), saved("a")], "a"),
        ([saved("s", time=NOW, kind="sampler_weights")], None),
    ],
)
def test_the_newest_checkpoint_is_the_training_one_saved_last(checkpoints, newest):
    found = newest_checkpoint(checkpoints)

    assert (found.checkpoint_id if found else None) == newest


@pytest.mark.parametrize(
    ("newest", "age", "since"),
    [
        (None, 0, None),
        (None, WITHIN - 1, None),
        (None, WITHIN, NOW - timedelta(seconds=WITHIN)),
        (saved("a"), WITHIN * 9, None),
        (saved("a", expires_in=WITHIN + 1), WITHIN * 9, None),
        (saved("a", expires_in=WITHIN), 0, NOW),
        (saved("a", expires_in=1), 0, NOW),
        (saved("a", expires_in=-60), 0, NOW - timedelta(seconds=60)),
    ],
)
def test_since_when_a_run_is_unprotected(newest, age, since):
    began = NOW - timedelta(seconds=age)

    assert unprotected_since(newest, began, age, NOW, WITHIN) == since


def test_a_run_that_goes_long_without_a_checkpoint_is_told_of_again_and_again(world):
    world.rest.set_run(RUN)
    began = world.monitor(poll_interval=100.0).monitor_run(RUN, world.service)
    registered = began.lineage[0].started_at

    world.fake.advance(1_700)
    assert world.events.names == []
    world.fake.advance(100)
    assert world.events.names == ["unprotected"]
    world.fake.advance(1_800)

    assert world.events.names == ["unprotected", "unprotected"]
    assert {event.run_id for event in world.events.of("unprotected")} == {RUN}
    assert [event.since for event in world.events.of("unprotected")] == [registered] * 2
    assert [event.checkpoint for event in world.events.of("unprotected")] == [None] * 2


def test_a_run_with_a_checkpoint_is_not_told_of(world):
    world.rest.set_run(RUN, last_checkpoint=weights("a"))
    world.monitor(poll_interval=100.0).monitor_run(RUN, world.service)

    world.fake.advance(10_000)

    assert world.events.names == []


def test_a_run_whose_last_checkpoint_expires_soon_is_told_of_with_it(world):
    run = world.monitor().monitor_run(RUN, world.service)
    soon = run.lineage[0].started_at + timedelta(seconds=600)
    world.rest.set_run(RUN, last_checkpoint={"tinker_path": weights("a"), "expires_at": soon})

    world.fake.advance(10)

    event = world.events.one("unprotected")
    assert event.checkpoint.tinker_path == weights("a")
    assert event.checkpoint.expires_at == soon
    assert event.since == event.time
