"""`tinkex watch`: show runs as the server sees them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..display.words import age, name_of
from ..errors import ApiNotFoundError, RestError, in_words
from ..lineage.lineages import lineage_named, list_all
from ..ports import RestPort
from ..types import TrainingRun
from .account import rest_port, use_login
from .console import FAILED, UNREACHABLE, filled, plain, run_id, say, seconds, table, terminal

if TYPE_CHECKING:
    from rich.console import Group

TITLES = ("Run ID", "Base Model", "LoRA", "Status", "Last Update", "Last Checkpoint", "Saved")

#: What stands for the id of a run where the server's cannot be read.
NO_ID = "(no id)"

_STYLES = {"healthy": "green", "corrupted": "bold red", "missing": "red", "unreachable": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A run at one look; `run` is `None` where the server told nothing of it."""

    run_id: str
    state: str
    run: TrainingRun | None = None
    error: str | None = None

    @classmethod
    def of(cls, run: TrainingRun) -> Seen:
        """What the server told."""
        state = "corrupted" if run.corrupted else "healthy"
        return cls(run_id=run.training_run_id, state=state, run=run)

    def cells(self, now: datetime) -> tuple[str, ...]:
        """A row of the table."""
        run = self.run
        if run is None:
            return (self.run_id, "", "", self.state, "", "", "")
        saved = run.last_checkpoint
        return (
            self.run_id,
            run.base_model or "",
            f"rank {run.lora_rank}" if run.lora_rank else "",
            self.state,
            age(run.last_request_time, now),
            "none" if saved is None else name_of(saved.tinker_path),
            "" if saved is None else age(saved.time, now),
        )

    def as_json(self) -> dict[str, Any]:
        """The same for programs; what is not known is null."""
        run, saved = self.run, None if self.run is None else self.run.last_checkpoint
        return {
            "run_id": self.run_id,
            "state": self.state,
            "base_model": None if run is None else run.base_model,
            "lora_rank": None if run is None else run.lora_rank,
            "last_request_time": None if run is None else _iso(run.last_request_time),
            "last_checkpoint": None if saved is None else saved.tinker_path,
            "last_checkpoint_time": None if saved is None else _iso(saved.time),
            "error": self.error,
        }


def add(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Shows runs as the server sees them, until Ctrl-C, or none of them is there. "
        "The exit "
        "status is 0 where all are healthy, 1 where one is corrupted or missing, else 3 where the "
        "server could not be asked.",
    )
    which = parser.add_argument_group("which runs").add_mutually_exclusive_group(required=True)
    which.add_argument("runs", nargs="*", type=run_id, default=[], metavar="RUN_ID", help="these")
    which.add_argument("--all", action="store_true", help="all of the account")
    which.add_argument(
        "--name", type=filled, help="the newest of those that go by a name (tinkex.open_run)"
    )
    parser.add_argument("--once", action="store_true", help="look once")
    parser.add_argument(
        "--interval",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="from the end of a look to the next (default: 30)",
    )
    parser.add_argument(
        "-f",
        "--format",
        choices=("table", "json"),
        default="table",
        help="json: an object, or a line for each look (default: table)",
    )
    parser.set_defaults(command=_watch)


def _watch(given: argparse.Namespace) -> int:
    config, rest = use_login(), rest_port()
    with _shown(given) as show:
        while True:
            seen = _look(rest, config, given)
            show(seen)
            # Of a mistyped id nothing will ever be seen.
            if given.once or all(each.state == "missing" for each in seen):
                return _status(seen)
            time.sleep(given.interval)


def _look(rest: RestPort, config: Config, given: argparse.Namespace) -> list[Seen]:
    if given.runs:
        return [_asked(rest, config, run_id) for run_id in dict.fromkeys(given.runs)]
    about = f"name {given.name}" if given.name else "all runs"
    try:
        if given.all:
            without_id: list[Any] = []
            rows = list(list_all(rest, config, without_id).items())
            rows += [(NO_ID, row) for row in without_id]
            return [_listed(rest, config, *row) for row in rows]
        line = lineage_named(rest, config, given.name)
    except RestError as error:
        return [Seen(run_id=about, state="unreachable", error=in_words(error))]
    if line is None:
        return [Seen(run_id=about, state="missing", error="no run goes by it")]
    return [Seen.of(line.newest or line.last)]


def _listed(rest: RestPort, config: Config, run_id: str, row: Any) -> Seen:
    """A row of a list; one that does not fit hides no other."""
    try:
        return Seen.of(rest.as_run(config, row))
    except RestError as error:
        return Seen(run_id=run_id, state="unreachable", error=in_words(error))


def _asked(rest: RestPort, config: Config, run_id: str) -> Seen:
    try:
        return Seen.of(rest.run(config, run_id))
    except ApiNotFoundError as error:
        return Seen(run_id=run_id, state="missing", error=in_words(error))
    except RestError as error:
        return Seen(run_id=run_id, state="unreachable", error=in_words(error))


def _status(seen: list[Seen]) -> int:
    states = {each.state for each in seen}
    if states & {"corrupted", "missing"}:
        return FAILED
    return UNREACHABLE if "unreachable" in states else 0


@contextmanager
def _shown(given: argparse.Namespace) -> Iterator[Callable[[list[Seen]], None]]:
    """What shows a look, as the user asked for it."""
    if given.format == "json":
        yield lambda seen: say(_as_json(seen, 2 if given.once else None))
        return
    console = terminal()
    if given.once or not console.is_terminal or console.is_dumb_terminal:
        yield lambda seen: console.print(_drawn(seen))
        return
    from rich.live import Live  # noqa: PLC0415 (an extra)

    with Live(console=console, auto_refresh=False) as live:
        console.show_cursor()  # where the process is ended, no code of it would do so
        # To draw ten thousand rows, of which a terminal shows the first, takes ten seconds.
        yield lambda seen: live.update(_drawn(seen, console.height), refresh=True)


def _as_json(seen: list[Seen], indent: int | None) -> str:
    looked = {"time": _iso(datetime.now(UTC)), "runs": [each.as_json() for each in seen]}
    return json.dumps(looked, indent=indent)


def _drawn(seen: list[Seen], most: int | None = None) -> Group:
    from rich.console import Group  # noqa: PLC0415 (an extra)
    from rich.text import Text  # noqa: PLC0415 (an extra)

    now = datetime.now(UTC)
    caption = f"{len(seen)} run{'' if len(seen) == 1 else 's'} at {now:%H:%M:%S} UTC"
    # A terminal may not show all of them.
    listed = sorted(seen, key=lambda each: each.state == "healthy")[:most]
    rows = [(each.cells(now), _STYLES[each.state]) for each in listed]
    drawn = table(caption, TITLES, rows, styled="Status")
    return Group(
        drawn, *(Text(plain(f"{each.run_id}: {each.error}")) for each in listed if each.error)
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
