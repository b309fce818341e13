"""What a monitor shows of its runs: snapshots, reprs and tables for notebooks."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from support.lives import two_generations
from support.world import RUN, weights

pytestmark = pytest.mark.usefixtures("no_environment")


def test_status_is_a_tuple_of_immutable_snapshots(world):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service, {"team": "a"})
    before = monitor.status()

    world.fake.advance(10)

    assert isinstance(before, tuple)
    assert (before[0].run_id, before[0].recoveries) == (RUN, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before[0].state = "healthy"
    (after,) = monitor.status()
    assert after == run.status() == monitor.status(run) == monitor.status(RUN)
    assert {field.name for field in dataclasses.fields(after)} == {
        "run_id",
        "root_id",
        "state",
        "generation",
        "last_poll",
        "last_error",
        "last_checkpoint",
        "next_attempt",
        "recoveries",
        "metadata",
    }


def test_the_status_of_a_run_that_backs_off_tells_when_and_why(world):
    world.corrupt()
    world.service.fail(ConnectionResetError("gone"))
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10)

    status, failed = run.status(), world.events.one("failed")
    assert (status.state, str(status.last_error)) == ("waiting", "gone")
    assert status.next_attempt == failed.time + timedelta(seconds=failed.retry_in)
    world.fake.advance(10)
    assert run.status().next_attempt is None


def test_the_status_of_an_unknown_run_is_a_key_error(world):
    with pytest.raises(KeyError, match="unknown"):
        world.monitor().status("unknown:train:0")


def test_a_notebook_shows_every_text_escaped(world):
    nasty = "<img src=x onerror='alert(1)'>"
    world.rest.fail(ValueError(nasty))
    monitor = world.monitor()
    run = monitor.monitor_run(nasty, world.service)
    world.fake.advance(10)

    for html in (monitor._repr_html_(), monitor.status()._repr_html_(), run._repr_html_()):
        assert "<img" not in html
        assert html.count("&lt;img") == 2
        assert "failing" in html


def test_a_notebook_shows_a_successor_with_where_it_came_from(world):
    _, run = two_generations(world)

    html = run._repr_html_()

    assert run.run_id in html
    assert f"from <code>{RUN}</code>" in html
    assert weights("000100") in html


def test_a_notebook_shows_the_first_hundred_of_many_runs(world):
    monitor = world.monitor()
    for number in range(103):
        monitor.monitor_run(f"{number:04d}:train:0", world.service)

    html = monitor._repr_html_()

    assert html.count("<code>") == 100
    assert "3 more" in html


def test_the_reprs_tell_where_things_stand(world):
    monitor = world.monitor(start=False)
    assert "not started" in repr(monitor)

    run = monitor.start().monitor_run(RUN, world.service)

    assert repr(monitor) == "<Monitor started, 1 runs>"
    assert repr(run) == f"<MonitoredRun {RUN} healthy generation 0>"
