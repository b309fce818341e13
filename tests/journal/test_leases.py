"""One owner of a journal's lineage: others follow, and whoever lost it is fenced."""

from __future__ import annotations

import sqlite3

import pytest
from support.journals import change
from support.world import RUN, weights

from tinkex.errors import RunHeldError, SegmentSupersededError
from tinkex.journal.owning.owners import this_process
from tinkex.testing import FakeRest, FakeTrainingClient

NEXT = "5e11:train:0"


def add_owner(path, *process):
    """Another process has entered the journal; by default one of another machine."""
    values = ("other", *(process or ("far", "boot", 7, "1")))
    change(path, "INSERT INTO owner VALUES (?, ?, ?, ?, ?, 0, 0)", *values)


def take(path, root_id=RUN):
    """The other process takes a lineage, as one that holds this one's for dead."""
    change(path, "UPDATE owner SET lost = lost + 1 WHERE owner_id != 'other'")
    take = "UPDATE lease SET owner_id = 'other', epoch = epoch + 1 WHERE root_id = ?"
    change(path, take, root_id)


def go_on(path, run_id=NEXT):
    """It goes on with another run."""
    change(path, "INSERT INTO generation VALUES (?, 1, ?, NULL, '{}')", RUN, run_id)


def test_a_run_that_another_process_holds_is_followed(world, path, life):
    life().stop()
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    add_owner(path)
    monitor = life()
    run = monitor.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))

    world.fake.advance(10)
    assert run.state == "following"
    assert run.status().last_poll is not None
    world.corrupt()
    world.fake.advance(10)
    assert world.service.created == []
    for refused in (run.recover, lambda: next(run.segments()), lambda: run.wait(1)):
        with pytest.raises(RunHeldError, match="process 7 of far"):
            refused()
    monitor.stop()


def test_it_is_taken_over_when_its_owner_tells_no_more_that_it_lives(world, path, life):
    life().stop()
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    add_owner(path)
    monitor = life()
    run = monitor.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    for beat in range(1, 4):
        change(path, "UPDATE owner SET beat = ? WHERE owner_id = 'other'", beat)
        world.fake.advance(20)
        assert run.state == "following"
    world.fake.advance(45)

    assert run.state == "healthy"
    world.corrupt()
    world.fake.advance(10)
    assert len(world.service.created) == 1
    monitor.stop()


def test_an_owner_of_this_machine_that_has_ended_is_followed_by_nobody(world, path, life):
    life().stop()
    this = this_process()
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    add_owner(path, this.host, this.boot, 2**22 + 1, "1")
    monitor = life()
    run = monitor.monitor_run(RUN, world.service)

    assert run.state == "healthy"
    monitor.stop()


def test_who_was_taken_for_dead_is_fenced_at_the_next_beat(world, path, life):
    monitor = life()
    run = monitor.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    segment = next(run.segments())
    with segment:
        add_owner(path)
        take(path)
        go_on(path)
        world.fake.advance(10)
        with pytest.raises(SegmentSupersededError):
            segment.client.forward_backward([1])

    assert world.events.names == ["fenced"]
    event = world.events.of("fenced")[0]
    assert (event.successor_id, event.owner) == (NEXT, "process 7 of far")
    assert run.state == "following"
    monitor.stop()


def test_it_saves_nothing_more(world, path, life):
    monitor = life()
    client = FakeTrainingClient(RUN)
    run = monitor.monitor_run(RUN, world.service, client=client)
    segment = next(run.segments())
    with segment:
        add_owner(path)
        take(path)
        with pytest.raises(SegmentSupersededError):
            segment.save_state("000001", step=0)
    assert client.calls == []
    assert world.events.names == ["fenced"]
    monitor.stop()


def test_it_makes_nothing_more(world, path, life):
    monitor = life()
    run = monitor.monitor_run(RUN, world.service)
    add_owner(path)
    take(path)
    world.corrupt()
    monitor.poll_now()

    assert world.service.created == []
    assert run.state == "following"
    assert "fenced" in world.events.names
    assert "completed" not in world.events.names
    monitor.stop()


def test_what_it_was_just_making_is_given_up(world, path, life):
    monitor = life()
    run = monitor.monitor_run(RUN, world.service)
    make = world.service.create_training_client_from_state_with_optimizer

    def made(*args, **kwargs):
        add_owner(path)
        take(path)
        go_on(path)
        return make(*args, **kwargs)

    world.service.create_training_client_from_state_with_optimizer = made
    world.corrupt()
    monitor.poll_now()

    assert len(world.service.created) == 1
    assert run.state == "following"
    assert "completed" not in world.events.names
    assert run.client is None
    assert run.lineage[0].orphans == (world.service.clients[0].model_id,)
    monitor.stop()


def test_the_lease_is_given_back_when_the_monitor_stops(world, path, life):
    monitor = life()
    monitor.monitor_run(RUN, world.service)
    monitor.stop()

    db = sqlite3.connect(path)
    assert db.execute("SELECT owner_id, epoch FROM lease").fetchall() == [(None, 1)]
    db.close()


def test_an_earlier_run_of_a_lineage_is_followed(world, path, life):
    first = life()
    run = first.monitor_run(RUN, world.service)
    world.corrupt()
    world.fake.advance(10)
    successor = run.run_id
    first.stop()

    second = life()
    run = second.monitor_run(RUN, world.service)
    assert run.state == "following"
    with pytest.raises(RunHeldError, match=successor):
        run.recover()
    second.stop()


def test_two_monitors_of_a_process_that_know_nothing_of_each_other_make_one_successor(world, life):
    first = life()
    run = first.monitor_run(RUN, world.service)
    world.rest.set_run(RUN, last_checkpoint=weights("000100"))
    world.rest = FakeRest()  # to another server, as far as the process can tell
    second = life()
    other = second.monitor_run(RUN, world.service)
    world.corrupt()
    second.poll_now()
    assert other.state == "healthy"
    run.recover()

    assert len(world.service.created) == 1
    assert run.state == "following"
    first.stop()
    second.stop()


@pytest.mark.parametrize(
    "stop", [lambda monitor, run: monitor.stop(), lambda monitor, run: run.stop()]
)
def test_what_two_monitors_of_a_process_follow_is_kept_by_the_one_that_is_left(
    world, path, life, stop
):
    client = FakeTrainingClient(RUN)
    monitors = [life(), life()]
    runs = [each.monitor_run(RUN, world.service, client=client) for each in monitors]
    stop(monitors[0], runs[0])

    with next(runs[1].segments()) as segment:
        assert segment.save_state("a", step=1).tinker_path
    assert runs[1].state == "healthy"
    held = "SELECT count(*) FROM lease WHERE owner_id NOTNULL"
    assert sqlite3.connect(path).execute(held).fetchone() == (1,)
    monitors[1].stop()
    assert sqlite3.connect(path).execute(held).fetchone() == (0,)


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_a_process_that_cannot_be_looked_at_has_not_ended_for_sure(
    world, path, life, monkeypatch, error
):
    life().stop()
    this = this_process()
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    add_owner(path, this.host, this.boot, 1, "1")
    monitor = life()

    def refused(self, **options):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.read_text", refused)
        run = monitor.monitor_run(RUN, world.service)
    assert run.state == "following"
    monitor.stop()
