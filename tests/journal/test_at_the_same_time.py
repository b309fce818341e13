"""What threads, monitors and owners do to one lineage at the same time."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from support.journals import change, rows
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Journal, Monitor, Policy
from tinkex.journal.keeper import Keeper
from tinkex.journal.store import Store
from tinkex.parts import Parts

STATE = "SELECT state FROM run"
OWNER = "SELECT owner_id NOTNULL FROM lease"


def threaded(world, journal):
    """A monitor whose writes wait for their turn on a thread."""
    world.rest.set_run(RUN)
    return Monitor(Policy(enabled=True), rest_module=world.rest, journal=journal)


class Heard(logging.Handler):
    """Tells when a text is logged."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.came = threading.Event()

    def emit(self, record):
        if self.text in record.getMessage():
            self.came.set()


def test_what_was_noted_while_the_file_was_away_is_written_when_it_is_back(world, tmp_path):
    folder, away = tmp_path / "drive", tmp_path / "away"
    folder.mkdir()
    heard = Heard("can be written again")
    logging.getLogger("tinkex.journal").addHandler(heard)
    with threaded(world, folder / "tinkex.db") as monitor:
        world.events.clear()
        folder.rename(away)
        monitor.monitor_run(RUN, world.service)
        world.events.wait_for("journal_failed")
        away.rename(folder)
        monitor.monitor_run(OTHER, world.service)
        assert heard.came.wait(PATIENCE / 2)  # before the next beat
    logging.getLogger("tinkex.journal").removeHandler(heard)

    assert len(rows(folder / "tinkex.db", STATE)) == 2


def test_a_stop_is_noted_before_the_run_is_monitored_anew(world, path, monkeypatch):
    note, stopping, registered = Keeper.note, threading.Event(), threading.Event()

    def late(keeper, record, change, notices):
        if type(change).__name__ == "Stopped":
            stopping.set()
            registered.wait(0.2)
        note(keeper, record, change, notices)

    with threaded(world, path) as monitor:
        monitor.monitor_run(RUN, world.service)
        monkeypatch.setattr(Keeper, "note", late)
        stops = threading.Thread(target=monitor.stop_monitoring, args=(RUN,))
        stops.start()
        assert stopping.wait(PATIENCE)
        monitor.monitor_run(RUN, world.service)
        registered.set()
        stops.join(PATIENCE)
        with Journal(path) as journal:
            journal.store.call(lambda _: None)

    with Journal(path) as journal:
        assert [each.kind for each in journal.history()] == ["registered", "stopped", "registered"]
    assert rows(path, STATE) == [("monitored",)]


def test_a_stop_is_kept_however_much_happens_before_it_can_be_written(world, path, monkeypatch):
    monkeypatch.setattr("tinkex.journal.writer.EVENTS_KEPT", 2)
    with Journal(path) as journal:
        monitor = world.monitor(options={"journal": journal})
        monitor.monitor_run(RUN, world.service)
        journal.store.call(lambda db: db.execute("PRAGMA query_only = 1"))
        monitor.stop_monitoring(RUN)
        for number in range(5):
            monitor.monitor_run(f"{number}:train:0", world.service)
        journal.store.call(lambda db: db.execute("PRAGMA query_only = 0"))
        monitor.stop()
        back = world.monitor(options={"journal": journal})
        resumed = {run.run_id for run in back.resume(world.service)}
        back.stop()

    assert resumed == {f"{number}:train:0" for number in range(5)}


def test_a_run_that_was_brought_back_and_stopped_is_free(life, world, path):
    with life() as left:
        left.monitor_run(RUN, world.service)
    first, second = life(), life()
    (run,) = first.resume(world.service)
    run.stop()

    second.monitor_run(RUN, world.service)
    second.stop()

    assert rows(path, OWNER) == [(0,)]


def test_a_run_that_another_monitor_of_the_process_has_is_not_stopped_on_the_disk(
    life, world, path
):
    first, second = life(), life()
    first.monitor_run(RUN, world.service)
    run = second.monitor_run(RUN, world.service)

    first.stop_monitoring(RUN)

    assert run.state == "healthy"
    assert rows(path, STATE) == [("monitored",)]
    run.stop()
    assert rows(path, STATE) == [("stopped",)]


def test_an_interrupt_of_resume_leaves_no_lease_behind(world, path, monkeypatch):
    with threaded(world, path) as monitor:
        monitor.monitor_run(RUN, world.service)
    call, interrupted = Store.call, []

    def interrupt(store, job, *args):
        found = call(store, job, *args)
        if not interrupted and rows(path, OWNER) == [(1,)]:
            interrupted.append(job)
            raise KeyboardInterrupt
        return found

    with threaded(world, path) as monitor:
        monkeypatch.setattr(Store, "call", interrupt)
        with pytest.raises(KeyboardInterrupt):
            monitor.resume(world.service)
        assert rows(path, OWNER) == [(0,)]
        assert [run.run_id for run in monitor.resume(world.service)] == [RUN]


def test_who_follows_takes_nothing_in_a_new_file_before_its_owners_are_back(world, path, life):
    life().stop()
    change(path, "INSERT INTO owner VALUES ('other', 'far', 'boot', 7, '1', 0, 0)")
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    monitor = life()
    run = monitor.monitor_run(RUN, world.service)
    assert run.state == "following"
    path.unlink()
    world.fake.advance(20)

    assert run.state == "following"
    assert rows(path, OWNER) == []
    world.fake.advance(20)
    assert run.state == "healthy"
    monitor.stop()


def until(predicate):
    """Wait until something holds that no event tells."""
    deadline = time.monotonic() + PATIENCE
    while not predicate() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert predicate()


def test_what_writes_find_is_told_in_the_order_of_the_writes(world, path, monkeypatch):
    told, finding, go_on = Parts._journal_told, threading.Event(), threading.Event()

    def late(parts, news):
        if news.held:
            finding.set()
            go_on.wait(PATIENCE)
        told(parts, news)

    threaded(world, path).stop()
    change(path, "INSERT INTO owner VALUES ('other', 'far', 'boot', 7, '1', 0, 0)")
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    monkeypatch.setattr(Parts, "_journal_told", late)
    monkeypatch.setattr("tinkex.journal.keeper.BEAT_EVERY", 0.05)
    monkeypatch.setattr("tinkex.journal.keeper.LINGER", PATIENCE)
    with threaded(world, path) as monitor:
        run = monitor.monitor_run(RUN, world.service)
        resumes = threading.Thread(target=monitor.resume, args=(world.service,))
        resumes.start()
        assert finding.wait(PATIENCE)
        change(path, "UPDATE lease SET owner_id = NULL")
        until(lambda: rows(path, OWNER) == [(1,)])
        go_on.set()
        resumes.join(PATIENCE)
        until(lambda: run.state == "healthy")
