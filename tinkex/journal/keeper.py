"""One monitor's journal: changes are written soon after; attempts and saves wait for the disk."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from sqlite3 import Connection
from typing import Any, TypeVar

from ..errors import JournalError, RunHeldError
from ..runs import changes
from ..runs.changes import Change
from ..runs.record import Record
from ..runtime.forks import Home
from ..runtime.publisher import Notice
from ..runtime.scheduler import Clock, Timer
from ..signals import Completed, Event, PollError, Unprotected
from . import tables
from .files import OwnError
from .owning.leases import Leases, News
from .store import Store
from .writer import Note, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two beats of an owner.
BEAT_EVERY = 10.0

#: Seconds until what was noted is written, unless something waits for it: a commit costs as much
#: for many notes as for one.
LINGER = 0.05

#: Seconds that the end of a process whose monitor was not stopped waits for the file at most.
EXIT_TIMEOUT = 2.0

#: Seconds that `close` waits for the file at least: what is not given back is waited for.
LEAST_CLOSE = 0.2


class Keeper:
    """Keeps the runs of a monitor in a journal.

    `on_news` is told what a write brought to light, `on_failed` once that the file cannot be
    written, or with its record that one run cannot be. `inline`: a scheduler was handed in; each
    change is on the disk when it was told.

    Threads: every method is safe from any thread. `note` and `registered` only touch memory.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        inline: bool,
        on_news: Callable[[News], object],
        on_failed: Callable[[JournalError, Record | None], object],
    ) -> None:
        self._store = store
        self.clock = clock
        self._inline = inline
        self._on_news = on_news
        self._on_failed = on_failed
        self._writer = Writer(store, clock)
        self._home = Home()
        store.leases[self._writer.leases] = None
        # Also of a write whose caller did not wait for its end.
        self._news: deque[News] = deque()
        self._lock = threading.Lock()
        # Guarded by _lock: whether the file could not be written the last time, whether a thread
        # tells the news, one after the other, whether a write is lined up and whether a beat is,
        # the timer of the next beat, and whether there is none any more: then the file is not
        # opened anew for what comes late.
        self._is_failing = False
        self._is_telling = False
        self._is_due = False
        self._is_beat_due = False
        self._timer: Timer | None = None
        self._is_closed = False

    # Changes

    def registered(self, record: Record) -> None:
        """A run is monitored from now on. `told` follows."""
        self._writer.notes.append(record)

    def note(self, record: Record, change: Change, notices: Iterable[Notice]) -> None:
        """A change was applied to a record, whose lock the caller holds. `told` follows."""
        told: list[tuple[str, Event | Mapping[str, Any]]] = [
            (each.name, each)
            for each in notices
            if isinstance(each, Event) and not isinstance(each, PollError | Unprotected)
        ]
        if type(change) in _SILENT and not told:
            return
        described = _DESCRIBED.get(type(change))
        if described is not None and not _is_told_again(change):
            told.insert(0, described(change))
        for kind, what in told or ((None, {}),):
            self._writer.notes.append(Note(record, _paths_of(change), kind, what))

    def told(self) -> None:
        """Have what was noted written; waits only where it is `inline`. The caller has no lock."""
        # One look at each, so that no lock is needed: most changes note nothing, and a write stops
        # to be due before it takes what was noted.
        if self._is_closed or self._is_due or not self._writer.notes:
            return
        if self._inline:
            try:
                self._do(_nothing)
            except JournalError as error:
                logger.debug("%s", error)
            return
        with self._lock:
            is_due, self._is_due = self._is_due, True
        if not is_due:
            self.clock.call_surely(LINGER, partial(self._behind, _nothing))

    # What waits

    def begin(self) -> None:
        """Enter this process as an owner, and begin to tell that it lives.

        Raises `JournalError` where the file cannot be written.
        """
        self._do(_nothing)
        self._beat_later()
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        """The process ends, and its monitor was not stopped."""
        if not self._home.is_left():
            self.close(EXIT_TIMEOUT)

    def settle(self, record: Record) -> None:
        """Wait until all that happened to a record is on the disk.

        Raises `JournalError` where it cannot be written, with a `run_id` where that is of this run
        alone; `RunHeldError` where the lineage is another owner's.
        """
        self._own(record, partial(self._writer.is_held, record=record))

    def name_strays(self, record: Record, run_ids: Iterable[str]) -> None:
        """Note the runs of a lineage that nothing uses; raises as `settle` does."""
        self._do(partial(self._writer.name_strays, record=record, run_ids=run_ids), record.run_id)
        self.settle(record)

    def intend(self, record: Record, number: int, checkpoint: str) -> None:
        """Note an attempt that is about to be made; raises as `settle` does."""
        self._own(
            record,
            partial(self._writer.intend, record=record, number=number, checkpoint=checkpoint),
        )

    def adopt(self, record: Record, event: Completed) -> None:
        """Note that a new run carries a record on; raises as `settle` does."""
        self._own(record, partial(self._writer.adopt, record=record, event=event))

    def _own(self, record: Record, job: Callable[[Connection], bool]) -> None:
        if not self._do(job, record.run_id):
            raise RunHeldError(record.run_id, "another owner of its journal holds it")

    def read(self, job: Callable[[Leases, Connection], T]) -> T:
        """Have something read or claimed, after all that was noted."""
        return self._do(partial(job, self._writer.leases))

    def has_named(self, run_id: str) -> bool:
        """Whether a run is known, whatever became of it."""
        return self._do(partial(tables.is_named, run_id=run_id))

    def error_of(self, error: OwnError | str, run_id: str | None = None) -> JournalError:
        """Why the journal cannot be used, for one run alone where that is given."""
        return JournalError(str(self._store.path), str(error), run_id)

    def _do(self, job: Callable[[Connection], T], run_id: str | None = None) -> T:
        if self._is_closed:
            raise self.error_of("its monitor was stopped")

        try:
            result = self._store.call(partial(self._whole, job))
        except OwnError as error:
            self._worked()
            raise self.error_of(error, run_id) from None
        except JournalError as error:
            self._failed(error)
            raise
        self._worked()
        return result

    def _whole(self, job: Callable[[Connection], T], db: Connection) -> T:
        result = self._writer.write(db, job)
        self._news.append(self._writer.news())
        if isinstance(result, OwnError):
            raise result
        return result

    def _behind(self, job: Callable[[Connection], object], *, is_beat: bool = False) -> None:
        def whole(db: Connection) -> None:
            with self._lock:
                self._is_due = False
                self._is_beat_due = self._is_beat_due and not is_beat
            try:
                self._whole(job, db)
            except OwnError as error:
                raise self.error_of(error) from None
            self._worked()

        def failed(error: JournalError) -> None:
            with self._lock:  # it may have failed before anything was begun
                self._is_due = self._is_beat_due = False
            self._failed(error)

        if self._is_closed:
            return
        try:
            self._store.post(whole, failed)
        except JournalError as error:
            failed(error)

    def _worked(self) -> None:
        with self._lock:
            was_failing, self._is_failing = self._is_failing, False
        if was_failing:
            logger.warning("the journal %s can be written again", self._store.path)
        while (news := self._next_news()) is not None:
            try:
                self._tell(news)
            finally:
                with self._lock:
                    self._is_telling = False

    def _next_news(self) -> News | None:
        """What came to light first; `None` where there is nothing, or another thread tells it."""
        with self._lock:
            if self._is_telling or not self._news:
                return None
            self._is_telling = True
            return self._news.popleft()

    def _tell(self, news: News) -> None:
        if news.is_anew:
            self._on_failed(self.error_of("it was removed or replaced"), None)
        for record, error in news.failing.items():
            self._on_failed(self.error_of(error, record.run_id), record)
        if any(news[:3]):
            self._on_news(news)

    def _failed(self, error: JournalError) -> None:
        with self._lock:
            is_told = self._is_failing or self._is_closed
            self._is_failing = True
        if not is_told:
            self._on_failed(error, None)

    # Beats

    def _beat_later(self) -> None:
        timer = self.clock.call_surely(BEAT_EVERY, self._beat)
        with self._lock:
            self._timer = timer
            is_stale = self._is_closed
        if is_stale:
            timer.cancel()

    def _beat(self) -> None:
        if self._inline:
            try:
                self._do(self._writer.leases.beat)
            except JournalError as error:
                logger.debug("%s", error)
        else:
            # Of a file that hangs one beat waits, and not one for every ten seconds.
            with self._lock:
                is_due, self._is_beat_due = self._is_beat_due, True
            if not is_due:
                self._behind(self._writer.leases.beat, is_beat=True)
        self._beat_later()

    def close(self, timeout: float) -> None:
        """Write what is left, and give all leases back, so that others need not wait.

        It waits at most `timeout` seconds; what hangs goes on meanwhile.
        """
        atexit.unregister(self._at_exit)
        with self._lock:
            self._is_closed = True
            timer = self._timer
        if timer is not None:
            timer.cancel()
        self._store.leases.pop(self._writer.leases, None)
        try:
            job = partial(self._writer.write, then=self._writer.leases.release)
            self._store.call(job, max(timeout, LEAST_CLOSE))
        except JournalError as error:
            logger.warning("%s", error)


def _nothing(_: Connection) -> None:
    """Only what was noted is written."""


#: What changes nothing that is kept, unless it publishes something.
_SILENT = frozenset({*changes.POLLED, changes.LoopBegan, changes.ErrorNoted, changes.Dropped})

#: How the changes are told that publish nothing.
_DESCRIBED: Mapping[type[Any], Callable[[Any], tuple[str, Mapping[str, Any]]]] = {
    changes.Requested: lambda change: ("requested", {"cause": change.cause, "error": change.error}),
    changes.Orphaned: lambda change: ("orphaned", {"successor_id": change.successor_id}),
    changes.Stopped: lambda _: ("stopped", {}),
    changes.Withdrawn: lambda change: ("withdrawn", {"path": change.path}),
    changes.Saved: lambda change: (
        "saved",
        {"path": change.checkpoint.tinker_path, "step": change.cursor.step},
    ),
}


def _is_told_again(change: Change) -> bool:
    """Whether a change only adds the server's time to a save that was told."""
    return isinstance(change, changes.Saved) and change.checkpoint.time is not None


def _paths_of(change: Change) -> Collection[str] | None:
    """The checkpoints that a change is about; `None`: it may be about all of its run."""
    if isinstance(change, changes.SaveBegan | changes.Withdrawn):
        return (change.path,)
    if isinstance(change, changes.Saved):
        return (change.checkpoint.tinker_path,)
    # The order of the saves is written, too.
    about_all = changes.Recovered | changes.Remembered | changes.Freed | changes.SaveUnsent
    return None if isinstance(change, about_all) else ()
