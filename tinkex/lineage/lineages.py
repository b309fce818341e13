"""Finds lineages in an account's list of runs, by the metadata that runs carry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import ApiResponseError, ApiStatusError
from ..ports import PAGE_SIZE, RestPort
from ..runs.state import Generation, generation_in
from ..types import TinkerPath, TrainingRun
from .metadata import GENERATION, MADE_FROM, NAME, RECOVERED_FROM, ROOT, metadata_of, text_of

#: How often a list is read from its beginning until it is whole: rows move while runs train.
PASSES = 3

#: How many rows are asked for in a page; a server may give fewer.
MOST_ROWS = 500

#: How servers refuse so many.
_TOO_LARGE = frozenset({400, 413, 414, 422})

#: How servers answer that do not list the checkpoints of a run, or of one that has none.
_NOT_LISTED = frozenset({400, 404, 405, 422, 501})


class Lineage:
    """The runs of one lineage, as the server lists them.

    `root` is what each of them names as its `tinkex_root`, or the id of the first one. `last` is
    the highest generation, and `newest` the highest that has a training checkpoint, `None` where
    none has; of two equal ones the smaller run id counts. A run without a training checkpoint may
    be what a load that failed left behind; what it was made from counts where no run has one left.
    """

    def __init__(self, root: str, members: Mapping[str, TrainingRun]) -> None:
        self.root = root
        self._members = members
        self.last = self._highest(members.values())
        trained = [each for each in members.values() if each.last_checkpoint is not None]
        #: Whether a run of it has a training checkpoint of its own.
        self.has_saved = bool(trained)
        trained = trained or [each for each in members.values() if text_of(each, MADE_FROM)]
        self.newest = self._highest(trained) if trained else None

    @property
    def name(self) -> str | None:
        """The name of the run, where it was opened by one."""
        return text_of(self.last, NAME)

    @property
    def runs(self) -> tuple[TrainingRun, ...]:
        """Its runs, in any order."""
        return tuple(self._members.values())

    @property
    def newest_id(self) -> str | None:
        """The id of the newest run that has a training checkpoint."""
        return None if self.newest is None else self.newest.training_run_id

    @property
    def first_id(self) -> str:
        """The id of the first run that is known, the same however often it is gone on with."""
        return min((self.number_of(run), run_id) for run_id, run in self._members.items())[1]

    @property
    def latest(self) -> list[TrainingRun]:
        """The runs that may be trained now: of `newest`'s generation or a higher one.

        One without a training checkpoint does not speak for the others: `newest` may live, too.
        """
        least = 0 if self.newest is None else self.number_of(self.newest)
        return [each for each in self._members.values() if self.number_of(each) >= least]

    def number_of(self, run: TrainingRun) -> int:
        """Which generation a run is, from 0."""
        told = generation_in(text_of(run, GENERATION))
        return len(self._chain(run)) - 1 if told is None else told

    def source_of(self, run: TrainingRun) -> str | None:
        """The path of the checkpoint that a run was made from, where that is known."""
        return self._source_of(run.training_run_id)

    def _source_of(self, run_id: str) -> str | None:
        run = self._members.get(run_id)
        path = None if run is None else text_of(run, MADE_FROM)
        with suppress(ValueError):
            return str(TinkerPath.parse(path or ""))
        return None

    def past_of(self, run: TrainingRun) -> tuple[Generation, ...]:
        """The generations before a run, the first one first."""
        found = self._chain(run)[:-1]
        return tuple(
            Generation(run_id=each, checkpoint=self._source_of(each), started_at=None)
            for each in found
        )

    def _highest(self, runs: Any) -> TrainingRun:
        found: TrainingRun = min(
            runs, key=lambda each: (-self.number_of(each), each.training_run_id)
        )
        return found

    def _chain(self, run: TrainingRun) -> list[str]:
        """The ids from the first run that is known of to this one."""
        chain = [run.training_run_id]
        while (each := self._members.get(chain[0])) is not None:
            before = text_of(each, RECOVERED_FROM)
            if before is None or before in chain:
                break
            chain.insert(0, before)
        return chain


def lineage_of(rest: RestPort, config: Hashable, run_id: str) -> Lineage:
    """The lineage that a run belongs to, by any run id of it.

    Raises:
        RestError: The run or the list could not be had, or not as a whole.
    """
    rows = list_all(rest, config)
    asked = rest.as_run(config, rows[run_id]) if run_id in rows else rest.run(config, run_id)
    root = text_of(asked, ROOT) or run_id
    members = {
        each: rest.as_run(config, row)
        for each, row in rows.items()
        if each == root or metadata_of(row).get(ROOT) == root
    }
    return _with_late_save(rest, config, Lineage(root, {run_id: asked, **members}))


def lineage_named(rest: RestPort, config: Hashable, name: str) -> Lineage | None:
    """The lineage that goes by a name, `None` where a whole list shows that none does.

    Of two that were begun under one name the first of `families_in` counts.

    Raises:
        RestError: The list could not be had, or not as a whole.
    """
    found = families_in(rest, config, list_all(rest, config), name=name)
    return _with_late_save(rest, config, found[0]) if found else None


def _with_late_save(rest: RestPort, config: Hashable, line: Lineage) -> Lineage:
    """The same, unless its last run has saved something that the list did not tell.

    A list may be late, and what a row says of a checkpoint may not be readable.
    """
    if line.newest is not None or not rest.can_list_checkpoints:
        return line
    last = line.last
    try:
        listed = rest.checkpoints(config, last.training_run_id)
    except ApiStatusError as error:
        if error.status not in _NOT_LISTED:
            raise
        return line
    saved = [each for each in listed if each.checkpoint_type == "training"]
    if not saved:
        return line
    members = {each.training_run_id: each for each in line.runs}
    members[last.training_run_id] = replace(last, last_checkpoint=saved[-1])
    return Lineage(line.root, members)


def families_in(
    rest: RestPort,
    config: Hashable,
    rows: Mapping[str, Any],
    *,
    name: str | None,
    root: str | None = None,
) -> list[Lineage]:
    """The lineages among the rows of a list that go by a name or a root, the one that counts first.

    That is one that has saved, else one that was made from a checkpoint; of equal ones the one
    whose first run has the smaller id.
    """
    families: dict[str, dict[str, TrainingRun]] = {}
    for run_id, row in rows.items():
        told = metadata_of(row)
        is_named = name is not None and told.get(NAME) == name
        if is_named or (root is not None and root in (run_id, told.get(ROOT))):
            run = rest.as_run(config, row)
            families.setdefault(text_of(run, ROOT) or run_id, {})[run_id] = run
    found = [Lineage(each, members) for each, members in families.items()]
    return sorted(found, key=_precedence)


def _precedence(line: Lineage) -> tuple[bool, bool, str]:
    """What counts among lineages of one name: the smaller, the more."""
    return not line.has_saved, line.newest is None, line.first_id


def list_all(
    rest: RestPort, config: Hashable, without_id: list[Any] | None = None
) -> dict[str, Any]:
    """Every run of an account by its id, as the server sent it.

    `without_id` gets the rows whose id cannot be read.

    Raises:
        RestError: A page could not be had, or rows that the list should have never came.
        TypeError: The REST module lists no runs.
    """
    if not rest.can_list:
        raise TypeError(
            "lineages are found in lists of runs; rest_module has no list_training_runs"
        )
    found: dict[str, Any] = {}
    unreadable = [] if without_id is None else without_id
    size = MOST_ROWS
    for _ in range(PASSES):
        offset, total = 0, None
        unreadable.clear()
        pages, before = 0, len(found)
        while total is None or offset < total:
            try:
                page = rest.rows(config, offset, size)
            except ApiStatusError as error:
                if size == PAGE_SIZE or error.status not in _TOO_LARGE:
                    raise
                size = PAGE_SIZE
                continue
            rows = page.all()
            count, told = page.totals()
            known = len(found)
            found.update((run_id, row) for run_id, row, _ in rows if run_id)
            unreadable += [row for run_id, row, _ in rows if not run_id]
            offset, total = offset + count, total if told is None else told
            pages += bool(count)
            if not count or (told is None and len(found) == known):
                break
        # Without a total, whatever moved meanwhile comes to light when nothing new does.
        is_still = pages < 2 or len(found) == before
        if is_still if total is None else len(found) + len(unreadable) >= total:
            return found
    raise ApiResponseError(
        f"the list of runs has {len(found)} of {total or 'more'} runs; try again"
    )
