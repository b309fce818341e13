"""Snapshots of runs, and how a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

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

#: How many rows a notebook shows.
ROWS_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
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
    last_checkpoint: Checkpoint | None
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
