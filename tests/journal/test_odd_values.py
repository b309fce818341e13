"""What users, servers and errors hand in that no database takes: all else is kept."""

from __future__ import annotations

import logging

import pytest
from support.journals import SavesAgain, change, rows
from support.world import RUN, weights

from tinkex import Journal
from tinkex.errors import JournalError
from tinkex.runs.checkpoints import cursor_of
from tinkex.testing import FakeTrainingClient
from tinkex.types import Checkpoint

OTHER = "b:train:0"


@pytest.fixture
def monitor(world, path):
    for run_id in (RUN, OTHER):
        world.rest.set_run(run_id)
    return world.monitor(options={"journal": path})


def test_an_error_with_half_a_character_holds_nothing_up(world, monitor, path, caplog):
    caplog.set_level(logging.CRITICAL)  # pytest cannot report such a line
    world.corrupt()
    world.service.fail(ValueError("cut: \ud83d"), times=1)
    run = monitor.monitor_run(RUN, world.service, client="first")
    world.fake.advance(60)
    assert (run.state, run.status().generation) == ("healthy", 1)
    monitor.stop()

    with Journal(path) as journal:
        told = {each.kind: each.body for each in journal.history()}
        rows = journal.store.call(lambda db: db.execute("SELECT error FROM attempt").fetchall())
    assert "cut:" in told["failed"]["error"]
    assert "cut: ?" in rows[0][0]


def test_metadata_that_holds_itself_is_left_out_and_the_rest_is_kept(world, monitor, path):
    config = {}
    config["itself"] = config
    monitor.monitor_run(RUN, world.service, {"config": config, "team": "a"})
    monitor.monitor_run(OTHER, world.service)
    monitor.stop()

    with Journal(path) as journal:
        assert [each.run_id for each in journal.history()] == [RUN, OTHER]
    again = world.monitor(options={"journal": path})
    found = {each.run_id: dict(each._record.metadata) for each in again.resume(world.service)}
    assert found == {RUN: {"team": "a"}, OTHER: {}}


def test_a_step_beyond_all_bounds_is_an_error_before_anything_is_saved(world, monitor, path):
    client = FakeTrainingClient(RUN)
    run = monitor.monitor_run(RUN, world.service, client=client)
    with next(run.segments()) as segment:
        with pytest.raises(ValueError, match="step"):
            segment.save_state("a", step=2**63)
        segment.save_state("b", step=2**63 - 1)
    monitor.stop()

    with Journal(path) as journal:
        assert [each.body.get("step") for each in journal.history()][-1] == 2**63 - 1


def test_a_step_beyond_all_bounds_in_metadata_is_none():
    told = {"tinker_path": weights("a"), "user_metadata": {"tinkex_step": str(2**63)}}
    assert cursor_of(Checkpoint.from_json(told), {}) is None


class Odd(dict):
    """What raises when it is read."""

    def items(self):
        raise KeyError("odd")


@pytest.mark.parametrize("is_first", [True, False])
def test_a_run_that_cannot_be_written_costs_itself_alone(world, monitor, path, is_first):
    given = {RUN: {"odd": Odd(a=1)}, OTHER: {"team": "a"}}
    runs = sorted(given, reverse=is_first)
    handles = {each: monitor.monitor_run(each, world.service, given[each]) for each in runs}
    (told,) = world.events.of("journal_failed")
    assert (told.run_id, told.metadata) == (RUN, given[RUN])
    assert repr(RUN) in str(told.error)

    for run_id in runs:
        world.corrupt(run_id)
    world.fake.advance(300)
    assert handles[OTHER].status().generation == 1
    assert (handles[RUN].state, handles[RUN].status().generation) == ("exhausted", 0)
    error = world.events.one("exhausted").error
    assert isinstance(error, JournalError)
    assert error.run_id == RUN
    monitor.stop()
    assert world.events.names.count("journal_failed") == 1
    with Journal(path) as journal:
        assert journal.history(RUN) == ()
        assert [each.kind for each in journal.history(OTHER)][-1] == "completed"


def test_a_run_is_written_again_once_its_values_can_be(world, monitor, path):
    odd = {"odd": Odd(a=1), "team": "a"}
    run = monitor.monitor_run(RUN, world.service, odd)
    assert world.events.names == ["journal_failed"]
    run = monitor.monitor_run(RUN, world.service, {"team": "b"})
    world.corrupt()
    world.fake.advance(10)
    assert run.status().generation == 1
    monitor.stop()

    assert rows(path, "SELECT metadata FROM run") == [('{"team":"b"}',)]
    assert len(rows(path, "SELECT * FROM generation")) == 2
    assert world.events.names.count("journal_failed") == 1


def test_a_run_without_its_own_values_on_the_disk_is_not_saved_again(world, monitor, path):
    client = SavesAgain(RUN)
    run = monitor.monitor_run(RUN, world.service, client=client)
    with next(run.segments()) as segment:
        segment.save_state("last", step=0)
        monitor.monitor_run(RUN, world.service, {"odd": Odd(a=1)})
        with pytest.raises(JournalError) as raised:
            segment.save_state("last", step=0, overwrite=True)
        assert raised.value.run_id == RUN
        assert rows(path, "SELECT step FROM checkpoint") == [(0,)]
        assert run.plan().candidates[0].step == 0
        monitor.monitor_run(RUN, world.service, {"team": "a"})
        segment.save_state("last", step=0, overwrite=True)
    monitor.stop()
    assert client.calls == [("save_state", "last")] * 2


def test_an_event_that_cannot_be_written_is_told_and_those_after_it_are_kept(world, monitor, path):
    run = monitor.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    with next(run.segments()) as segment:
        segment.save_state("last", step=0)
    change(
        path,
        "CREATE TRIGGER odd BEFORE INSERT ON event WHEN NEW.kind = 'requested'"
        " BEGIN SELECT RAISE(ABORT, 'odd'); END",
    )
    run.recover()
    monitor.stop()

    told = world.events.one("journal_failed")
    assert (told.run_id, told.error.reason) == (RUN, "odd")
    assert run.status().generation == 1
    kinds = [kind for (kind,) in rows(path, "SELECT kind FROM event ORDER BY seq")]
    assert "requested" not in kinds
    assert (kinds[0], kinds[-1]) == ("registered", "completed")
