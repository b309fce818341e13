"""A journal that cannot be written: polls go on, nothing is restored meanwhile, and it is told."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.journals import SavesAgain, rows
from support.world import RUN

import tinkex
from tinkex import Journal, Monitor
from tinkex.errors import JournalError
from tinkex.journal import files
from tinkex.testing import FakeTrainingClient


@pytest.fixture
def journal(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUSY_TIMEOUT", 0.005)
    with Journal(tmp_path / "tinkex.db") as made:
        yield made


@contextmanager
def locked(journal):
    """Another process writes, and does not come to an end."""
    db = sqlite3.connect(journal.path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.close()


@contextmanager
def full(journal):
    """The disk has no room left."""
    pages = journal.store.call(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    journal.store.call(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchall())
    journal.store.call(_fill)
    try:
        yield
    finally:
        journal.store.call(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchall())


def _fill(db):
    """Take what is left of the pages that there are."""
    for size in (20_000, 900, 100, 10):
        while True:
            try:
                db.execute(
                    "INSERT INTO event (at, kind, body) VALUES ('', 'filling', ?)", ("x" * size,)
                )
            except sqlite3.Error:
                break


@contextmanager
def read_only(journal):
    """The file system was mounted anew, to be read only."""
    journal.store.call(lambda db: db.execute("PRAGMA query_only = 1"))
    try:
        yield
    finally:
        journal.store.call(lambda db: db.execute("PRAGMA query_only = 0"))


FAULTS = [locked, full, read_only]


@pytest.mark.parametrize("fault", FAULTS)
def test_polls_go_on_and_the_recovery_waits_until_it_can_be_written(world, journal, fault):
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": journal})
    run = monitor.monitor_run(RUN, world.service)
    with fault(journal):
        world.corrupt()
        world.fake.advance(300)
        assert world.service.created == []
        assert world.events.names.count("journal_failed") == 1
        assert world.events.names.count("paused") == 1
        assert run.state in ("waiting", "recovering")
        polls = len(world.rest.calls)
        other = monitor.monitor_run("5e11:train:0", world.service)
        world.rest.set_run(other.run_id)
        world.fake.advance(10)
        assert len(world.rest.calls) > polls
    world.fake.advance(20)

    assert run.state == "healthy"
    assert len(world.service.created) == 1
    assert "resumed" in world.events.names
    monitor.stop()
    assert [each.kind for each in journal.history(RUN)][-1] == "completed"
    assert [each.kind for each in journal.history(other.run_id)] == ["registered"]


@pytest.mark.parametrize("fault", [locked, read_only])
def test_a_journal_that_cannot_be_written_is_refused_at_the_door(world, journal, fault):
    with fault(journal), pytest.raises(JournalError, match="journal"):
        Monitor({"enabled": True}, journal=journal)


def test_who_waits_for_a_process_that_has_locked_the_file_is_told_so(world, journal, tmp_path):
    with locked(journal), pytest.raises(JournalError, match=r"another process .*0\.005 s"):
        Monitor({"enabled": True}, journal=journal)
    path = tmp_path / "other.db"
    Journal(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")  # as within a commit
    with pytest.raises(JournalError, match="another process"):
        Journal(path)
    other.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_successor_is_not_lost_where_the_disk_fills_while_it_is_made(world, journal, fault):
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": journal})
    run = monitor.monitor_run(RUN, world.service)
    make = world.service.create_training_client_from_state_with_optimizer
    faults = []

    def made(*args, **kwargs):
        faults.append(fault(journal))
        faults[-1].__enter__()
        return make(*args, **kwargs)

    world.service.create_training_client_from_state_with_optimizer = made
    world.corrupt()
    world.fake.advance(10)
    assert run.state == "healthy"
    assert world.events.names[-2:] == ["journal_failed", "completed"]
    faults[0].__exit__(None, None, None)
    world.fake.advance(20)
    monitor.stop()

    kept = journal.store.call(lambda db: db.execute("SELECT run_id FROM generation").fetchall())
    assert [each[0] for each in kept] == [RUN, run.run_id]


def emptied(path):
    os.truncate(path, 0)


def overwritten(path):
    """A copy is written over it that another process made when nothing was known."""
    made = sqlite3.connect(path.with_name("copy.db"))
    with sqlite3.connect(path) as db:
        db.backup(made)
    for table in ("owner", "lease", "run", "generation", "checkpoint"):
        made.execute(f"DELETE FROM {table}")
    made.commit()
    made.close()
    path.write_bytes(path.with_name("copy.db").read_bytes())


@pytest.mark.parametrize("harm", [Path.unlink, emptied, overwritten])
def test_a_file_that_is_removed_is_begun_anew_with_all_that_is_known(world, journal, harm):
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": journal})
    run = monitor.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    segment = next(run.segments())
    with segment:
        segment.save_state("000000", step=0)
        harm(journal.path)
        segment.save_state("000001", step=0)
    assert world.events.names == ["journal_failed"]
    holders = rows(journal.path, "SELECT root_id FROM lease JOIN owner USING (owner_id)")
    assert holders == [(RUN,)]
    world.corrupt()
    world.fake.advance(10)
    monitor.stop()

    assert run.state == "stopped"
    assert run.status().recoveries == 1
    kept = journal.store.call(lambda db: db.execute("SELECT run_id FROM generation").fetchall())
    assert [each[0] for each in kept] == [RUN, run.run_id]
    steps = journal.store.call(lambda db: db.execute("SELECT path FROM checkpoint").fetchall())
    assert len(steps) >= 2


def test_a_save_under_a_name_that_is_known_waits_for_the_disk(world, journal):
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": journal})
    client = FakeTrainingClient(RUN)
    run = monitor.monitor_run(RUN, world.service, client=client)
    segment = next(run.segments())
    with segment:
        segment.save_state("last", step=0)
        calls = len(client.calls)
        with read_only(journal):
            segment.save_state("other", step=0)  # a new name: nothing can be mistaken
            with pytest.raises(JournalError):
                segment.save_state("last", step=0, overwrite=True)
        assert client.calls[calls:] == [("save_state", "other")]
    monitor.stop()


def test_a_save_that_was_not_sent_leaves_what_was_saved_before_as_it_was(world, journal):
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": journal})
    client = SavesAgain(RUN)
    run = monitor.monitor_run(RUN, world.service, client=client)
    with next(run.segments()) as segment:
        for name in ("last", "other"):
            segment.save_state(name, step=7, data=[name])
        before = run.plan().candidates
        with read_only(journal), pytest.raises(JournalError):
            segment.save_state("last", step=9, overwrite=True)
        assert run.plan().candidates == before
        assert len(client.calls) == 2
    monitor.stop()

    second = world.monitor(options={"journal": journal})
    (run,) = second.resume(world.service)
    assert run.plan().candidates == before
    assert [each.step for each in before][:2] == [7, 7]
    second.stop()


def test_a_run_is_registered_once_however_often_it_could_not_be_written(world, journal):
    world.rest.set_run(RUN)
    first = world.monitor(options={"journal": journal})
    first.monitor_run(RUN, world.service)
    first.stop()
    second = world.monitor(options={"journal": journal})
    with full(journal):
        second.monitor_run(RUN, world.service)
        world.fake.advance(60)
    world.fake.advance(20)
    second.stop()

    kinds = [each.kind for each in journal.history(RUN)]
    assert kinds == ["registered", "registered"]


def test_a_journal_that_its_user_closed_early_is_used_on(world, tmp_path):
    told = []
    journal = Journal(tmp_path / "tinkex.db")
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": journal})
    journal.close()
    with tinkex.signals.journal_failed.connected_to(lambda _, **event: told.append(event)):
        run = monitor.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
        with next(run.segments()) as segment:
            segment.save_state("a", step=1)
        with Journal(journal.path) as again:
            assert again.store is monitor._parts.keeper._store
        monitor.stop()

    assert told == []
