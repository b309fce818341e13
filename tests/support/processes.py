"""Processes that share a server and a journal, played within one: they sleep, and they die."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from unittest import mock

from tinkex import Journal, Monitor, Policy, signals
from tinkex.journal import journal as journals
from tinkex.journal.owning.owners import Process, this_process
from tinkex.journal.store import _Stores
from tinkex.testing import FakeScheduler, FakeTrainingClient

from .signal_order import SignalOrder
from .world import ManualExecutor, StatusError, weights

KEY = "tml-fake"
POLICY = Policy(
    enabled=True,
    poll_interval=10.0,
    max_attempts=2,
    max_backoff=10.0,
    attempt_timeout=100.0,
    fallback_checkpoints=1,
    max_incidents=2,
    incident_window=2000.0,
)
#: When the fake time is 0.
DAY = datetime(2026, 1, 1, tzinfo=UTC)


class DiedError(BaseException):
    """The process ends here: what called this code is never gone on with."""


class Server:
    """The runs of one account, as every process sees them."""

    def __init__(self):
        self.corrupted = set()
        self.checkpoints = {}
        self.metadata = {}
        self.polls_to_fail = 0

    def add(self, run_id, metadata=None):
        self.checkpoints[run_id] = []
        self.metadata[run_id] = dict(metadata or {})

    def make(self, metadata):
        run_id = f"made{len(self.checkpoints)}:train:0"
        self.add(run_id, metadata)
        return run_id

    def save(self, run_id, name):
        path = weights(name, run_id)
        known = self.checkpoints[run_id]
        known[:] = [*(each for each in known if each != path), path]
        return path

    def before(self, run_id):
        """The run that one was made to carry on."""
        return self.metadata[run_id].get("tinkex_recovered_from")

    def root_of(self, run_id):
        while (before := self.before(run_id)) is not None:
            run_id = before
        return run_id

    def row(self, run_id):
        paths = self.checkpoints[run_id]
        return {
            "training_run_id": run_id,
            "base_model": "fake",
            "corrupted": run_id in self.corrupted,
            "last_checkpoint": {"tinker_path": paths[-1]} if paths else None,
            "user_metadata": self.metadata[run_id],
        }


class View:
    """The server as a REST module, for one process."""

    def __init__(self, server):
        self._server = server

    def get_training_run(self, config, run_id):
        if self._server.polls_to_fail:
            self._server.polls_to_fail -= 1
            raise StatusError(500)
        return self._server.row(run_id)

    def list_checkpoints(self, config, run_id):
        return [{"tinker_path": path} for path in self._server.checkpoints[run_id]]

    def list_training_runs(self, config, *, limit, offset):
        rows = [self._server.row(run_id) for run_id in self._server.checkpoints]
        shown = rows[offset : offset + limit]
        page = {"limit": limit, "offset": offset, "total_count": len(rows)}
        return {"training_runs": shown, "cursor": page}


class Client(FakeTrainingClient):
    """A training client whose saves are on the server."""

    def __init__(self, server, run_id):
        super().__init__(run_id)
        self._server = server

    def save_state(self, name, user_metadata=None):
        self._server.save(self.model_id, name)
        return super().save_state(name, user_metadata)


class Service:
    """A service client whose `make(path, metadata)` a test sets."""

    def __init__(self):
        self._api_key = KEY
        self._base_url = "https://tinker.invalid"
        self.make = None

    def create_training_client_from_state(self, path, user_metadata=None):
        raise AssertionError(path)

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        return self.make(path, user_metadata)


class OwnTime:
    """A scheduler over that of the world, for a process which sleeps at times, and then ends."""

    def __init__(self, fake, zero):
        self._fake = fake
        self._zero = zero
        self._late = []
        self.is_asleep = False
        self.is_over = False

    def __call__(self, interval, function):
        return _Timer(self, self._fake, interval, function)

    def now(self):
        return self._fake.now() + self._zero

    def wait(self, predicate, timeout=None):
        return self._fake.wait(predicate, timeout)

    def fire(self, timer):
        if self.is_asleep:
            self._late.append(timer)
        elif not (self.is_over or timer.is_cancelled):
            timer.function()

    def wake(self):
        """Go on with what was due meanwhile."""
        self.is_asleep = False
        late, self._late = self._late, []
        for timer in late:
            self.fire(timer)


class _Timer:
    def __init__(self, time, fake, interval, function):
        self.function = function
        self.is_cancelled = False
        self._timer = fake(interval, partial(time.fire, self))

    def start(self):
        self._timer.start()

    def cancel(self):
        self.is_cancelled = True
        self._timer.cancel()


class Site:
    """What the processes share: time, a server, a file, and what is wrong with the disk."""

    def __init__(self, path):
        self.fake = FakeScheduler()
        self.server = Server()
        self.path = path
        Journal(path).close()
        #: To look at the file from outside.
        self.db = sqlite3.connect(path, isolation_level=None)
        self.is_disk_failing = False
        self.living = []
        #: What should not have been, in words.
        self.wrong = []
        self._count = 0

    def utc(self):
        return DAY + timedelta(seconds=self.fake.now())

    def begin(self, *, is_here):
        """A new process, on this machine or on one of its own."""
        self._count += 1
        life = Life(self, self._count, is_here=is_here)
        self.living.append(life)
        return life

    def set_disk(self, *, is_failing):
        """For all processes; those that begin meanwhile are refused at the door."""
        self.is_disk_failing = is_failing
        for life in self.living:
            life.set_disk()

    def close(self):
        for life in [*self.living]:
            life.crash()
        self.db.close()

    def lease(self, root_id):
        """Who holds a lineage, and with which token."""
        row = self.db.execute("SELECT owner_id, epoch FROM lease WHERE root_id = ?", (root_id,))
        return row.fetchone() or (None, 0)

    def generations(self, root_id):
        query = "SELECT number, run_id FROM generation WHERE root_id = ? ORDER BY number"
        return self.db.execute(query, (root_id,)).fetchall()


class Life:
    """One process with a monitor, from its start to its end.

    `handles` are those of its runs by the first run of each lineage.
    """

    def __init__(self, site, number, *, is_here):
        self.site = site
        self.name = f"process {number}"
        self.is_here = is_here
        self.time = OwnTime(site.fake, 1000.0 * number)
        self.executor = ManualExecutor()
        self.service = Service()
        self.handles = {}
        #: The lineages that it had when it was last looked at, and whether anybody may take them.
        self.held = set()
        self.has_slept = False
        #: At which signal something happens elsewhere first, and what.
        self.pause = None, None
        self.order = SignalOrder(self.name, site.wrong)
        here = this_process()
        self.process = here if is_here else here._replace(host=self.name)
        self.journal = opened_elsewhere(site.path, self.process)
        self.owner_id = self.journal.store.owner_id
        self.monitor = Monitor(
            POLICY,
            rest_module=View(site.server),
            executor=self.executor,
            scheduler=self.time,
            journal=self.journal,
        )
        # One calendar for all; each process has its own monotonic clock.
        self.monitor._parts.clock.utc = site.utc
        self._subscription = signals.subscribe(self._told, sender=self.monitor)
        self.monitor.start()

    @property
    def is_awake(self):
        return not (self.time.is_asleep or self.time.is_over)

    @property
    def has_written(self):
        """Whether all that it knows is in the journal, since the last write went well."""
        return not (self.site.is_disk_failing or self.monitor._parts.keeper._is_failing)

    def client(self, run_id):
        return Client(self.site.server, run_id)

    def set_disk(self):
        flag = int(self.site.is_disk_failing)
        self.journal.store.call(lambda db: db.execute(f"PRAGMA query_only = {flag}"))

    # Attempts

    @property
    def attempts(self):
        """How many attempts its executor has, under way or not."""
        return len(self.executor.running) + len(self.executor.waiting)

    def fall_asleep(self):
        """Do nothing from now on; others may take it for dead."""
        self.time.is_asleep = self.has_slept = True

    def look(self):
        """Note what it has."""
        self.held = {root for root in self.handles if self.site.lease(root)[0] == self.owner_id}

    def end_attempt(self, make):
        """Carry out the oldest attempt; `make(life, path, metadata)` makes a client, or raises."""
        if not self.executor.running and not self.executor.begin_next():
            return
        self.service.make = partial(self._make, make)
        with suppress(DiedError):
            self.executor.finish_next()

    def _make(self, make, path, metadata):
        self._check_intent(metadata)
        return make(self, path, metadata)

    def _check_intent(self, metadata):
        """Before anything is made, an intent of it is on the disk, under our lease."""
        before = metadata["tinkex_recovered_from"]
        root_id = self.site.server.root_of(before)
        owner_id, epoch = self.site.lease(root_id)
        found = self.site.db.execute(
            "SELECT g.run_id FROM attempt a JOIN generation g ON g.root_id = a.root_id"
            " AND g.number = a.generation - 1 WHERE a.root_id = ? AND a.epoch = ?"
            " AND a.state = 'intent'",
            (root_id, epoch),
        ).fetchall()
        if owner_id != self.owner_id or (before,) not in found:
            self.site.wrong.append(f"{self.name} makes a run for {before} without an intent")

    # Signals

    def _told(self, sender, *, event):
        self.order(sender, event=event)
        moment, pause = self.pause
        if event.name == moment:
            self.pause = None, None
            pause()
        if event.name == "fenced" and not self.has_slept:
            root_id = self.site.server.root_of(event.run_id)
            if root_id in self.held:
                self.site.wrong.append(f"{self.name} is awake and loses {root_id}")
        if event.name == "completed" and not self.site.is_disk_failing:
            root_id = self.site.server.root_of(event.run_id)
            is_ours = self.site.lease(root_id)[0] == self.owner_id
            last = self.site.generations(root_id)[-1][1]
            if not is_ours or last != event.successor_id:
                told = f"{self.name} hands out {event.successor_id}, the journal has {last}"
                self.site.wrong.append(told)

    # Its end

    def stop(self):
        """Stop in good order, and end."""
        self.monitor.stop()
        query = "SELECT count(*) FROM lease WHERE owner_id = ?"
        (kept,) = self.site.db.execute(query, (self.owner_id,)).fetchone()
        if kept and not self.site.is_disk_failing:
            self.site.wrong.append(f"{self.name} has stopped, and gives {kept} leases not back")
        self._end()

    def crash(self):
        """End without a word."""
        self._end()

    def _end(self):
        self.time.is_over = True
        self._subscription.close()
        self.site.living.remove(self)
        self.journal.store.close(5.0)
        if self.is_here:
            # The system has no such process any more.
            change = "UPDATE owner SET started = 'before' WHERE owner_id = ?"
            self.site.db.execute(change, (self.owner_id,))


def opened_elsewhere(path, process):
    """A journal as another process has it open."""
    with mock.patch.object(journals, "STORES", _Stores()):
        journal = Journal(path)
    journal.store.process = Process(*process)
    # What is written outlives these processes, not the machine: that need not be tested here.
    journal.store.call(lambda db: db.execute("PRAGMA synchronous = OFF"))
    return journal
