"""A journal in a process that forks, and in its children."""

from __future__ import annotations

import os
import threading

import pytest
from support.forks import in_child
from support.recorder import PATIENCE

from tinkex import Journal
from tinkex.journal import files

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]


def _write(db):
    with files.transaction(db):
        db.execute("INSERT INTO event (at, kind, body) VALUES ('', 'written', '')")


def test_a_child_that_is_forked_while_a_job_is_done_can_write(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUSY_TIMEOUT", 1.0)
    path = tmp_path / "tinkex.db"

    def write_here():
        with Journal(path) as journal:
            journal.store.call(_write)

    told = []
    with Journal(path) as journal:
        for _ in range(10):
            begun = threading.Event()
            journal.store.post(lambda _, begun=begun: begun.set(), print)
            for _ in range(20):
                journal.store.post(_write, print)
            assert begun.wait(PATIENCE)
            told.append(in_child(write_here))

    assert told == [""] * 10


class Interrupted:
    """A lock as Ctrl-C leaves a wait for it."""

    def acquire(self, timeout):
        raise KeyboardInterrupt


def test_an_interrupt_while_a_fork_waits_for_a_job_holds_up_no_journal(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda each: told.append(each.exc_type))
    with Journal(tmp_path / "one.db") as one, Journal(tmp_path / "two.db") as two:
        with monkeypatch.context() as patched:
            patched.setattr(two.store, "at_work", Interrupted())
            assert in_child(lambda: None) == ""
        assert not one.store.at_work.locked()

    assert told == [KeyboardInterrupt]


def test_a_fork_waits_once_for_all_journals(tmp_path, monkeypatch):
    waited = []

    class Busy:
        def acquire(self, timeout):
            waited.append(timeout)
            return threading.Event().wait(timeout)

    monkeypatch.setattr("tinkex.journal.store.FORK_TIMEOUT", 0.01)
    with (
        Journal(tmp_path / "one.db") as one,
        Journal(tmp_path / "two.db") as two,
        monkeypatch.context() as patched,
    ):
        patched.setattr(one.store, "at_work", Busy())
        patched.setattr(two.store, "at_work", Busy())
        assert in_child(lambda: None) == ""

    first, second = waited
    assert (first <= 0.01, second) == (True, 0.0)
