"""The optimizer steps of a run and its successors, from the server's log."""

from __future__ import annotations

from collections.abc import Sequence

from .web.server import RehearsalServer

#: (step, loss) of each optimizer step that led to the newest weights, in order.
History = tuple[tuple[int, float], ...]


def history(server: RehearsalServer, run_ids: Sequence[str]) -> History:
    """Read the steps that led to the weights of the last of `run_ids`.

    The ids are those of one lineage, oldest first. A run's steps count up to the step at which
    its successor began.
    """
    ends: list[int | None] = [server.run(run_id).start_step for run_id in run_ids[1:]]
    return tuple(
        (applied.step, applied.loss)
        for run_id, end in zip(run_ids, [*ends, None], strict=True)
        for applied in server.steps(run_id)
        if end is None or applied.step < end
    )


def largest_difference(one: History, other: History, *, start: int) -> float:
    """The largest difference of the loss between two histories, from step `start` on.

    `ValueError` if they do not have the same steps.
    """
    steps = [step for step, _ in one]
    if steps != [step for step, _ in other]:
        raise ValueError("the histories are not of the same steps")
    pairs = zip(one, other, strict=True)
    return max((abs(loss - found) for (step, loss), (_, found) in pairs if step >= start))
