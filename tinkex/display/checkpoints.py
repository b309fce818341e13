"""How a checkpoint is shown: its name and step in a cell, itself in one line and as a table."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from .table import Cell, Table, facts_table
from .words import clock, day_and_time, name_of, one_line, size


class _Saved(Protocol):
    """What a checkpoint tells of itself."""

    @property
    def tinker_path(self) -> str: ...
    @property
    def checkpoint_type(self) -> str | None: ...
    @property
    def time(self) -> datetime | None: ...
    @property
    def size_bytes(self) -> int | None: ...
    @property
    def expires_at(self) -> datetime | None: ...


class ShownCheckpoint:
    """Shows a checkpoint in a notebook and at a prompt."""

    __slots__ = ()

    def __repr__(self: _Saved) -> str:
        saved = "" if self.time is None else f", saved {clock(self.time)}"
        of = "" if self.size_bytes is None else f", {size(self.size_bytes)}"
        return one_line(f"<Checkpoint {self.tinker_path}{saved}{of}>")

    def _repr_html_(self: _Saved) -> str:
        return _table(self).html()


def _table(checkpoint: _Saved) -> Table:
    return facts_table(
        f"checkpoint {name_of(checkpoint.tinker_path)}",
        {
            "path": checkpoint.tinker_path,
            "type": checkpoint.checkpoint_type or "",
            "saved (UTC)": day_and_time(checkpoint.time),
            "size": size(checkpoint.size_bytes),
            "expires (UTC)": day_and_time(checkpoint.expires_at),
        },
    )


def name_and_step(path: str, step: int | None) -> str:
    """A checkpoint's name, and the step after it where that is known."""
    return name_of(path) if step is None else f"{name_of(path)} (step {step})"


def checkpoint_cell(path: str | None, step: int | None = None) -> Cell:
    """The same in a cell; its path is shown where a pointer rests on it."""
    return Cell("") if path is None else Cell(name_and_step(path, step), path)
