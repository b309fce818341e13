"""Finds the lineage of a run in its account's list of runs, by the metadata that runs carry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from .errors import ApiResponseError, CheckpointMissingError
from .ports import PAGE_SIZE, RestPort
from .recovery.attempt import GENERATION, MADE_FROM, RECOVERED_FROM, ROOT
from .runs.state import Generation
from .types import TrainingRun

#: How often a list is read from its beginning until it is whole: rows move while runs train.
PASSES = 3


class Lineage(NamedTuple):
    """A run with all that it was recovered from, as the server knows them.

    `newest` is the run to go on from, the highest generation that has a training checkpoint, and
    `generation` its number; `past` are those before it, the first one first.
    """

    newest: TrainingRun
    generation: int
    past: tuple[Generation, ...]


def find_lineage(rest: RestPort, config: Hashable, run_id: str) -> Lineage:
    """Find the lineage that a run belongs to, by any run id of it.

    A generation without a training checkpoint is passed over: a load that failed may have left it.
    Of two equal ones the smaller run id counts.

    Raises:
        CheckpointMissingError: No run of the lineage has a training checkpoint.
        RestError: The run or the list could not be had, or not as a whole.
    """
    rows = list_all(rest, config)
    asked = rest.as_run(config, rows[run_id]) if run_id in rows else rest.run(config, run_id)
    root = _text(asked, ROOT) or run_id
    members = {
        each: rest.as_run(config, row)
        for each, row in rows.items()
        if each == root or _metadata_of(row).get(ROOT) == root
    }
    members.setdefault(run_id, asked)
    trained = [each for each in members.values() if each.last_checkpoint is not None]
    if not trained:
        raise CheckpointMissingError(run_id, "no run of its lineage has a training checkpoint")
    chains = {each.training_run_id: _chain(each, members) for each in trained}
    numbers = {each: _number(members[each], chain) for each, chain in chains.items()}
    newest = min(numbers, key=lambda each: (-numbers[each], each))
    past = tuple(
        Generation(
            run_id=each,
            checkpoint=_text(members[each], MADE_FROM) if each in members else None,
            started_at=None,
        )
        for each in chains[newest][:-1]
    )
    return Lineage(members[newest], numbers[newest], past)


def list_all(rest: RestPort, config: Hashable) -> dict[str, Any]:
    """Every run of an account by its id, as the server sent it.

    Raises:
        RestError: A page could not be had, or rows that the list should have never came.
        TypeError: The REST module lists no runs.
    """
    if not rest.can_list:
        raise TypeError(
            "lineages are found in lists of runs; rest_module has no list_training_runs"
        )
    found: dict[str, Any] = {}
    for _ in range(PASSES):
        offset, unreadable, total = 0, 0, None
        while total is None or offset < total:
            page = rest.rows(config, offset, PAGE_SIZE)
            rows = page.all()
            count, told = page.totals()
            known = len(found)
            found.update((run_id, row) for run_id, row, _ in rows if run_id)
            unreadable += sum(not run_id for run_id, _, _ in rows)
            offset, total = offset + count, total if told is None else told
            if not count or (told is None and len(found) == known):
                break
        if total is None or len(found) + unreadable >= total:
            return found
    raise ApiResponseError(f"the list of runs has {len(found)} of {total} runs; try again")


def _chain(run: TrainingRun, members: Mapping[str, TrainingRun]) -> list[str]:
    """The ids from the first run that is known of to this one."""
    chain = [run.training_run_id]
    while (each := members.get(chain[0])) is not None:
        before = _text(each, RECOVERED_FROM)
        if before is None or before in chain:
            break
        chain.insert(0, before)
    return chain


def _number(run: TrainingRun, chain: list[str]) -> int:
    told = _text(run, GENERATION) or ""
    return int(told) if told.isdecimal() and told.isascii() else len(chain) - 1


def _text(run: TrainingRun, key: str) -> str | None:
    found = (run.user_metadata or {}).get(key)
    return found if isinstance(found, str) and found else None


def _metadata_of(row: Any) -> Mapping[str, Any]:
    found = row.get("user_metadata") if isinstance(row, Mapping) else None
    found = found or getattr(row, "user_metadata", None)
    return found if isinstance(found, Mapping) else {}
