"""A softmax language model over a small vocabulary, trained with Adam in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Size of the vocabulary; larger token ids are taken modulo this size.
VOCABULARY = 64
#: Standard deviation of the initial weights.
INITIAL_SPREAD = 0.1
_SHAPE = (VOCABULARY, VOCABULARY)

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sequence: input tokens, target tokens, and the weight of each target.

    With `sampled`, the log-probabilities with which the targets were sampled, the weights are
    advantages, and each counts by how much likelier its target has become since.
    """

    tokens: Tokens
    targets: Tokens
    weights: Floats
    sampled: Floats | None = None

    def __post_init__(self) -> None:
        given = (self.tokens, self.targets, self.weights, self.sampled)
        shapes = {each.shape for each in given if each is not None}
        if len(shapes) != 1 or self.tokens.ndim != 1:
            raise ValueError(
                f"model_input and the inputs of the loss differ in shape: {sorted(shapes)}"
            )

    def weights_at(self, logprobs: Floats) -> Floats:
        """The weight of each target, where the targets have these log-probabilities now."""
        if self.sampled is None:
            return self.weights
        counted: Floats = self.weights * np.exp(logprobs - self.sampled)
        return counted

    @property
    def size(self) -> float:
        """What the loss is divided by for its mean: the weights, or the count of sampled tokens."""
        return float(self.weights.sum()) if self.sampled is None else float(len(self.targets))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamSettings:
    """The hyperparameters of one optimizer step, by the names of the Tinker API."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossReport:
    """The result of a forward pass: the log-probability of each target, and the sums.

    `weight_sum` is of weights, or of tokens where the weights are advantages.
    """

    logprobs: tuple[Floats, ...]
    loss_sum: float
    weight_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """Everything that training depends on; two models of equal state train equally.

    `steps` counts the optimizer steps in the history of the weights, `adam_steps` those since
    the moments were zero.
    """

    weights: Floats
    first_moment: Floats
    second_moment: Floats
    adam_steps: int
    steps: int


class LanguageModel:
    """A table of logits: row by current token, column by next token.

    Threads: none of its methods may overlap, the server calls them on one thread; `steps` is
    safe from any.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # Made at first use: a server may hold thousands of runs that never train.
        self._state: ModelState | None = None
        self._gradient: Floats | None = None
        self._loss_sum = 0.0
        self._weight_sum = 0.0

    @property
    def state(self) -> ModelState:
        """The current state; its arrays are never changed."""
        if self._state is None:
            random = np.random.default_rng(self._seed)
            self._state = ModelState(
                weights=random.normal(0.0, INITIAL_SPREAD, _SHAPE),
                first_moment=np.zeros(_SHAPE),
                second_moment=np.zeros(_SHAPE),
                adam_steps=0,
                steps=0,
            )
        return self._state

    @property
    def steps(self) -> int:
        """How many optimizer steps there are in the history of the weights."""
        state = self._state
        return 0 if state is None else state.steps

    def restore(self, state: ModelState, *, optimizer: bool) -> None:
        """Continue from `state`; without `optimizer` the moments begin at zero."""
        if not optimizer:
            zeros = np.zeros_like(state.weights)
            state = ModelState(
                weights=state.weights,
                first_moment=zeros,
                second_moment=zeros,
                adam_steps=0,
                steps=state.steps,
            )
        self._state = state
        self._clear()

    def forward(self, batch: Sequence[Example], *, backward: bool) -> LossReport:
        """Compute the loss of `batch`, and with `backward` its gradient.

        The loss is the weighted cross-entropy; of samples, the policy gradient's.
        """
        logprobs = tuple(self._forward_one(example, backward=backward) for example in batch)
        pairs = tuple(zip(batch, logprobs, strict=True))
        loss_sum = math.fsum(_loss_of(one, found) for one, found in pairs)
        weight_sum = math.fsum(one.size for one in batch)
        if backward:
            self._loss_sum += loss_sum
            self._weight_sum += weight_sum
        return LossReport(logprobs=logprobs, loss_sum=loss_sum, weight_sum=weight_sum)

    def apply(self, adam: AdamSettings) -> float:
        """Apply the accumulated gradient, clear it, and return the mean loss it came from."""
        old = self.state
        count = old.adam_steps + 1
        gradient = self._clipped(adam.grad_clip_norm)
        first = adam.beta1 * old.first_moment + (1.0 - adam.beta1) * gradient
        second = adam.beta2 * old.second_moment + (1.0 - adam.beta2) * gradient * gradient
        mean = first / (1.0 - adam.beta1**count)
        spread = np.sqrt(second / (1.0 - adam.beta2**count))
        decayed = old.weights * (1.0 - adam.learning_rate * adam.weight_decay)
        self._state = ModelState(
            weights=decayed - adam.learning_rate * mean / (spread + adam.eps),
            first_moment=first,
            second_moment=second,
            adam_steps=count,
            steps=old.steps + 1,
        )
        loss = self._loss_sum / self._weight_sum if self._weight_sum else math.nan
        self._clear()
        return loss

    def _forward_one(self, example: Example, *, backward: bool) -> Floats:
        tokens = example.tokens % VOCABULARY
        targets = example.targets % VOCABULARY
        places = np.arange(len(tokens))
        all_logprobs = logprobs_of(self.state.weights[tokens])
        found: Floats = all_logprobs[places, targets]
        if backward:
            slope = np.exp(all_logprobs)
            slope[places, targets] -= 1.0
            weights = example.weights_at(found)
            np.add.at(self._gathered(), tokens, slope * weights[:, np.newaxis])
        return found

    def _clipped(self, limit: float) -> Floats:
        gradient = self._gathered()
        norm = float(np.sqrt((gradient**2).sum()))
        return gradient * (limit / norm) if 0.0 < limit < norm else gradient

    def _gathered(self) -> Floats:
        if self._gradient is None:
            self._gradient = np.zeros(_SHAPE)
        return self._gradient

    def _clear(self) -> None:
        self._gradient = None
        self._loss_sum = 0.0
        self._weight_sum = 0.0


def logprobs_of(logits: Floats) -> Floats:
    """The log-probabilities in each row of logits."""
    logits = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    logprobs: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logprobs


def _loss_of(example: Example, logprobs: Floats) -> float:
    if example.sampled is None:
        return float(-(example.weights * logprobs).sum())
    return float(-example.weights_at(logprobs).sum())
