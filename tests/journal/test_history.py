"""What becomes of a run is on the disk: who it was, what was tried, what came of it."""

from __future__ import annotations

import sqlite3

import pytest
from support.journals import SavesAgain, rows
from support.world import RUN, weights

import tinkex
from tinkex import Journal
from tinkex.errors import JournalError
from tinkex.testing import FakeTrainingClient


def watched(world, path, client=None, **policy):
    monitor = world.monitor(options={"journal": path}, **policy)
    return monitor, monitor.monitor_run(RUN, world.service, {"team": "a"}, client=client)


def kinds(path, root_id=None):
    with Journal(path) as journal:
        return [each.kind for each in journal.history(root_id)]


def test_a_recovery_is_told_step_by_step(world, path):
    world.rest.set_run(RUN)
    monitor, run = watched(world, path)
    source = world.corrupt()
    world.fake.advance(10)
    monitor.stop()

    with Journal(path) as journal:
        found = journal.history()
    assert [each.kind for each in found] == [
        "registered",
        "detected",
        "started",
        "checkpoint_selected",
        "intent",
        "client_created",
        "completed",
    ]
    assert {each.root_id for each in found} == {RUN}
    assert [each.number for each in found] == sorted(each.number for each in found)
    intent, completed = found[4], found[-1]
    assert intent.body == {"checkpoint": source}
    assert intent.attempt_id == completed.attempt_id is not None
    assert completed.body["successor_id"] == run.run_id
    assert completed.body["checkpoint"] == source
    assert completed.time.tzinfo is not None


def test_each_event_of_an_attempt_names_that_attempt(world, path):
    world.rest.set_run(RUN)
    monitor, _ = watched(world, path)
    world.corrupt()
    world.service.fail(ValueError("no"))
    world.fake.advance(60)
    monitor.stop()

    with Journal(path) as journal:
        found = [(each.kind, each.attempt_id) for each in journal.history()]
    first, second = [attempt_id for kind, attempt_id in found if kind == "intent"]
    named = [(kind, attempt_id) for kind, attempt_id in found if attempt_id is not None]
    assert first != second
    assert named == [
        ("intent", first),
        ("failed", first),
        ("intent", second),
        ("client_created", second),
        ("completed", second),
    ]


def test_what_happens_together_is_told_in_its_order(world, path):
    world.rest.set_run(RUN)
    monitor, _ = watched(world, path, max_attempts=1)
    world.corrupt()
    world.service.fail(ValueError("no"))
    world.fake.advance(10)
    monitor.stop()

    assert kinds(path)[-2:] == ["failed", "exhausted"]


def test_the_intent_is_on_the_disk_before_anything_is_made(world, path):
    world.rest.set_run(RUN)
    monitor, _ = watched(world, path)
    seen = []
    make = world.service.create_training_client_from_state_with_optimizer

    def made(*args, **kwargs):
        seen.append(kinds(path)[-1])
        return make(*args, **kwargs)

    world.service.create_training_client_from_state_with_optimizer = made
    world.corrupt()
    world.fake.advance(10)
    monitor.stop()

    assert seen == ["intent"]


def test_the_successor_is_on_the_disk_before_anybody_gets_it(world, path):
    world.rest.set_run(RUN)
    seen = []

    def came(old, new, checkpoint):
        seen.append([each.body.get("successor_id") for each in journal.history()])

    monitor, run = watched(world, path, on_recovery=came)
    with Journal(path) as journal:
        world.corrupt()
        world.fake.advance(10)
    monitor.stop()

    assert seen[0][-1] == run.run_id
    assert rows(path, "SELECT number, run_id FROM generation ORDER BY number") == [
        (0, RUN),
        (1, run.run_id),
    ]


def test_a_save_is_on_the_disk_when_it_returns(world, path):
    world.rest.set_run(RUN)
    monitor, run = watched(world, path, FakeTrainingClient(RUN))
    segment = next(run.segments())
    with segment:
        for step in segment.steps(1):
            segment.client.forward_backward([step])
            segment.client.optim_step()
        segment.save_state("000001", step=1, data={"at": 1})
        found = rows(path, "SELECT path, step, data FROM checkpoint")
    monitor.stop()

    assert found == [(weights("000001"), 1, '{"at":1}')]


def test_sweeps_of_healthy_runs_write_nothing(world, path):
    world.rest.set_run(RUN)
    monitor, _ = watched(world, path)
    before = path.read_bytes()
    for _ in range(5):
        monitor.poll_now()
    after = path.read_bytes()
    monitor.stop()

    assert before == after


def test_the_file_is_for_its_user_alone_and_holds_no_key(world, path):
    world.rest.set_run(RUN)
    monitor, _ = watched(world, path)
    world.corrupt()
    world.fake.advance(10)
    monitor.stop()

    assert path.stat().st_mode & 0o777 == 0o600
    assert b"tml-fake" not in path.read_bytes()


def test_a_save_is_told_once(world, path):
    world.rest.set_run(RUN)
    listed = {"tinker_path": weights("last"), "time": "2026-01-01T00:00:00+00:00"}
    world.rest.list_checkpoints = lambda config, run_id: [listed]
    monitor, run = watched(world, path, SavesAgain(RUN))
    for segment in run.segments():
        with segment:
            segment.save_state("a", step=1)
            segment.save_state("last", step=2, overwrite=True)
    monitor.stop()

    with Journal(path) as journal:
        told = [each.body["step"] for each in journal.history() if each.kind == "saved"]
    assert told == [1, 2]


def test_history_of_one_lineage_by_any_run_of_it(world, path):
    world.rest.set_run(RUN)
    monitor, run = watched(world, path)
    world.corrupt()
    world.fake.advance(10)
    monitor.stop()

    assert run.run_id != RUN
    assert kinds(path, run.run_id) == kinds(path, RUN) != []


def test_history_of_one_lineage(world, path):
    world.rest.set_run(RUN)
    world.rest.set_run("5e11:train:0")
    monitor, _ = watched(world, path)
    monitor.monitor_run("5e11:train:0", world.service)
    monitor.stop()

    assert kinds(path, "5e11:train:0") == ["registered"]
    assert kinds(path, "none") == []


@pytest.mark.parametrize("given", [7, "", b"tinkex.db", None])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(TypeError, match="path of a file"):
        Journal(given)


def test_a_journal_in_memory_is_refused():
    with pytest.raises(ValueError, match="outlives the process"):
        Journal(":memory:")


def test_another_kind_of_file_is_left_as_it_is(path):
    path.write_text("this is a diary of mine, and no database " * 50)
    before = path.read_bytes()

    with pytest.raises(JournalError, match="not a database"):
        Journal(path)
    assert path.read_bytes() == before


def test_the_database_of_something_else_is_left_as_it_is(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()
    before = path.read_bytes()

    with pytest.raises(JournalError, match="something else"):
        tinkex.Monitor({"enabled": True}, journal=path)
    assert path.read_bytes() == before


def test_a_journal_of_a_newer_version_is_left_as_it_is(path):
    Journal(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(JournalError, match="newer tinkex"):
        Journal(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(JournalError, match="No such file"):
        Journal(tmp_path / "none" / "tinkex.db")


def test_a_closed_journal_says_so(path):
    journal = Journal(path)
    journal.close()
    journal.close()

    with pytest.raises(ValueError, match="was closed"):
        journal.history()
