"""A run as a journal keeps it, in plain values and JSON, and what a writer of it gets and gives."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from ..errors import in_words
from ..lineage.metadata import NAME
from ..lineage.verdict import Successor
from ..runs.changes import Remembered
from ..runs.checkpoints import Cursor
from ..runs.record import History, Origin, Record
from ..runs.state import Generation, RunState
from ..runtime.scheduler import Clock
from ..signals import Cause, Event
from ..types import Checkpoint
from .files import OwnError
from .tables import attempts_left, written

T = TypeVar("T")

#: The fields of an event that are kept in columns of their own, or not at all.
_NOT_IN_BODY = frozenset({"run_id", "metadata", "time", "client", "run"})

#: The fields of a checkpoint that are kept.
_KEPT = ("time", "expires_at", "size_bytes", "user_metadata")


class View(NamedTuple):
    """A record as it is written: the columns of its run, generations and checkpoints.

    `run` are name, metadata, state and body; `generations` are number, run id and body; of the
    checkpoints, by path, `None` is one of which nothing is known any more.
    """

    run: tuple[str | None, str, str, str]
    generations: list[tuple[int, str, str]]
    checkpoints: dict[str, tuple[Any, ...] | None]


def view_of(record: Record, paths: Collection[str] | None, clock: Clock) -> View:
    """What is to be written of a record, whose lock the caller holds; `paths` of checkpoints."""
    history = record.history
    lineage = record.lineage()
    body = {
        "incidents": [_wall(each, clock) for each in history.incidents],
        "stuck": [history.stuck, history.stuck_at],
        "cause": history.cause,
        "error": history.error,
        "source": history.source.tinker_path if history.source else None,
        "with_optimizer": history.with_optimizer,
        "carried": dict(history.carried),
    }
    name = dict(history.carried).get(NAME)
    first = record.generation + 1 - len(lineage)
    known = (*history.known, *history.broken) if paths is None else paths
    return View(
        run=(name, written(dict(record.metadata)), _state(record.state), written(body)),
        generations=[(first + i, each.run_id, _generation(each)) for i, each in enumerate(lineage)],
        checkpoints={path: _checkpoint(history, path) for path in known},
    )


#: The body of a run that has no history.
EMPTY_BODY = written(
    {
        "incidents": [],
        "stuck": [0, None],
        "cause": None,
        "error": None,
        "source": None,
        "with_optimizer": True,
        "carried": {},
    }
)


_AS_REGISTERED = (RunState.HEALTHY, RunState.STOPPED)


def new_row(record: Record, account: str) -> tuple[str, str, str, str] | None:
    """A record of which nothing is known but that it is monitored, as one row for `add_new`.

    `None` where it is not as it was registered any more; that its monitor has stopped is no change.
    """
    with record.lock:
        is_new = record.own_history is None and record.state in _AS_REGISTERED
        run_id, at, metadata = record.run_id, record.started_at, record.metadata
    if not is_new or run_id != record.root_id:
        return None
    told = written(dict(metadata)) if metadata else "{}"
    # In UTC, as all times of ours; to have it ask for its offset would take four times as long.
    return run_id, account, told, f"{at.replace(tzinfo=None).isoformat()}+00:00"


def _state(state: RunState) -> str:
    return "monitored" if state.is_ours else state.value


def _wall(seconds: float, clock: Clock) -> str:
    return (clock.utc() - timedelta(seconds=clock.monotonic() - seconds)).isoformat()


def _generation(each: Generation) -> str:
    return written(
        {
            "checkpoint": each.checkpoint,
            "step": each.step,
            "started_at": each.started_at.isoformat() if each.started_at else None,
            "ended_at": each.ended_at.isoformat() if each.ended_at else None,
            "cause": each.cause,
            "error": each.error,
            "attempts": each.attempts,
            "orphans": each.orphans,
        }
    )


def _checkpoint(history: History, path: str) -> tuple[Any, ...] | None:
    known, is_broken = history.known.get(path), path in history.broken
    if known is None and not is_broken:
        return None
    cursor = history.cursors.get(path)
    body = (
        None if known is None else written({name: _plain(getattr(known, name)) for name in _KEPT})
    )
    if cursor is None:
        return body, None, None, is_broken
    return body, cursor.step, written(cursor.data), is_broken


def body_of(event: Event) -> str:
    """The fields of an event as a JSON text."""
    told = {each.name: getattr(event, each.name) for each in fields(event)}
    return written({key: _plain(value) for key, value in told.items() if key not in _NOT_IN_BODY})


def _plain(value: Any) -> Any:
    if isinstance(value, Checkpoint):
        return value.tinker_path
    if isinstance(value, BaseException):
        return in_words(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return value


# Read back


class Kept(NamedTuple):
    """A lineage as the journal knows it; `run_id` is its last generation.

    `attempts` came to no end: their ids, each with the run that it has made, where that is known.
    """

    root_id: str
    name: str | None
    run_id: str
    metadata: Mapping[str, Any]
    state: str
    origin: Origin
    attempts: list[tuple[str, str | None]]

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Every run of the lineage, the first one first."""
        return (*(each.run_id for each in self.origin.past), self.run_id)

    def with_orphans(self, orphans: tuple[str, ...]) -> Kept:
        """The same, with runs that attempts made to replace the last one, and nothing uses."""
        history = self.origin.kept or History()
        more = {self.run_id: orphans} if orphans else {}
        kept = replace(history, orphans={**history.orphans, **more})
        return self._replace(origin=self.origin._replace(kept=kept))

    def remembered(self) -> Remembered:
        """What counts for a run that was monitored anew."""
        history = self.origin.kept or History()
        return Remembered(
            cursors=history.cursors,
            known=history.known,
            broken=history.broken,
            incidents=history.incidents,
            stuck=(history.stuck, history.stuck_at),
            orphans=history.orphans,
        )


def kept_of(db: sqlite3.Connection, root_id: str, clock: Clock) -> Kept | None:
    """What is known of a lineage, `None` where nothing is.

    Raises `OwnError` where what is written there cannot be read.
    """
    try:
        return _kept_of(db, root_id, clock)
    except sqlite3.Error:
        raise
    except Exception as error:
        raise OwnError(f"what it holds of {root_id!r} is damaged: {error}") from None


def _kept_of(db: sqlite3.Connection, root_id: str, clock: Clock) -> Kept | None:
    row = db.execute(
        "SELECT name, metadata, state, body FROM run WHERE root_id = ?", (root_id,)
    ).fetchone()
    rows = db.execute(
        "SELECT number, run_id, body FROM generation WHERE root_id = ? ORDER BY number", (root_id,)
    ).fetchall()
    if row is None or not rows:
        return None
    generations = [_read_generation(run_id, json.loads(text)) for _, run_id, text in rows]
    body = json.loads(row[3])
    origin = Origin(
        past=tuple(generations[:-1]),
        made_from=generations[-1].checkpoint,
        generation=_a(int, rows[-1][0]),
        carried=tuple((key, _a(str, value)) for key, value in body["carried"].items()),
        kept=_read_history(db, root_id, body, clock, generations),
    )
    attempts = [(_a(str, each), _a(str, run, None)) for each, run in attempts_left(db, root_id)]
    return Kept(
        root_id=root_id,
        name=_a(str, row[0], None),
        run_id=generations[-1].run_id,
        metadata=_a(dict, json.loads(row[1])),
        state=_a(str, row[2]),
        origin=origin,
        attempts=attempts,
    )


def _a(kind: type[T], value: Any, *others: T | None) -> Any:
    """A value that was read, which is of a type or one of some others; else a `TypeError`."""
    if type(value) is kind or value in others:
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")


def _time(text: Any) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return time


def _read_history(
    db: sqlite3.Connection,
    root_id: str,
    body: Mapping[str, Any],
    clock: Clock,
    generations: list[Generation],
) -> History:
    known, cursors, broken = {}, {}, set()
    rows = db.execute(
        "SELECT path, body, step, data, broken FROM checkpoint WHERE root_id = ? ORDER BY rowid",
        (root_id,),
    )
    for path, text, step, data, is_broken in rows:
        if text is not None:
            known[path] = Checkpoint.from_json({**json.loads(text), "tinker_path": path})
        if step is not None:
            cursors[_a(str, path)] = Cursor(step=_a(int, step), data=json.loads(data))
        if _a(int, is_broken):
            broken.add(_a(str, path))
    now, seconds = clock.utc(), clock.monotonic()
    # A process may have died between the adoption of its last run and what it wrote of it.
    source = generations[-1].checkpoint or body["source"]
    ago = (now - _time(each) for each in body["incidents"])
    stuck, stuck_at = body["stuck"]
    return History(
        past=tuple(generations[:-1]),
        source=source and (known.get(source) or Checkpoint.from_path(source)),
        with_optimizer=_a(bool, body["with_optimizer"]),
        cursors=cursors,
        known=known,
        broken=frozenset(broken),
        orphans={each.run_id: each.orphans for each in generations if each.orphans},
        # The clock on the wall may have been set: what began, began before now.
        incidents=tuple(seconds - max(0.0, each.total_seconds()) for each in ago),
        error=_a(str, body["error"], None),
        stuck=_a(int, stuck),
        stuck_at=_a(int, stuck_at, None),
    )


def _read_generation(run_id: str, body: Mapping[str, Any]) -> Generation:
    return Generation(
        run_id=_a(str, run_id),
        checkpoint=_a(str, body.get("checkpoint"), None),
        step=_a(int, body.get("step"), None),
        started_at=_time(body["started_at"]) if body.get("started_at") else None,
        ended_at=_time(body["ended_at"]) if body.get("ended_at") else None,
        cause=Cause(body["cause"]) if body.get("cause") in tuple(Cause) else None,
        error=_a(str, body.get("error"), None),
        attempts=_a(int, body.get("attempts", 0)),
        orphans=tuple(_a(str, each) for each in body.get("orphans", ())),
    )


# What a writer gets and gives


class Note(NamedTuple):
    """What happened to a record: of which checkpoints, `None` of all, and what is told of it."""

    record: Record
    paths: Collection[str] | None
    kind: str | None
    told: Event | Mapping[str, Any]


class News(NamedTuple):
    """What a write brought to light, by record.

    `held` tells with which run another owner has it, and who that is; `remembered` is what the file
    knew of it before; `freed` are those that no other owner has any more, with what it knew;
    `failing` could not be read or written since. `is_anew`: the file was removed or replaced.
    """

    held: dict[Record, Successor]
    remembered: dict[Record, Kept]
    freed: dict[Record, Kept | None]
    failing: dict[Record, OwnError]
    is_anew: bool = False

    @classmethod
    def none(cls) -> News:
        """Nothing yet."""
        return cls({}, {}, {}, {})


class Taken(NamedTuple):
    """Lineages that are ours from now on, and those that are held, by whom, by their root.

    Of those that are `unclear` waiting may tell whether their owner lives. What is written of the
    `damaged` cannot be read.
    """

    kept: list[Kept]
    held: dict[str, str]
    unclear: dict[str, str]
    damaged: dict[str, OwnError]
