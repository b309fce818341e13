"""`Journal`, the file as users hold it, and its history."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from ..display.table import ROWS_SHOWN, Cell, Row, Table, Tabular, Tone
from ..display.words import clock, count, day_and_time, facts, one_line, short_id
from ..errors import in_words
from ..signals import EVENTS
from . import tables
from .store import STORES, Store

logger = logging.getLogger(__name__)

_COLUMNS = ("number", "time (UTC)", "run", "what", "facts")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JournalEntry:
    """Something that became of a run.

    `number` only grows, `time` is UTC by the clock of the process that wrote it, `root_id` the
    first run of the lineage, `run_id` the run that it is about, and `attempt_id` the attempt.
    `kind` is the name of a signal, or `"registered"`, `"requested"`, `"intent"` (an attempt is
    about to be made), `"saved"`, `"withdrawn"`, `"orphaned"` (a run was made that nothing uses),
    `"stopped"`; `body` holds what else is known of it, as JSON values.
    """

    number: int
    time: datetime
    root_id: str
    run_id: str | None
    attempt_id: str | None
    kind: str
    body: Mapping[str, Any]

    def __repr__(self) -> str:
        told = facts(self.body)
        words = f"{self.kind} {short_id(self.run_id)}{f': {told}' if told else ''}"
        return f"<JournalEntry {self.number} at {clock(self.time)}: {one_line(words)}>"

    def _repr_html_(self) -> str:
        return History([self])._repr_html_()


class History(Tabular, tuple[JournalEntry, ...]):
    """Entries of a journal, the oldest first, which are shown as a table."""

    __slots__ = ()

    def table(self) -> Table:
        """A row for each entry, of many for the last."""
        title = count(len(self), "entry", "entries")
        if len(self) > ROWS_SHOWN:
            title += f", of which these are the last {ROWS_SHOWN}"
        return Table.of(title, _COLUMNS, self[-ROWS_SHOWN:], _row)


def tone_of(kind: str) -> Tone | None:
    """How much an entry of this kind catches the eye."""
    if kind in ("completed", "resumed"):
        return "good"
    level = EVENTS[kind].level if kind in EVENTS else logging.INFO
    if level >= logging.ERROR:
        return "bad"
    return "warn" if level >= logging.WARNING or kind == "orphaned" else None


def _row(entry: JournalEntry) -> Row:
    return (
        str(entry.number),
        day_and_time(entry.time),
        Cell(short_id(entry.run_id), entry.run_id),
        Cell(entry.kind, tone=tone_of(entry.kind)),
        Cell.long(facts(entry.body)),
    )


class Journal:
    """A file that outlives the process: which runs were monitored, and what became of them.

    It holds no key and no client, and only its user may read it. Processes of one machine may share
    it; on a file system of other machines it serves to go on, not to tell who lives.

    Args:
        path: The file; it is made where there is none.

    Raises:
        JournalError: The file cannot be read, or is no journal.

    Threads: every method is safe from any thread.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise TypeError(f"a journal is the path of a file, not {path!r}")
        if os.fspath(path) == ":memory:":
            raise ValueError("a journal outlives the process: give the path of a file")
        self.path = Path(path).expanduser().resolve()
        self._store: Store | None = STORES.use(self.path)
        try:
            self._store.call(lambda _: None)
        except BaseException:
            self.close()
            raise

    def shared(self) -> Journal:
        """The same file once more: each is closed by itself."""
        other = copy(self)
        STORES.share(self.store)
        return other

    @property
    def store(self) -> Store:
        """The file as this process uses it; a `ValueError` where the journal was closed."""
        if self._store is None:
            raise ValueError(f"the journal {str(self.path)!r} was closed")
        return self._store

    def history(self, root_id: str | None = None) -> History:
        """What became of a lineage, by any run id of it, or of all; the oldest first.

        An entry that is damaged is left out, and logged.

        Raises:
            JournalError: The file cannot be read.
            ValueError: The journal was closed.
        """
        rows = self.store.call(lambda db: tables.events_of(db, root_id))
        return History(filter(None, map(self._entry, rows)))

    def _entry(self, row: tuple[Any, ...]) -> JournalEntry | None:
        try:
            return JournalEntry(
                number=row[0],
                time=datetime.fromisoformat(row[1]),
                root_id=row[2],
                run_id=row[3],
                attempt_id=row[4],
                kind=row[5],
                body=dict(json.loads(row[6])),
            )
        except (TypeError, ValueError, RecursionError) as error:
            problem = in_words(error)
        logger.error("entry %s of the journal %s is damaged: %s", row[0], self.path, problem)
        return None

    def close(self, timeout: float = 5.0) -> None:
        """Close the file, where nothing else of this process uses it.

        What is under way gets up to `timeout` seconds.
        """
        store, self._store = self._store, None
        if store is not None:
            STORES.leave(store, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Journal {str(self.path)!r}>"
