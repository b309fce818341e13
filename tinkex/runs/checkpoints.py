"""Which checkpoints a recovery starts from, in which order, and whether a run has any."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ..display.checkpoints import checkpoint_cell, name_and_step
from ..display.table import Cell, Row, Table, Tabular, Tone
from ..display.words import age, clock, count, day_and_time, short_id, size
from ..policy import Policy, Specific
from ..types import Checkpoint, TinkerPath

#: Keys of a checkpoint's `user_metadata` under which its cursor travels.
STEP_KEY = "tinkex_step"
DATA_KEY = "tinkex_data"

#: The highest step: what a database holds.
MOST_STEPS = 2**63 - 1

_COLUMNS = ("order", "checkpoint", "run", "saved", "size", "expires", "left out because")

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


class Cursor(NamedTuple):
    """Where a training loop stood when a checkpoint was saved.

    `step` is the next step to run, `data` any JSON value for the position in the data.
    """

    step: int
    data: Any = None

    def to_metadata(self) -> dict[str, str]:
        """The cursor as a checkpoint's `user_metadata`."""
        metadata = {STEP_KEY: str(self.step)}
        if self.data is not None:
            metadata[DATA_KEY] = json.dumps(self.data, separators=(",", ":"))
        return metadata


def cursor_of(checkpoint: Checkpoint, recorded: Mapping[str, Cursor]) -> Cursor | None:
    """The cursor in a checkpoint's metadata, else the one recorded here for it, else `None`.

    The metadata goes first: a name may have been saved again, and the answer been lost.
    """
    metadata = checkpoint.user_metadata or {}
    try:
        step = int(metadata[STEP_KEY])
        data = json.loads(metadata[DATA_KEY]) if DATA_KEY in metadata else None
    except (KeyError, TypeError, ValueError):
        step, data = -1, None
    here = recorded.get(checkpoint.tinker_path)
    return Cursor(step=step, data=data) if 0 <= step <= MOST_STEPS else here


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint that a recovery would try; `step` is its next step, where recorded.

    `is_expired`: it should be gone by the server's clock, so it is tried after all others.
    """

    checkpoint: Checkpoint
    step: int | None
    expires_at: datetime | None
    is_expired: bool = False

    def __repr__(self) -> str:
        expired = ", expired" if self.is_expired else ""
        return f"<Candidate {name_and_step(self.checkpoint.tinker_path, self.step)}{expired}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A checkpoint that a recovery would not try, and why."""

    checkpoint: Checkpoint
    reason: str

    def __repr__(self) -> str:
        return f"<LeftOut {name_and_step(self.checkpoint.tinker_path, None)}: {self.reason}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Tabular):
    """What a recovery would do at `time`: the candidates in order, and what was left out.

    `time` is aware UTC, by the server's clock where that is known.
    """

    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    time: datetime = field(compare=False)

    def table(self) -> Table:
        """The candidates in their order, then what was left out with the reason."""
        would = count(len(self.candidates), "checkpoint") if self.candidates else "no checkpoint"
        left_out = f", {len(self.left_out):,} left out" if self.left_out else ""
        title = f"a recovery would try {would}{left_out}; as of {clock(self.time)}"
        rows = [
            self._row(str(number), each.checkpoint, each.step)
            for number, each in enumerate(self.candidates, 1)
        ]
        for each in self.left_out:
            cursor = cursor_of(each.checkpoint, {})
            step = None if cursor is None else cursor.step
            rows.append(self._row("", each.checkpoint, step, each.reason))
        return Table.of(title, _COLUMNS, rows, lambda row: row)

    def _row(self, number: str, saved: Checkpoint, step: int | None, reason: str = "") -> Row:
        until, now = saved.expires_at, self.time
        tone: Tone | None = "warn" if _has_expired(saved, now) and number else None
        return (
            number,
            checkpoint_cell(saved.tinker_path, step),
            short_id(_run_of(saved.tinker_path)),
            Cell(age(min(saved.time, now), now) if saved.time else "", day_and_time(saved.time)),
            size(saved.size_bytes),
            Cell(age(until, now), day_and_time(until), tone),
            Cell.long(reason),
        )


def plan_recovery(
    policy: Policy,
    checkpoints: Iterable[Checkpoint],
    *,
    recorded: Mapping[str, Cursor],
    broken: Collection[str] = (),
    tried: int = 0,
    lineage: Sequence[str] = (),
    forks: Mapping[str, str] | None = None,
    has_resume_step: bool = False,
    now: datetime,
) -> Plan:
    """Order the checkpoints of a lineage as a recovery tries them: the newest first.

    `checkpoints` are all that are known, those without a time in the order they were saved, and
    `broken` the paths that did not load. `lineage` are run ids, the live one first: what a run
    saved is newer than what those before it did. `forks` tells for each run before the live one
    the path that the next one was made from: what it saved later is of no generation. `tried` of
    the policy's checkpoints were used up by this incident already. Without `has_resume_step` a
    checkpoint without a step is left out where an older one has one. Those that expired before
    `now`, the server's time where that is known, come last: a clock may be wrong.
    """
    checkpoints = list(checkpoints)
    known, again = by_path(checkpoints), saved_again(checkpoints)
    recorded = {path: cursor for path, cursor in recorded.items() if path not in again}
    ordered, others = _wanted(policy, known, recorded, lineage, forks or {})
    is_named = isinstance(policy.checkpoint_strategy, Specific)
    allowed = 1 if is_named else 1 + policy.fallback_checkpoints
    left_out = [LeftOut(checkpoint=known[path], reason=reason) for path, reason in others.items()]
    candidates: list[Candidate] = []
    ordered.sort(key=lambda each: _has_expired(each, now))
    cursors = [None if _unfit(each, ()) else cursor_of(each, recorded) for each in ordered]
    # Where the oldest one with a step stands among those that have expired, and have not.
    last = {_has_expired(ordered[i], now): i for i, cursor in enumerate(cursors) if cursor}
    for position, (checkpoint, cursor) in enumerate(zip(ordered, cursors, strict=True)):
        is_late, until = _has_expired(checkpoint, now), checkpoint.expires_at
        reason = _unfit(checkpoint, broken)
        if not (reason or cursor or has_resume_step) and position < last.get(is_late, -1):
            reason = "no step is recorded for it, and for an older one there is"
        if not reason and len(candidates) + tried >= allowed:
            before = f"it expired at {until}, and goes after" if is_late else "older than"
            reason = f"{before} the {allowed} that the policy allows to try"
        if reason:
            left_out.append(LeftOut(checkpoint=checkpoint, reason=reason))
            continue
        step = cursor.step if cursor else None
        rung = Candidate(checkpoint=checkpoint, step=step, expires_at=until, is_expired=is_late)
        candidates.append(rung)
    return Plan(candidates=tuple(candidates), left_out=tuple(left_out), time=now)


def _wanted(
    policy: Policy,
    known: Mapping[str, Checkpoint],
    recorded: Mapping[str, Cursor],
    lineage: Sequence[str],
    forks: Mapping[str, str],
) -> tuple[list[Checkpoint], dict[str, str]]:
    """What may be tried, the newest first, and the paths that may not, each with the reason."""
    strategy = policy.checkpoint_strategy
    if isinstance(strategy, Specific):
        others = dict.fromkeys(known, "the policy names another checkpoint")
        others.pop(strategy.path, None)
        return [known.get(strategy.path) or Checkpoint.from_path(strategy.path)], others
    ordered = _newest_first(list(known.values()), recorded, lineage)
    others = dict.fromkeys(_cut_off(ordered, forks), "it was saved after the next run began")
    return [each for each in ordered if each.tinker_path not in others], others


def saved_again(checkpoints: Iterable[Checkpoint]) -> set[str]:
    """The paths that other means saved again: the server has another time and no step for them."""
    written: dict[str, datetime | None] = {}
    again = set()
    for each in checkpoints:
        if STEP_KEY in (each.user_metadata or {}):
            written[each.tinker_path] = each.time
        elif each.time and written.get(each.tinker_path) not in (None, each.time):
            again.add(each.tinker_path)
    return again


def by_path(checkpoints: Iterable[Checkpoint]) -> dict[str, Checkpoint]:
    """Each path once: the last of its checkpoints counts; a time it lacks is an earlier one's."""
    known: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        before = known.pop(checkpoint.tinker_path, checkpoint)
        lacks_time = checkpoint.time is None and before.time is not None
        last = replace(checkpoint, time=before.time) if lacks_time else checkpoint
        known[checkpoint.tinker_path] = last
    return known


def _cut_off(newest_first: Iterable[Checkpoint], forks: Mapping[str, str]) -> list[str]:
    """The paths of those newer than what the next run was made from, which may be a run before."""
    of_runs: dict[str, list[str]] = {}
    for each in newest_first:
        of_runs.setdefault(_run_of(each.tinker_path), []).append(each.tinker_path)
    found = []
    for run_id, path in forks.items():
        paths = of_runs.get(run_id, [])
        if path in paths:
            found += paths[: paths.index(path)]
        elif _run_of(path) != run_id:
            found += paths
    return found


def _run_of(path: str) -> str:
    return path.removeprefix("tinker://").partition("/")[0]


def _newest_first(
    checkpoints: list[Checkpoint], recorded: Mapping[str, Cursor], lineage: Sequence[str]
) -> list[Checkpoint]:
    by_run: dict[int, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        run_id = _run_of(checkpoint.tinker_path)
        rank = lineage.index(run_id) if run_id in lineage else len(lineage)
        by_run.setdefault(rank, []).append(checkpoint)
    return [each for rank in sorted(by_run) for each in _newest_of_a_run(by_run[rank], recorded)]


def _newest_of_a_run(
    checkpoints: list[Checkpoint], recorded: Mapping[str, Cursor]
) -> list[Checkpoint]:
    """By time where all have one, else by step where all have one, else as they are listed."""
    steps = [cursor.step if (cursor := cursor_of(c, recorded)) else -1 for c in checkpoints]
    has_times = all(checkpoint.time is not None for checkpoint in checkpoints)
    has_steps = has_times or -1 not in steps

    def age(position: int) -> tuple[datetime, int, int]:
        moment = checkpoints[position].time if has_times else None
        return moment or _BEFORE_ALL, steps[position] if has_steps else -1, position

    return [checkpoints[i] for i in sorted(range(len(checkpoints)), key=age, reverse=True)]


def _has_expired(checkpoint: Checkpoint, now: datetime) -> bool:
    return checkpoint.expires_at is not None and checkpoint.expires_at <= now


def _unfit(checkpoint: Checkpoint, broken: Collection[str]) -> str | None:
    """Why a checkpoint cannot be restored, if so."""
    if checkpoint.tinker_path in broken:
        return "it did not load"
    try:
        kind = TinkerPath.parse(checkpoint.tinker_path).checkpoint_type
    except ValueError:
        return "its path is not that of a checkpoint"
    if kind != "training" or checkpoint.checkpoint_type != "training":
        return f"a checkpoint of type {checkpoint.checkpoint_type!r} cannot be trained from"
    return None


def newest_checkpoint(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The training checkpoint that was saved last."""
    training = [each for each in checkpoints if each.checkpoint_type == "training"]
    return max(training, key=lambda each: each.time or _BEFORE_ALL, default=None)


def newest_of(
    checkpoints: Iterable[Checkpoint], recorded: Mapping[str, Cursor], lineage: Sequence[str]
) -> tuple[Checkpoint, Cursor | None]:
    """The newest of some, one at least, as a plan tells it, and its cursor where known."""
    checkpoints = list(checkpoints)
    known, again = by_path(checkpoints), saved_again(checkpoints)
    cursors = {path: recorded[path] for path in known if path in recorded and path not in again}
    newest = _newest_first(list(known.values()), cursors, lineage)[0]
    return newest, cursor_of(newest, cursors)


def unprotected_since(
    newest: Checkpoint | None, started_at: datetime, age: float, now: datetime, within: float
) -> datetime | None:
    """When a run became unprotected, or now where it soon will be; `None`: it is protected.

    It may go `within` seconds without a training checkpoint, or have as many left with one that
    expires. It is `age` seconds old, and `now` is the server's time where that is known.
    """
    if newest is None:
        return started_at if age >= within else None
    if newest.expires_at is None or newest.expires_at - now > timedelta(seconds=within):
        return None
    return min(newest.expires_at, now)
