"""Writes what a monitor has noted of its runs, each under the lease of its lineage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from sqlite3 import Connection
from typing import Any, NamedTuple, TypeVar, cast
from uuid import uuid4

from ..errors import in_words
from ..lineage.account import AccountOf
from ..lineage.metadata import NAME
from ..runs.record import Record
from ..runs.state import RunState
from ..runtime.scheduler import Clock
from ..signals import ClientCreated, Completed, Event, Exhausted, Failed
from . import tables
from .files import OwnError, part, transaction
from .owning import claims
from .owning.claims import Claim
from .owning.leases import Leases, News
from .store import Store
from .views import EMPTY_BODY, body_of, kept_of, new_row, view_of, written

T = TypeVar("T")

#: How many events are kept while the file cannot be written; older ones are lost.
EVENTS_KEPT = 10_000

#: How many notes are written in one transaction, so that none takes long.
NOTES_AT_ONCE = 5_000


class Note(NamedTuple):
    """What happened to a record: of which checkpoints, `None` of all, and what is told of it."""

    record: Record
    paths: Collection[str] | None
    kind: str | None
    told: Event | Mapping[str, Any]


class Writer:
    """What one monitor keeps in a journal.

    Threads: used on the thread of the store, but for `notes`, to which any thread may append.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        #: What happened, in its order; a record by itself was registered, which many are at once.
        self.notes: deque[Note | Record] = deque()
        #: Which lineages are ours.
        self.leases = Leases(store, clock)
        self._store = store
        self._clock = clock
        self._opened = 0
        # Those that were registered; of others the checkpoints to write, in the order of saves.
        self._fresh: list[Record] = []
        self._dirty: dict[Record, dict[str, None] | None] = {}
        # Those of them that were registered, and those that were stopped for good.
        self._new: set[Record] = set()
        self._stopped: set[Record] = set()
        self._events: deque[Note | Record] = deque(maxlen=EVENTS_KEPT)
        # The attempt of each that is under way.
        self._attempts: dict[Record, str] = {}
        self._account_of = AccountOf()

    def news(self) -> News:
        """What came to light since the last call."""
        found, self.leases.news = self.leases.news, News.none()
        return found

    # Jobs

    def write(self, db: Connection, then: Callable[[Connection], T]) -> T | OwnError:
        """Write all that was noted, and do one thing more in the same transaction.

        What cannot be written of one run is left out until that run changes again; an `OwnError`
        of the last thing is returned: all else has come to be.
        """
        self._enter(db)
        while True:
            self._take_notes()
            is_last, result, attempts = not self.notes, None, dict(self._attempts)
            try:
                with transaction(db):
                    self.leases.begin(self._dirty)
                    stopped = self._write_records(db)
                    self._write_events(db)
                    if is_last:
                        result = _by_itself(db, then)
            except BaseException:
                self.leases.take_back()
                self._attempts = attempts
                raise
            self.leases.committed()
            self._fresh.clear()
            self._dirty.clear()
            self._events.clear()
            self._new.clear()
            self._stopped.clear()
            for record in stopped:
                self.leases.forget(record)
                self._attempts.pop(record, None)
            if is_last:
                return cast("T | OwnError", result)

    def intend(self, db: Connection, record: Record, number: int, checkpoint: str | None) -> bool:
        """Note an attempt that is about to be made; false where the lineage is another's."""
        leases = self.leases
        leases.check_whole(record)
        if not leases.check(db, record):
            return False
        lineage, attempt_id = leases.held[record], uuid4().hex
        attempt = attempt_id, record.generation + lineage.shift + 1, number, checkpoint
        if not tables.intend(db, self._store.owner_id, lineage, attempt):
            leases.lose(db, record)
            return False
        self._attempts[record] = attempt_id
        self._put_event(db, Note(record, (), "intent", {"checkpoint": checkpoint}))
        return True

    def adopt(self, db: Connection, record: Record, event: Completed) -> bool:
        """Note that a run carries a record on; false where the lineage is another's."""
        leases = self.leases
        if record not in leases.held:
            leases.check_whole(record)
        if not leases.check(db, record):
            return False
        is_adopted = tables.adopt(
            db,
            self._store.owner_id,
            lineage := leases.held[record],
            number=record.generation + lineage.shift + 1,
            run_id=event.successor_id,
            attempt_id=self._attempts.get(record),
            body=written({"checkpoint": event.checkpoint.tinker_path}),
        )
        if not is_adopted:
            leases.lose(db, record)
        return is_adopted

    def is_held(self, db: Connection, record: Record) -> bool:
        """Whether no other owner has a lineage; one that is stopped has none.

        Raises `OwnError` where what happened to it is not on the disk.
        """
        self.leases.check_whole(record)
        return record.state is RunState.STOPPED or self.leases.check(db, record)

    def name_strays(self, db: Connection, record: Record, run_ids: Iterable[str]) -> None:
        """Note the runs of a lineage that nothing uses, of which nothing is known yet.

        What else goes by its name has saved nothing, and is not gone on with.
        """
        lineage = self.leases.held.get(record)
        if lineage is None:
            return
        root_id = lineage.root_id
        for run_id in run_ids:
            if not tables.is_named(db, run_id):
                tables.orphaned(db, root_id, run_id, uuid4().hex)
                self._put_event(db, Note(record, (), "orphaned", {"successor_id": run_id}))
        if (name := dict(record.history.carried).get(NAME)) is not None:
            tables.end_others(db, self._account_of(record.config), name, root_id)

    def _enter(self, db: Connection) -> None:
        """Be an owner in the file; all is written again where it is another file.

        So it is where this owner is gone from it: a copy of before was written over the file.
        """
        is_same = self._opened == self._store.opened
        if is_same and claims.is_owner(db, self._store.owner_id):
            return
        with transaction(db):
            claims.enter(db, self._store.owner_id, self._store.process)
        known = self.leases.reopened(is_anew=self._opened > 0)
        self._dirty.update(dict.fromkeys(known))
        self._opened = self._store.opened

    # Notes

    def _take_notes(self) -> None:
        for _ in range(NOTES_AT_ONCE):
            if not self.notes:
                return
            note = self.notes.popleft()
            if isinstance(note, Record):
                self._events.append(note)
                self._new.add(note)
                if note not in self.leases.held:
                    self._fresh.append(note)
                    continue
                note = _registered(note)
            elif note.kind is not None:
                self._events.append(note)
            if note.kind == "stopped":
                self._stopped.add(note.record)
            known = self._dirty.setdefault(note.record, {})
            if note.paths is None or note.record in self.leases.failing:
                self._dirty[note.record] = None
            elif known is not None:
                for path in note.paths:
                    known.pop(path, None)
                    known[path] = None

    def _write_records(self, db: Connection) -> list[Record]:
        """Write what is known of records; return those that are stopped."""
        try:
            with part(db):
                self._write_fresh(db)
        except OwnError:  # of one of them: each is written by itself
            self._dirty.update(dict.fromkeys(self._fresh))
            self._fresh.clear()
        stopped: list[Record] = []
        for record, paths in self._dirty.items():
            with self.leases.apart(db, record):
                if self._write_record(db, record, paths, told=record in self._stopped):
                    stopped.append(record)
        return stopped

    def _write_record(
        self, db: Connection, record: Record, paths: Collection[str] | None, *, told: bool
    ) -> bool:
        """Write what is known of a record, where its lineage is ours; say whether it is stopped.

        It may have been stopped for good, as was `told`, or with its monitor.
        """
        leases = self.leases
        if record in leases.followed and record.state in (RunState.FOLLOWING, RunState.STOPPED):
            return record.state is RunState.STOPPED
        is_new = record not in leases.held
        lineage = leases.claim(db, record) if is_new else leases.held[record]
        if lineage is None or not (is_new or leases.check(db, record)):
            return False
        root_id = lineage.root_id
        kept = kept_of(db, root_id, self._clock) if is_new else None
        paths = None if is_new else paths
        with record.lock:
            is_stopped = record.state is RunState.STOPPED
            is_told = record.history.is_kept or is_stopped
            view = view_of(record, paths, self._clock)
        if kept is not None and not is_told:
            leases.news.remembered[record] = kept  # to be merged first
            return False
        name, metadata, state, body = view.run
        # What comes after its stop is not of the run as it may be monitored by now.
        # Nor is what another monitor of this process goes on with.
        is_left = told and not leases.is_shared(root_id)
        if not is_stopped or is_left or record in self._new:
            state = "monitored" if is_stopped and not is_left else state
            account = self._account_of(record.config)
            tables.put_run(db, root_id, (name, account, metadata, state, body))
        for number, run_id, told_of in view.generations if paths is None else view.generations[-2:]:
            tables.put_generation(db, root_id, number + lineage.shift, run_id, told_of)
        for path, values in view.checkpoints.items():
            tables.put_checkpoint(db, path, root_id, values)
        if is_stopped:
            leases.free(db, (root_id,))
        return is_stopped

    def _write_fresh(self, db: Connection) -> None:
        """Add the runs that were registered since; of most of them nothing else is known."""
        if not self._fresh:
            return
        rows = {
            each: None if each in self._stopped else new_row(each, self._account_of(each.config))
            for each in self._fresh
        }
        others = {each.root_id for each, row in rows.items() if row is None}
        found = [row for row in rows.values() if row is not None and row[0] not in others]
        # A run that was stopped and begun anew since is of the others, too.
        others |= tables.add_new(db, self._store.owner_id, EMPTY_BODY, found)
        self._fresh = [each for each in rows if each.root_id not in others]
        self.leases.fresh({each: Claim(each.root_id, 1) for each in self._fresh})
        for record in rows:
            if record.root_id in others:
                self._dirty.setdefault(record, {})

    def _write_events(self, db: Connection) -> None:
        new = set(self._fresh)  # which are written with their first event
        for each in self._events:
            if isinstance(each, Record) and each in new:
                continue
            note = _registered(each) if isinstance(each, Record) else each
            if note.record in self.leases.held:
                with self.leases.apart(db, note.record):
                    self._write_event(db, note)

    def _write_event(self, db: Connection, note: Note) -> None:
        told, attempt_id = note.told, self._attempts.get(note.record, "")
        if isinstance(told, ClientCreated):
            tables.created(db, attempt_id, told.successor_id)
        elif isinstance(told, Failed | Exhausted):
            tables.failed(db, attempt_id, in_words(told.error))
        elif note.kind == "orphaned" and isinstance(told, Mapping):
            root_id = self.leases.held[note.record].root_id
            tables.orphaned(db, root_id, told["successor_id"], uuid4().hex)
        self._put_event(db, note)
        if isinstance(told, Failed | Exhausted | Completed):
            self._attempts.pop(note.record, None)

    def _put_event(self, db: Connection, note: Note) -> None:
        told, record = note.told, note.record
        at = told.time if isinstance(told, Event) else self._clock.utc()
        run_id = told.run_id if isinstance(told, Event) else record.run_id
        body = body_of(told) if isinstance(told, Event) else written(told)
        root_id, attempt_id = self.leases.held[record].root_id, self._attempts.get(record)
        tables.put_event(db, (at.isoformat(), root_id, run_id, attempt_id, note.kind, body))


def _registered(record: Record) -> Note:
    return Note(record, (), "registered", {})


def _by_itself(db: Connection, job: Callable[[Connection], T]) -> T | OwnError:
    try:
        with part(db):
            return job(db)
    except OwnError as error:
        return error
