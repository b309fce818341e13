"""What a write brings to light reaches the monitor, though the disk hung or failed meanwhile."""

from __future__ import annotations

import threading

from support.journals import change
from support.recorder import PATIENCE
from support.world import RUN

from tinkex import Journal
from tinkex.journal.store import Store

FAILING = "CREATE TEMP TRIGGER failing BEFORE UPDATE ON owner BEGIN SELECT no_such(); END"


def test_what_the_file_knew_of_a_run_counts_though_nobody_waited_for_it(world, path, monkeypatch):
    world.corrupt()
    first = world.monitor(options={"journal": path}, max_incidents=1)
    known = first.monitor_run(RUN, world.service)
    world.fake.advance(10)
    first.stop()
    assert len(world.service.created) == 1

    world.rest.set_run(known.run_id)
    hangs = threading.Event()
    with Journal(path) as journal:
        second = world.monitor(options={"journal": journal}, max_incidents=1)
        journal.store.post(lambda _: hangs.wait(PATIENCE), print)
        monkeypatch.setattr(Store.call, "__defaults__", (0.0,))
        run = second.monitor_run(known.run_id, world.service)
        monkeypatch.undo()
        hangs.set()
        world.fake.advance(10)
        world.corrupt(run.run_id)
        world.fake.advance(60)
        second.stop()

    assert len(world.service.created) == 1
    assert world.events.names[-1] == "exhausted"


def test_a_run_is_not_fenced_by_what_a_write_saw_that_failed(world, path):
    world.rest.set_run(RUN)
    world.monitor(options={"journal": path}).stop()
    change(path, "INSERT INTO owner VALUES ('other', 'far', 'boot', 7, '1', 0, 0)")
    change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
    with Journal(path) as journal:
        monitor = world.monitor(options={"journal": journal})
        journal.store.call(lambda db: db.execute("PRAGMA query_only = 1"))
        run = monitor.monitor_run(RUN, world.service)
        journal.store.call(lambda db: db.execute("PRAGMA query_only = 0"))
        # The lease is seen to be another's, and then the beat fails.
        journal.store.call(lambda db: db.execute(FAILING))
        world.fake.advance(10)
        assert run.state == "healthy"
        journal.store.call(lambda db: db.execute("DROP TRIGGER failing"))
        change(path, "UPDATE lease SET owner_id = NULL")
        world.fake.advance(10)
        assert run.state == "healthy"
        monitor.stop()
