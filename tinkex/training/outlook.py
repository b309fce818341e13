"""What a segment begins with: the run as it is, or as it is planned to be restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..display.checkpoints import checkpoint_cell
from ..display.table import Cell, facts_table
from ..display.words import count, name_of
from ..recovery.attempt import AttemptTask, make_plan
from ..runs.checkpoints import Cursor, cursor_of
from ..types import Checkpoint

_NO_OPTIMIZER = Cell("begins at zero", tone="warn")


class Outlook(NamedTuple):
    """A consistent look at a run, for a segment that is about to begin.

    `source` is the checkpoint that the live generation was made from, `cursor` where the loop
    stood then. `client` is `None` where the run is not restored yet: then they are what is planned.
    """

    run_id: str
    client: Any
    source: Checkpoint | None
    cursor: Cursor | None
    with_optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ResumePoint:
    """What a segment goes on from.

    `step` is the next step and `data` what was recorded with it; `steps_lost` says how many
    steps have to be run again (`None`: unknown), `optimizer_restored` whether the optimizer's
    state came back with the weights.
    """

    checkpoint: Checkpoint
    step: int
    data: Any
    steps_lost: int | None
    optimizer_restored: bool

    def __repr__(self) -> str:
        return f"<ResumePoint {self}>"

    def __str__(self) -> str:
        lost = "" if self.steps_lost is None else f", {count(self.steps_lost, 'step')} lost"
        optimizer = "" if self.optimizer_restored else ", optimizer not restored"
        name = name_of(self.checkpoint.tinker_path)
        return f"step {self.step} from {name}{lost}{optimizer}"

    def _repr_html_(self) -> str:
        facts: dict[str, Cell | str] = {
            "step": str(self.step),
            "checkpoint": checkpoint_cell(self.checkpoint.tinker_path),
            "data": Cell.long(self.data),
            "steps lost": "unknown" if self.steps_lost is None else str(self.steps_lost),
            "optimizer": "restored" if self.optimizer_restored else _NO_OPTIMIZER,
        }
        return facts_table(f"the loop goes on at step {self.step}", facts).html()


def planned(task: AttemptTask) -> Outlook | None:
    """What a run would be restored to by an attempt, if that has a checkpoint.

    Raises what asking for checkpoints raises.
    """
    first = next(iter(make_plan(task).candidates), None)
    if first is None:
        return None
    known = None if first.step is None else cursor_of(first.checkpoint, task.request.recorded)
    return Outlook(task.request.run_id, None, first.checkpoint, known, task.with_optimizer)
