"""What a monitor shows of its runs: snapshots, reprs and tables for notebooks."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from support.lives import two_generations
from support.world import RUN, weights

from tinkex import RunState, RunStatus
from tinkex.errors import ApiStatusError

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
        "time",
        "run_id",
        "root_id",
        "state",
        "generation",
        "last_poll",
        "last_error",
        "last_checkpoint",
        "step",
        "saved_at",
        "next_attempt",
        "recoveries",
        "metadata",
    }


@pytest.mark.parametrize("metadata", [None, {"team": "a", "tags": ["b"]}])
def test_snapshots_are_copied_pickled_and_made_rows_of_a_data_frame(world, metadata):
    world.corrupt()
    monitor = world.monitor()
    run = monitor.monitor_run(RUN, world.service, metadata)
    world.fake.advance(10)
    detected = world.events.one("detected")

    for each in (run.status(), detected):
        assert copy.deepcopy(each) == pickle.loads(pickle.dumps(each)) == each
        assert dataclasses.asdict(each)["metadata"] == (metadata or {})
        with pytest.raises(TypeError):
            each.metadata["team"] = "b"
    assert copy.deepcopy(monitor.status()) == monitor.status()


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


def test_a_save_is_in_the_status_before_a_poll_tells_of_it(world):
    run = world.monitor().monitor_run(RUN, world.service)
    run.record_checkpoint(weights("000100"), step=100)
    saved_at = world.fake.now()
    world.fake.advance(240)

    status = run.status()

    assert status.last_checkpoint.tinker_path == weights("000100")
    assert status.step == 100
    assert (status.time - status.saved_at).total_seconds() == world.fake.now() - saved_at == 240


def test_the_newest_of_what_was_saved_here_and_what_a_poll_told_is_shown(world):
    run = world.monitor().monitor_run(RUN, world.service)
    run.record_checkpoint(weights("000200"), step=200)
    world.rest.set_run(RUN, last_checkpoint=weights("000200"))
    world.fake.advance(10)
    run.record_checkpoint(weights("000300"), step=300)

    assert run.status().last_checkpoint.tinker_path == weights("000300")


def test_after_a_recovery_the_checkpoint_it_came_from_is_shown_not_a_newer_one_that_is_broken(
    world,
):
    world.corrupt(RUN, "000100", "000200")
    world.service.fail(ApiStatusError.of(400, "does not load"))
    run = world.monitor().monitor_run(RUN, world.service)
    for name in ("000100", "000200"):
        run.record_checkpoint(weights(name), step=int(name))
    assert run.status().step == 200

    world.fake.advance(10)

    assert run.state == "healthy"
    assert run.status().last_checkpoint.tinker_path == weights("000100")
    assert run.status().step == 100


def test_two_snapshots_of_the_same_are_equal_at_different_times(world):
    run = world.monitor(start=False).monitor_run(RUN, world.service)
    before = run.status()
    world.fake.advance(5)

    assert run.status() == before
    assert (run.status().time - before.time).total_seconds() == 5


def test_a_snapshot_can_be_copied_and_replaced(world):
    _, run = two_generations(world)
    status = run.status()

    assert copy.copy(status) == status
    other = dataclasses.replace(status, state=RunState.HEALTHY, step=7)
    assert (other.step, other.last_checkpoint) == (7, status.last_checkpoint)


def test_a_notebook_shows_every_text_escaped(world):
    nasty = "<img src=x onerror='alert(1)'>"
    world.rest.fail(ValueError(nasty))
    monitor = world.monitor()
    run = monitor.monitor_run(nasty, world.service)
    world.fake.advance(10)

    for html in (monitor._repr_html_(), monitor.status()._repr_html_(), run._repr_html_()):
        assert "<img" not in html
        assert "&lt;img" in html
        assert "failing" in html


def test_a_notebook_shows_a_successor_with_where_it_came_from(world):
    _, run = two_generations(world)

    html = run._repr_html_()

    assert f'title="{run.run_id}, which began as {RUN}"' in html
    assert f'title="{weights("000100")}"' in html


def test_of_many_runs_a_hundred_are_shown_and_those_that_are_ill_first(world):
    monitor = world.monitor()
    for number in range(103):
        world.rest.set_run(f"{number:04d}:train:0")
        monitor.monitor_run(f"{number:04d}:train:0", world.service)
    world.rest.set_run("0102:train:0", corrupted=True)
    world.fake.advance(10)

    html, text = monitor._repr_html_(), repr(monitor.status())

    assert html.count("<tr") == 102
    assert "… and 3 more" in html
    assert "103 runs: 102 healthy, 1 exhausted" in html
    assert text.splitlines()[2].startswith("0102:train:0")


def test_the_reprs_tell_where_things_stand(world):
    monitor = world.monitor(start=False)
    assert repr(monitor) == "<Monitor not started, no runs>"

    run = monitor.start().monitor_run(RUN, world.service)

    assert repr(monitor) == "<Monitor started, 1 healthy>"
    clock = f"{run.status().time:%H:%M:%S}"
    assert repr(run) == f"<MonitoredRun {RUN} healthy, at {clock} UTC>"
    assert repr(run.status()) == f"<RunStatus {RUN} healthy, at {clock} UTC>"
    assert repr(monitor.status()).splitlines() == [
        f"1 run: 1 healthy; as of {clock} UTC",
        "run           state    recoveries",
        f"{RUN}  healthy  0",
    ]


def test_an_ill_run_catches_the_eye_and_a_healthy_one_does_not(world):
    run = world.monitor().monitor_run(RUN, world.service)
    calm = run._repr_html_()
    world.rest.fail(ConnectionResetError("gone"))
    world.fake.advance(10)

    assert "background-color:rgba" not in calm
    assert "background-color:rgba" in run._repr_html_()


def test_an_age_is_told_from_when_the_snapshot_was_taken(world):
    run = world.monitor().monitor_run(RUN, world.service)
    run.record_checkpoint(weights("000100"), step=100)
    world.fake.advance(240)

    shown = run._repr_html_()

    assert "000100 (step 100)" in shown
    assert "4 min ago" in shown


@pytest.mark.parametrize("state", RunState)
def test_a_table_shows_a_run_in_any_state(state):
    shown = RunStatus(
        time=datetime(2026, 1, 2, tzinfo=UTC),
        step=None,
        saved_at=None,
        run_id=RUN,
        root_id=RUN,
        state=state,
        generation=0,
        last_poll=None,
        last_error=None,
        last_checkpoint=None,
        next_attempt=None,
        recoveries=0,
        metadata={},
    )

    assert f"{state.value}<" in shown._repr_html_()
