"""`tinkex report`: what became of a run, in Markdown, to be pasted where help is asked for."""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from urllib.parse import urlsplit

from .. import __version__
from ..config import Config
from ..config.secret import Secret
from ..display.words import age, day_and_time, facts, name_of, size
from ..errors import RestError, in_words
from ..journal.journal import JournalEntry
from ..lineage.lineages import Lineage, lineage_of
from ..polling.reasons import WAIT, reason_in
from ..ports import RestPort
from ..runs.checkpoints import cursor_of
from ..types import Checkpoint, TrainingRun
from .account import add_run, rest_port, told_run, use_login
from .console import UNUSABLE, say
from .history import entries_of

#: How many of the newest checkpoints of a run are listed.
MOST_CHECKPOINTS = 10

#: The events of a journal that are no part of an incident.
_PLAIN = frozenset({"registered", "saved"})


def add(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Writes a report of a run and its lineage in Markdown, for a support thread: "
        "ids, causes, checkpoints, versions. No key and no name of a user is in it, nor any "
        "metadata but tinkex's own.",
    )
    add_run(parser)
    parser.add_argument("--journal", help="the journal of its process, for a timeline")
    parser.set_defaults(command=_report)


def _report(given: argparse.Namespace) -> int:
    config, rest = use_login(), rest_port()
    entries: tuple[JournalEntry, ...] | None = ()
    run_id = told_run(config, given)
    if given.journal is not None:
        entries = entries_of(given.journal, run_id)
        if entries is None:
            return UNUSABLE
    line = lineage_of(rest, config, run_id)
    for text in _lines(rest, config, line, run_id, entries or ()):
        # Names and errors may hold it.
        say(text.replace(config.require_key(), "***"))
    return 0


def _lines(
    rest: RestPort,
    config: Config,
    line: Lineage,
    run_id: str,
    entries: Sequence[JournalEntry],
) -> Iterator[str]:
    now = datetime.now(UTC)
    yield f"# Report on run {_code(run_id)}"
    yield ""
    yield from _list(_summary(config, line, now))
    runs = sorted(line.runs, key=line.number_of)
    yield from _section("Lineage", _RUNS, [_run(rest, config, line, each, now) for each in runs])
    for run in runs:
        yield from _checkpoints(rest, config, run, now)
    timeline = [each for each in entries if each.kind not in _PLAIN]
    if timeline:
        rows = [
            (f"{each.time:%Y-%m-%d %H:%M:%S}", _code(each.run_id), each.kind, facts(each.body))
            for each in timeline
        ]
        yield from _section("Timeline (UTC)", ("time", "run", "event", "what is known"), rows)


def _summary(config: Config, line: Lineage, now: datetime) -> Iterator[tuple[str, str]]:
    run = line.newest or line.last
    yield "written", f"{now:%Y-%m-%d %H:%M:%S} UTC"
    yield "server", urlsplit(config.base_url).hostname or ""
    yield "name", line.name or "none"
    yield "base model", run.base_model or "unknown"
    yield "LoRA rank", str(run.lora_rank or "unknown")
    yield "newest run", _code(run.training_run_id)
    yield "tinkex", __version__
    with suppress(metadata.PackageNotFoundError):
        yield "tinker", metadata.version("tinker")
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"


_RUNS = ("generation", "run", "state", "why", "last request (UTC)", "made from")


def _run(
    rest: RestPort, config: Config, line: Lineage, run: TrainingRun, now: datetime
) -> tuple[str, ...]:
    return (
        str(line.number_of(run)),
        _code(run.training_run_id),
        "corrupted" if run.corrupted else "not flagged",
        _reason(rest, config, run) or "",
        _moment(run.last_request_time, now),
        _code(line.source_of(run)),
    )


def _reason(rest: RestPort, config: Config, run: TrainingRun) -> str | None:
    """What the server tells of the run's session, where it tells anything."""
    session_id, colon, _ = run.training_run_id.partition(":")
    if not colon or not rest.can_search_sessions:
        return None
    secrets = Secret((config.require_key(), *(config.headers or {}).values()))
    with suppress(RestError, ValueError):
        return reason_in(rest.sessions(config, session_id, WAIT), session_id, secrets)
    return None


def _checkpoints(rest: RestPort, config: Config, run: TrainingRun, now: datetime) -> Iterator[str]:
    heading = f"Checkpoints of `{run.training_run_id}`"
    try:
        found = rest.checkpoints(config, run.training_run_id)
    except RestError as error:
        yield from ("", f"## {heading}", "", f"They could not be had: {_cell(in_words(error))}.")
        return
    newest = sorted(found, key=lambda each: (each.time is not None, each.time), reverse=True)
    rows = [_checkpoint(each, now) for each in newest[:MOST_CHECKPOINTS]]
    more = len(newest) - len(rows)
    titles = ("name", "kind", "next step", "saved (UTC)", "size", "expires (UTC)")
    yield from _section(heading + (f" (the newest of {len(newest)})" if more else ""), titles, rows)


def _checkpoint(each: Checkpoint, now: datetime) -> tuple[str, ...]:
    cursor = cursor_of(each, {})
    return (
        _code(name_of(each.tinker_path)),
        each.checkpoint_type or "",
        "" if cursor is None else str(cursor.step),
        _moment(each.time, now),
        size(each.size_bytes),
        "never" if each.expires_at is None else _moment(each.expires_at, now),
    )


# Markdown


def _section(heading: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from ("", f"## {heading}", "")
    if not rows:
        yield "None."
        return
    yield _row(titles)
    yield _row(["---"] * len(titles))
    for row in rows:
        yield _row(row)


def _list(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, value in pairs:
        yield f"- {name}: {_cell(value)}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_cell(each) for each in cells)} |"


def _cell(text: str) -> str:
    """Text that ends no cell and begins no tag, link or image."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|\[])", r"\\\1", line)


def _code(text: str | None) -> str:
    return "" if not text else f"`{text.replace('`', '')}`"


def _moment(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f"{day_and_time(moment)} ({age(moment, now)})"
