"""Turns a run into journal rows and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from ..errors import in_words
from ..lineage.metadata import NAME
from ..runs.changes import Remembered
from ..runs.checkpoints import Cursor
from ..runs.record import NO_HISTORY, History, Origin, Record
from ..runs.state import Generation, RunState
from ..runtime.scheduler import Clock
from ..signals import Cause, Event
from ..types import Checkpoint
from . import tables
from .files import OwnError

T = TypeVar("T")

#: The fields of an event or a generation that are kept in columns of their own, or not at all.
_NOT_IN_BODY = frozenset({"run_id", "metadata", "time", "client", "run"})

#: The fields of a checkpoint that are kept.
_KEPT = ("time", "expires_at", "size_bytes", "user_metadata")

_ENCODER = json.JSONEncoder(separators=(",", ":"), default=lambda _: None, skipkeys=True)


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
    body = _body(history, [_wall(each, clock) for each in history.incidents])
    name = dict(history.carried).get(NAME)
    first = record.generation + 1 - len(lineage)
    known = (*history.known, *history.broken) if paths is None else paths
    return View(
        run=(name, written(dict(record.metadata)), _state(record.state), body),
        generations=[(first + i, each.run_id, body_of(each)) for i, each in enumerate(lineage)],
        checkpoints={path: _checkpoint(history, path) for path in known},
    )


def _body(history: History, incidents: list[str]) -> str:
    return written(
        {
            "incidents": incidents,
            "stuck": [history.stuck, history.stuck_at],
            "cause": history.cause,
            "error": history.error,
            "source": history.source.tinker_path if history.source else None,
            "with_optimizer": history.with_optimizer,
            "carried": dict(history.carried),
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


def body_of(value: Event | Generation) -> str:
    """The fields of an event or a generation as a JSON text."""
    told = {each.name: getattr(value, each.name) for each in fields(value)}
    return written({key: _plain(each) for key, each in told.items() if key not in _NOT_IN_BODY})


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


def written(value: object) -> str:
    """A JSON text; what is no JSON value is left out."""
    found = _encoded(value)
    if found is None and isinstance(value, dict):
        found = _encoded({key: each for key, each in value.items() if _encoded(each)})
    return found or "null"


def _encoded(value: object) -> str | None:
    try:
        return _ENCODER.encode(value)
    except (RecursionError, RuntimeError, ValueError):  # it holds itself, or is just being changed
        return None


#: The body of a run that has no history.
EMPTY_BODY = _body(NO_HISTORY, [])

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
    found, rows = tables.run_of(db, root_id), tables.generations_of(db, root_id)
    if found is None or not rows:
        return None
    name, metadata, state, told = found
    generations = [_read_generation(run_id, json.loads(text)) for _, run_id, text in rows]
    body = json.loads(told)
    origin = Origin(
        past=tuple(generations[:-1]),
        made_from=generations[-1].checkpoint,
        generation=_a(int, rows[-1][0]),
        carried=tuple((key, _a(str, value)) for key, value in body["carried"].items()),
        kept=_read_history(db, root_id, body, clock, generations),
    )
    attempts = tables.attempts_left(db, root_id)
    return Kept(
        root_id=root_id,
        name=_a(str, name, None),
        run_id=generations[-1].run_id,
        metadata=_a(dict, json.loads(metadata)),
        state=_a(str, state),
        origin=origin,
        attempts=[(_a(str, each), _a(str, run, None)) for each, run in attempts],
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
    for path, text, step, data, is_broken in tables.checkpoints_of(db, root_id):
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
