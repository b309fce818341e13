"""Snapshots of runs, and how a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any

from ..errors import ApiResponseError
from ..types import Checkpoint, as_time, fitting
from .state import RunState

_COLORS = {
    RunState.HEALTHY: "#1a7f37",
    RunState.FAILING: "#9a6700",
    RunState.MISSING: "#9a6700",
    RunState.RECOVERING: "#0969da",
    RunState.WAITING: "#0969da",
    RunState.EXHAUSTED: "#cf222e",
    RunState.STOPPED: "#6e7781",
}

_CELL = "text-align:left;padding:2px 10px"

#: What tells a state that was saved from any other. It is kept as one text, a line for each, as
#: the server sent them: that takes less memory, and less time to compare, than three values.
IDENTITY = ("tinker_path", "time", "expires_at")

#: As little as can be kept of a healthy run's newest checkpoint: its identity, when it expires, its
#: size, whether it is public, and its metadata, first the keys and then the values.
Kept = tuple[str, datetime | None, Any, Any, tuple[Any, ...] | None]

#: How many rows a notebook shows.
ROWS_SHOWN = 100


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


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A snapshot of one run.

    `run_id` is the live run's id, `root_id` the first one's; `generation` counts from 0;
    `last_poll` and `next_attempt` are aware UTC times; `recoveries` counts those that
    completed.
    """

    run_id: str
    root_id: str
    state: RunState
    generation: int
    last_poll: datetime | None
    last_error: BaseException | None
    last_checkpoint: _LastCheckpoint = _LastCheckpoint()
    next_attempt: datetime | None
    recoveries: int
    metadata: Mapping[str, Any]

    def _repr_html_(self) -> str:
        return as_html([self])


class StatusTable(tuple[RunStatus, ...]):
    """The snapshots of all runs; a notebook shows them as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return as_html(self)


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


def as_html(rows: Iterable[RunStatus]) -> str:
    """Snapshots as an HTML table; every text in it is escaped."""
    listed = list(rows)
    titles = ("run", "state", "recoveries", "last poll", "checkpoint", "next attempt", "last error")
    head = "".join(f'<th style="{_CELL}">{title}</th>' for title in titles)
    body = "".join(map(_row, listed[:ROWS_SHOWN]))
    left_out = len(listed) - ROWS_SHOWN
    more = (
        f'<tr><td colspan="{len(titles)}">… and {left_out} more</td></tr>' if left_out > 0 else ""
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{more}</tbody></table>"


def _row(status: RunStatus) -> str:
    run = f"<code>{_text(status.run_id)}</code>"
    if status.root_id != status.run_id:
        run += f"<br><small>from <code>{_text(status.root_id)}</code></small>"
    cells = (
        run,
        f'<b style="color:{_COLORS[status.state]}">{_text(status.state)}</b>',
        _text(status.recoveries),
        _time(status.last_poll),
        _checkpoint(status.last_checkpoint),
        _time(status.next_attempt),
        _text(status.last_error),
    )
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _checkpoint(checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        return ""
    path = checkpoint.tinker_path
    return f'<span title="{_text(path)}">{_text(path.rpartition("/")[2])}</span>'


def _text(value: object) -> str:
    import html  # noqa: PLC0415 (only a notebook needs it)

    return "" if value is None else html.escape(str(value))


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%H:%M:%S&nbsp;UTC")
