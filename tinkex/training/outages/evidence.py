"""Compares the weights of a run with those of its saves, after its server was down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ...runs.record import Record
from ..steps import Mark

if TYPE_CHECKING:
    from ..ledger import Ledger

#: Log-probabilities that differ by less than `SAME`, as a root of the mean square, are the same;
#: by more than `NEAR` they are others, since the noise of bfloat16 lies below it.
SAME = 1e-4
NEAR = 0.02

#: How many times the noise that two equal requests show log-probabilities may differ.
NOISES = 4.0


@dataclass(slots=True, eq=False)
class Batch:
    """A batch as it was given to the client in one known state, and its log-probabilities there.

    `logprobs` is `None` where they were not answered, or not with the output.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    logprobs: tuple[float, ...] | None = None

    def answered(self, output: Any) -> None:
        """Keep the log-probabilities of an answer, where it has some."""
        self.logprobs = logprobs_of(output)


class Finding(NamedTuple):
    """What a check found: in words, and whether the weights are what they were.

    `back_at` is the path of the state that they are back at; `""` is the beginning of the first
    run. `None` while `is_fine` does not hold is a doubt.
    """

    evidence: str
    is_fine: bool = False
    back_at: str | None = None


@dataclass(slots=True, eq=False)
class Watched:
    """A generation of a run that is trained, and the first batch after each of its last saves.

    While `is_held`, requests wait.

    Threads: the training loop and the SDK's threads add to it, the thread of its server reads.
    """

    record: Record
    run_id: str
    ledger: Ledger
    client: Any
    #: How many saves are kept a batch for, beside the one for the beginning.
    kept: int
    _: KW_ONLY
    is_held: bool = False
    #: The last look at its weights: where it is not done it hangs.
    look: Future[Finding] | None = None
    #: Whether requests that had to wait are not all sent yet.
    are_waiting: bool = False
    #: When a request was answered last, in monotonic seconds.
    answered_at: float = -math.inf
    #: By how many updates there were before.
    batches: dict[int, Batch] = field(default_factory=dict)
    #: When the outage began: the position, and whether a request was unanswered.
    mark: Mark = field(default_factory=lambda: Mark(run_id=""))
    in_flight: bool = False

    def keep(self, updates: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch | None:
        """Keep a batch that is about to be submitted, where it is the first in a known state."""
        if updates in self.batches or self.ledger.where() is None:
            return None
        # A list is copied: the caller may fill it with the next batch.
        copied = tuple(list(each) if isinstance(each, list) else each for each in args)
        named = {k: list(each) if isinstance(each, list) else each for k, each in kwargs.items()}
        batch = self.batches[updates] = Batch(copied, named)
        for old in sorted(self.batches)[1 : -self.kept]:
            del self.batches[old]
        return batch

    def hold(self, *, in_flight: bool) -> None:
        """An outage begins: requests wait from now on."""
        self.is_held = True
        self.in_flight = in_flight or self.are_waiting
        if not self.are_waiting:  # else some that are counted were never sent
            self.mark = self.ledger.mark()

    def has_something_to_lose(self) -> bool:
        """Whether anything was submitted before the outage that changes the weights."""
        return bool(self.mark.updates or self.mark.has_gradient)

    def examine(self, source: str, answer: Callable[[Batch], Any]) -> Finding:
        """Compare the weights with those of `source`, the beginning, and of the last saves.

        `answer(batch)` is the output of `forward` for a batch.
        """
        now = self.mark.updates
        saves = sorted((mark.updates, path or "") for path, mark in self.ledger.saves())
        told: list[str] = []
        doubts: list[str] = []
        noise: float | None = None
        for updates, path in reversed([(0, source), *saves[-self.kept :]]):
            name = path or "the beginning"
            batch = self.batches.get(updates)
            if batch is None or batch.logprobs is None:
                doubts += [f"no batch was answered at {name}"] if updates != now else []
                continue
            found = logprobs_of(answer(batch))
            if noise is None:
                noise = _distance(found, logprobs_of(answer(batch)))
            apart = _distance(found, batch.logprobs)
            if noise is None or apart is None:
                return Finding(f"the answer for {name} cannot be compared")
            told.append(f"{apart:.3g} from {name}")
            if updates != now and apart <= max(SAME, NOISES * noise):
                return Finding(_told(told, noise), back_at=path)
            if (apart <= max(NEAR, NOISES * noise)) is (updates != now):
                doubts.append(f"{_told(told, noise)}: that tells nothing")
        if self.in_flight or self.mark.has_gradient or self.ledger.is_loaded():
            doubts.append("what was submitted last may be lost")
        if doubts or noise is None:
            return Finding("; ".join(doubts) or "there is nothing to compare with")
        return Finding(_told(told, noise), is_fine=True)


def _told(told: list[str], noise: float) -> str:
    return f"the log-probabilities are {', '.join(told)}, with a noise of {noise:.3g}"


def logprobs_of(output: Any) -> tuple[float, ...] | None:
    """The log-probabilities in the output of `forward` or `forward_backward`, if it has some."""
    try:
        tensors = [each["logprobs"] for each in output.loss_fn_outputs]
        return tuple(float(number) for tensor in tensors for number in tensor.data)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _distance(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> float | None:
    """The root of the mean square of the differences; `None` where there can be none."""
    if not one or not other or len(one) != len(other):
        return None
    apart = math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one))
    return apart if math.isfinite(apart) else None
