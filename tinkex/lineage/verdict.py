"""Whether an owner of a lineage is superseded, and by which run: the same answer for each owner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..types import TrainingRun
from .lineages import Lineage
from .metadata import OWNER, text_of


class Holder(NamedTuple):
    """Who trains a lineage, with which run, and of which generation that is.

    Before it has made a run, it is the one that it goes on from, of another owner.
    """

    owner: str
    root: str
    name: str | None
    run_id: str
    generation: int


class Successor(NamedTuple):
    """The run that a trainer is superseded by, and its owner, where that is told.

    `is_tie`: a checkpoint that the trainer is just saving may turn it round.
    """

    run_id: str
    owner: str | None
    is_tie: bool


def superseded_by(me: Holder, families: Iterable[Lineage]) -> Successor | None:
    """The run that supersedes a trainer; `None`: it goes on.

    `families` are those of its root and its name, the one that counts first, as `families_in` gives
    them. Its own runs are told by their owner: a request of its own that was lost supersedes
    no trainer.

    Within its root a run of another owner does that which is of a higher generation and has a
    training checkpoint. Of equal generations the one with a checkpoint goes on, else the one with
    the smaller run id.
    """
    families = list(families)
    own = next((each for each in families if each.root == me.root), None)
    if own is None:
        return None
    if families[0] is not own:
        winner = families[0].newest or families[0].last
        return Successor(winner.training_run_id, text_of(winner, OWNER), is_tie=True)
    ranks = {each.training_run_id: _rank(own, each) for each in own.runs}
    mine = {each.training_run_id for each in own.runs if text_of(each, OWNER) == me.owner}
    # One that another monitor of this process has made may be the live one.
    mine.add(me.run_id)
    at_stake = [ranks[each] for each in mine & ranks.keys() if ranks[each][0] == -me.generation]
    least = min(at_stake, default=(-me.generation, False, ""))
    above = [
        each
        for each in own.runs
        if each.training_run_id not in mine
        and ranks[each.training_run_id] < least
        # A higher generation that has saved nothing may be what a load that failed left behind.
        and (each.last_checkpoint is not None or own.number_of(each) == me.generation)
    ]
    if not above:
        return None
    winner = min(above, key=lambda each: ranks[each.training_run_id])
    is_tie = own.number_of(winner) == me.generation
    return Successor(winner.training_run_id, text_of(winner, OWNER), is_tie)


def _rank(line: Lineage, run: TrainingRun) -> tuple[int, bool, str]:
    """What counts among runs of a lineage: the smaller, the more."""
    return -line.number_of(run), run.last_checkpoint is None, run.training_run_id
