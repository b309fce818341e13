"""What a journal costs: to register runs, for an incident, and in a sweep of healthy runs."""

from __future__ import annotations

import gc
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tinkex import Journal, Monitor, Policy

from .account import run_id
from .figures import spread
from .variants import Service

#: Seconds in which one incident must come to its end.
PATIENCE = 30.0


def journals(url, *, runs, incidents):
    """Seconds to register runs, on the disk, and of each incident, with a journal and without."""
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder, "registered.db")) as journal:
            registered = _register(url, runs, journal)
            changes = registered.pop("changes")
        plain, kept = [], []
        with (
            Journal(Path(folder, "incidents.db")) as journal,
            closing(_incidents(url, None)) as without,
            closing(_incidents(url, journal)) as within,
        ):
            pairs = ((plain, without), (kept, within))
            for _ in range(incidents):
                for taken, turns in pairs:
                    taken.append(next(turns))
    incident = {"with": spread(kept), "without": spread(plain)}
    bare = _register(url, runs, None)["seconds"]
    return {**registered, "without": bare, "incident": incident, "changes": changes}


def _monitor(journal):
    policy = Policy(enabled=True, poll_interval=3600.0, max_incidents=10**6)
    return Monitor(policy, journal=journal)


def _register(url, runs, journal):
    """Register runs until all are on the disk, and sweep: how many rows does that change?"""
    service = Service(url)
    gc.collect()
    with _monitor(journal) as monitor:
        began = time.monotonic()
        for index in range(runs):
            monitor.monitor_run(run_id(index), service)
        if journal is None:
            return {"seconds": time.monotonic() - began}
        while _of(journal, "SELECT count(*) FROM lease") < runs:
            time.sleep(0.1)
        seconds = time.monotonic() - began
        before = _changed(journal)
        monitor.poll_now()
        monitor.poll_now()
        after = _changed(journal)
    return {"seconds": seconds, "changes": after - before}


def _of(journal, query):
    return journal.store.call(lambda db: db.execute(query).fetchone()[0])


def _changed(journal):
    """How many rows were changed so far, but for that of the owner, which tells that it lives."""
    beats = _of(journal, "SELECT sum(beat) FROM owner")
    return journal.store.call(lambda db: db.total_changes) - beats


def _incidents(url, journal):
    """The seconds from `recover()` to its result, again and again."""
    with _monitor(journal) as monitor:
        run = monitor.monitor_run(run_id(0), Service(url))
        while True:
            began = time.monotonic()
            run.recover().result(PATIENCE)
            yield time.monotonic() - began
