"""The files of one process: each is opened once, none waits for another, and they may be copied."""

from __future__ import annotations

import os
import shutil
import threading

import pytest
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import Journal
from tinkex.errors import JournalError
from tinkex.journal import store


def test_a_disk_that_hangs_holds_up_no_journal_on_another_one(tmp_path, monkeypatch):
    slow, hangs, goes_on = tmp_path / "slow.db", threading.Event(), threading.Event()
    look = store._inode_of

    def looked(path):
        if path == slow and not goes_on.is_set():
            hangs.set()
            goes_on.wait(PATIENCE)
        return look(path)

    def opened(path):
        Journal(path).close()

    monkeypatch.setattr(store, "_inode_of", looked)
    first = threading.Thread(target=opened, args=(slow,))
    second = threading.Thread(target=opened, args=(tmp_path / "quick.db",))
    first.start()
    assert hangs.wait(PATIENCE)
    second.start()
    second.join(PATIENCE / 2)
    is_done = not second.is_alive()
    goes_on.set()
    first.join(PATIENCE)
    second.join(PATIENCE)

    assert is_done


def test_a_file_is_opened_once_by_whichever_paths_and_threads(tmp_path):
    path, other = tmp_path / "one.db", tmp_path / "two.db"
    path.touch(mode=0o600)
    os.link(path, other)
    together, found = threading.Barrier(8), []

    def opened(path):
        together.wait(PATIENCE)
        found.append(Journal(path))

    threads = [threading.Thread(target=opened, args=(each,)) for each in (path, other) * 4]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)

    assert len({each.store for each in found}) == 1
    for each in found:
        each.close()


def test_the_runs_of_a_copy_are_free_once_the_monitor_has_stopped_that_held_them(
    world, path, tmp_path
):
    world.rest.set_run(RUN)
    first = world.monitor(options={"journal": path})
    first.monitor_run(RUN, world.service)
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    second = world.monitor(options={"journal": copy})
    assert second.resume(world.service) == ()

    first.stop()
    (run,) = second.resume(world.service)
    assert (run.run_id, run.state) == (RUN, "healthy")
    second.stop()


def test_a_file_that_is_moved_while_it_is_open_is_not_opened_a_second_time(world, path, tmp_path):
    world.rest.set_run(RUN)
    first = world.monitor(options={"journal": path})
    first.monitor_run(RUN, world.service)
    moved = path.rename(tmp_path / "moved.db")
    with pytest.raises(JournalError, match="still open as"):
        Journal(moved)

    first.stop()
    second = world.monitor(options={"journal": moved})
    assert [run.run_id for run in second.resume(world.service)] == [RUN]
    second.stop()
