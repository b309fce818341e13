"""The optimizer steps of a run and its successors, from the server's log."""

from __future__ import annotations

from ..types import TinkerPath
from .web.server import RehearsalServer

#: (step, loss) of each optimizer step that led to the newest weights, in order.
History = tuple[tuple[int, float], ...]


def history(server: RehearsalServer, run_id: str) -> History:
    """Read the steps that led to the newest weights of a run, through those it was made from.

    An earlier run's steps count up to the checkpoint that the later one was made from.
    """
    run, steps = server.run(run_id), server.steps(run_id)
    seen = set[str]()
    while run.created_from is not None and run.run_id not in seen:
        seen.add(run.run_id)  # one may have loaded a checkpoint of its own
        end, source = run.start_step, TinkerPath.parse(run.created_from).run_id
        run = server.run(source)
        steps = (*(each for each in server.steps(source) if each.step < end), *steps)
    return tuple((each.step, each.loss) for each in steps)


def largest_difference(one: History, other: History, *, start: int) -> float:
    """The largest difference of the loss between two histories, from step `start` on.

    `ValueError` if they do not have the same steps.
    """
    steps = [step for step, _ in one]
    if steps != [step for step, _ in other]:
        raise ValueError("the histories are not of the same steps")
    pairs = zip(one, other, strict=True)
    return max((abs(loss - found) for (step, loss), (_, found) in pairs if step >= start))
