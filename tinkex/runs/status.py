"""Snapshots of runs, and how a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..errors import ApiResponseError
from ..types import Checkpoint
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

#: The fields of a checkpoint's row that are kept for a healthy run, and such a row.
ROW_FIELDS = ("tinker_path", "time", "size_bytes", "public", "expires_at", "user_metadata")
Row = tuple[Any, ...]

#: How many rows a notebook shows.
ROWS_SHOWN = 100


class _Kept:
    """A field that keeps a checkpoint as its record does, and reads a row when it is looked at.

    To read those of many runs takes longer than all the rest of a look at them.
    """

    def __get__(self, status: RunStatus | None, owner: type | None = None) -> Checkpoint | None:
        if status is None:
            raise AttributeError("there is no default")
        return as_checkpoint(status.__dict__["last_checkpoint"])

    def __set__(self, status: RunStatus, kept: Checkpoint | Row | None) -> None:
        status.__dict__["last_checkpoint"] = kept


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
    last_checkpoint: _Kept = _Kept()
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


def as_checkpoint(kept: Checkpoint | Row | None) -> Checkpoint | None:
    """A checkpoint that is kept, perhaps as a row; of one that does not fit, the path counts."""
    if not isinstance(kept, tuple):
        return kept
    try:
        return Checkpoint.from_json(dict(zip(ROW_FIELDS, kept, strict=True)))
    except ApiResponseError:
        with suppress(ValueError):
            return Checkpoint.from_path(kept[0])
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
