"""`tinkex history`: show what a journal tells."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..display.words import facts, short_id
from ..journal.journal import Journal, JournalEntry, tone_of
from .console import UNUSABLE, complain, say, table, terminal

TITLES = ("Time", "Run", "Event", "What is known")

_STYLES = {"bad": "red", "warn": "yellow", "good": "green"}


def add(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Shows what became of the runs of a journal, the oldest first. The file may be "
        "in use: it is only read.",
    )
    parser.add_argument("journal", help="the file")
    parser.add_argument("--run", metavar="RUN_ID", help="only of this run's lineage, by any id")
    parser.add_argument(
        "-f", "--format", choices=("table", "json"), default="table", help="default: table"
    )
    parser.set_defaults(command=_history)


def _history(given: argparse.Namespace) -> int:
    entries = entries_of(given.journal, given.run)
    if entries is None:
        return UNUSABLE
    if given.run is not None and not entries:
        complain(f"the journal {given.journal} knows no run {given.run}")
        return UNUSABLE
    if given.format == "json":
        say(json.dumps([_as_json(each) for each in entries], indent=2))
        return 0
    rows = [(_cells(each), _STYLES.get(tone_of(each.kind) or "", "")) for each in entries]
    caption = f"{len(entries)} event{'' if len(entries) == 1 else 's'}, times in UTC"
    terminal().print(table(caption, TITLES, rows, styled="Event"))
    return 0


def entries_of(path: str, run_id: str | None) -> tuple[JournalEntry, ...] | None:
    """What a journal tells, of one lineage or of all; `None` where there is no such file: said so.

    Raises:
        JournalError: The file cannot be read, or is no journal.
    """
    if not is_there(path):
        return None
    journal = Journal(path)
    try:
        return journal.history(run_id)
    finally:
        journal.close()


def is_there(path: str) -> bool:
    """Whether there is such a file; where there is none, it is said.

    An empty file is none: it would be made one.
    """
    file = Path(path)
    found = file.is_file() and file.stat().st_size > 0
    if not found:
        complain(f"there is no journal {path}")
    return found


def _cells(entry: JournalEntry) -> tuple[str, ...]:
    time = f"{entry.time:%Y-%m-%d %H:%M:%S}"
    return time, short_id(entry.run_id or entry.root_id), entry.kind, facts(entry.body)


def _as_json(entry: JournalEntry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "time": entry.time.isoformat(),
        "root_id": entry.root_id,
        "run_id": entry.run_id,
        "attempt_id": entry.attempt_id,
        "kind": entry.kind,
        "body": dict(entry.body),
    }
