"""Batches of a small synthetic language; the same seed and step give the same batch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .model import VOCABULARY

if TYPE_CHECKING:
    import tinker

#: Sequences in a batch.
BATCH_SIZE = 8
#: Predicted tokens in a sequence.
SEQUENCE_LENGTH = 32
#: The seed of the language itself; batches differ by their own seed and step.
LANGUAGE_SEED = 64
#: The probability of each follower of a token; about 0.94 nats of entropy.
FOLLOWER_ODDS = (0.7, 0.15, 0.1, 0.05)


def batch(step: int, seed: int = 0, *, size: int = BATCH_SIZE) -> list[tinker.Datum]:
    """Make the batch of `step`: `size` sequences for `forward_backward(…, "cross_entropy")`."""
    # Imported here, since the server itself needs no SDK.
    import tinker  # noqa: PLC0415

    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(row[:-1].tolist()),
            loss_fn_inputs=_inputs(row[1:]),
        )
        for row in sentences(step, seed, size=size)
    ]


def sentences(step: int, seed: int = 0, *, size: int = BATCH_SIZE) -> NDArray[np.int64]:
    """Draw `size` rows of tokens of the language, each `SEQUENCE_LENGTH` + 1 long."""
    followers = _followers()
    random = np.random.default_rng((seed, step))
    rows = np.empty((size, SEQUENCE_LENGTH + 1), dtype=np.int64)
    rows[:, 0] = random.integers(VOCABULARY, size=size)
    choices = random.choice(len(FOLLOWER_ODDS), p=FOLLOWER_ODDS, size=(size, SEQUENCE_LENGTH))
    for place in range(SEQUENCE_LENGTH):
        rows[:, place + 1] = followers[rows[:, place], choices[:, place]]
    return rows


def mean_loss(output: Any) -> float:
    """The mean loss per weighted token of a `ForwardBackwardOutput` of this server."""
    metrics = output.metrics
    return float(metrics["loss:sum"]) / float(metrics["weights:sum"])


@functools.cache
def _followers() -> NDArray[np.int64]:
    random = np.random.default_rng(LANGUAGE_SEED)
    rows = [random.permutation(VOCABULARY)[: len(FOLLOWER_ODDS)] for _ in range(VOCABULARY)]
    return np.array(rows, dtype=np.int64)


def _inputs(targets: NDArray[np.int64]) -> dict[str, Any]:
    return {"target_tokens": targets, "weights": np.ones(len(targets), dtype=np.float32)}
