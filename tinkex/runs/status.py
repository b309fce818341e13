"""Snapshots of runs, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from sys import intern
from typing import Any

from ..display.checkpoints import checkpoint_cell, name_and_step
from ..display.table import ROWS_SHOWN, Cell, Row, Table, Tabular, Tone
from ..display.words import age, clock, count, day_and_time, short_id, tally
from ..errors import ApiResponseError
from ..types import Checkpoint
from ..types.answers import fitting
from ..types.reading import as_time
from .checkpoints import cursor_of
from .state import RunState

_TONES: dict[RunState, Tone] = {
    RunState.HEALTHY: "good",
    RunState.FAILING: "warn",
    RunState.MISSING: "warn",
    RunState.RECOVERING: "busy",
    RunState.WAITING: "busy",
    RunState.FOLLOWING: "away",
    RunState.EXHAUSTED: "bad",
}

_COLUMNS = (
    "run",
    "state",
    "recoveries",
    "last poll",
    "checkpoint",
    "saved",
    "next attempt",
    "last error",
)

#: What tells a state that was saved from any other. It is kept as one text, a line for each, as
#: the server sent them: that takes less memory, and less time to compare, than three values.
IDENTITY = ("tinker_path", "time", "expires_at")

#: As little as can be kept of a healthy run's newest checkpoint: its identity, when it expires, its
#: size, whether it is public, and its metadata, first the keys and then the values.
Kept = tuple[str, datetime | None, Any, Any, tuple[Any, ...] | None]


class _LastCheckpoint:
    """A field that keeps a checkpoint as its record does, and reads a row when it is looked at.

    To read those of many runs takes longer than all the rest of a look at them.
    """

    def __get__(self, status: RunStatus | None, owner: type | None = None) -> Checkpoint | None:
        if status is None:
            raise AttributeError("there is no default")
        return as_checkpoint(status.__dict__["last_checkpoint"])

    def __set__(self, status: RunStatus, saved: Checkpoint | Kept | None) -> None:
        status.__dict__["last_checkpoint"] = saved


class _Step:
    """A field that is read from the checkpoint where nothing else is known."""

    def __get__(self, status: RunStatus | None, owner: type | None = None) -> int | None:
        if status is None:
            raise AttributeError("there is no default")
        step: int | None = status.__dict__["step"]
        if step is not None or (saved := status.last_checkpoint) is None:
            return step
        cursor = cursor_of(saved, {})
        return None if cursor is None else cursor.step

    def __set__(self, status: RunStatus, step: int | None) -> None:
        status.__dict__["step"] = step


class _SavedAt:
    """A field that is read from the checkpoint where the server told it."""

    def __get__(self, status: RunStatus | None, owner: type | None = None) -> datetime | None:
        if status is None:
            raise AttributeError("there is no default")
        own: datetime | None = status.__dict__["saved_at"]
        saved = status.last_checkpoint
        return own if saved is None or saved.time is None else saved.time

    def __set__(self, status: RunStatus, moment: datetime | None) -> None:
        status.__dict__["saved_at"] = moment


@dataclass(frozen=True, kw_only=True, repr=False)
class RunStatus:
    """A snapshot of one run, taken at `time`.

    `run_id` is the live run's id, `root_id` the first one's; `generation` counts from 0;
    `last_checkpoint` is the newest that is known, from a poll or from a save here, `step` the next
    step after it and `saved_at` when it was saved, where known; `recoveries` counts those that
    completed. All times are aware and in UTC; two snapshots may be equal at different times.
    """

    run_id: str
    root_id: str
    state: RunState
    generation: int
    time: datetime = field(compare=False)
    last_poll: datetime | None
    last_error: BaseException | None
    last_checkpoint: _LastCheckpoint = _LastCheckpoint()
    step: _Step = _Step()
    saved_at: _SavedAt = _SavedAt()
    next_attempt: datetime | None
    recoveries: int
    metadata: Mapping[str, Any]

    def __repr__(self) -> str:
        saved = self.last_checkpoint
        told = [f"{short_id(self.run_id)} {self.state}"]
        if self.generation:
            told.append(f"generation {self.generation}")
        if saved is not None:
            told.append(f"checkpoint {name_and_step(saved.tinker_path, self.step)}")
        return f"<RunStatus {', '.join(told)}, at {clock(self.time)}>"

    def _repr_html_(self) -> str:
        return StatusTable([self])._repr_html_()


def snapshot(**known: Any) -> RunStatus:
    """A status with these values, which are those of all its fields.

    To make it by its class takes longer, which counts where there are many runs.
    """
    status = object.__new__(RunStatus)
    values = status.__dict__
    for name, value in known.items():  # `update` would take twice the memory
        values[name] = value
    return status


class StatusTable(Tabular, tuple[RunStatus, ...]):
    """The snapshots of all runs, which are shown as a table."""

    __slots__ = ()

    def table(self) -> Table:
        """The runs in their order; of more than are shown first those that are not healthy."""
        if not self:
            return Table.of("no runs", (), (), _row)
        title = f"{count(len(self), 'run')}: {self.states()}; as of {clock(self[-1].time)}"
        shown: Sequence[RunStatus] = self
        if len(self) > ROWS_SHOWN:
            shown = sorted(self, key=lambda status: status.state is RunState.HEALTHY)
        return Table.of(title, _COLUMNS, shown, _row)

    def states(self) -> str:
        """How many runs there are in each state, such as "3 healthy, 1 recovering"."""
        return tally(status.state for status in self)


def kept(identity: str, until: datetime | None, last: Mapping[str, Any]) -> Kept:
    """What is kept of a checkpoint's row that expires at `until`."""
    metadata, flat = last.get("user_metadata"), None
    if type(metadata) is dict:
        try:
            flat = (*map(intern, metadata), *metadata.values())  # the same names in all runs
        except TypeError:
            flat = (*metadata, *metadata.values())
    return identity, until, last.get("size_bytes"), last.get("public"), flat


def as_checkpoint(row: Checkpoint | Kept | None) -> Checkpoint | None:
    """The checkpoint of what was kept, as far as it fits."""
    if not isinstance(row, tuple):
        return row
    identity, until, size, public, flat = row
    path, time, _ = identity.split("\n")
    half = len(flat or ()) // 2
    sent = {
        "tinker_path": path,
        "time": as_time(time),
        "expires_at": until,
        "size_bytes": size,
        "public": public,
        "user_metadata": None if flat is None else dict(zip(flat[:half], flat[half:], strict=True)),
    }
    try:
        return fitting(Checkpoint, sent)
    except ApiResponseError:
        return None


def _row(status: RunStatus) -> Row:
    saved, saved_at, now = status.last_checkpoint, status.saved_at, status.time
    is_successor = status.root_id != status.run_id
    began = f", which began as {status.root_id}" if is_successor else ""
    return (
        Cell(short_id(status.run_id), f"{status.run_id}{began}"),
        Cell(status.state.value, tone=_TONES.get(status.state)),
        str(status.recoveries),
        Cell(age(status.last_poll, now), day_and_time(status.last_poll)),
        checkpoint_cell(None if saved is None else saved.tinker_path, status.step),
        # The server's clock may be ahead of ours.
        Cell(age(min(saved_at, now), now) if saved_at else "", day_and_time(saved_at)),
        Cell(age(status.next_attempt, now), day_and_time(status.next_attempt)),
        Cell.error(status.last_error),
    )
