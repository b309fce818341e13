"""Values that the server returns to Python callers, and `Refusal`, its HTTP errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

#: The training calls of a corrupted run fail with an error, or never end.
FailureMode = Literal["fail", "hang"]
#: What the calls of a session that is over are answered: 404 "Session … not found", 400 "Session …
#: has finished", or 410 "This ServiceClient is poisoned."
SessionEnd = Literal["gone", "finished", "poisoned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedStep:
    """One optimizer step that the server applied to a run's weights.

    `sequence` is the number of the request within the run, `step` the index of this step in
    the history of these weights: it goes on counting after a restore. `loss` is the mean loss
    per weighted token of the accumulated batches (NaN if there were none).
    """

    run_id: str
    sequence: int
    step: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint as the server knows it; `step` counts the optimizer steps inside it."""

    tinker_path: str
    checkpoint_type: str
    name: str
    step: int
    broken: bool
    expires_at: datetime | None
    user_metadata: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run as the server knows it.

    `failure` tells how the training calls of a corrupted run end; `created_from` is the tinker
    path that was loaded last, `with_optimizer` whether with the optimizer's state, and
    `start_step` the index of the first optimizer step of this run.
    """

    run_id: str
    owner: str
    base_model: str
    corrupted: bool
    failure: FailureMode | None
    forgotten: bool
    steps: int
    start_step: int
    created_from: str | None
    with_optimizer: bool
    user_metadata: Mapping[str, str] | None
    checkpoints: tuple[CheckpointInfo, ...] = field(default=())


class Refusal(Exception):  # noqa: N818 - an answer of the API, not an error of the program
    """Raised when a request is answered with an HTTP error status.

    `early` refusals answer the request itself, the others the retrieval of its future.
    `plain` ones have a plain-text body, as real servers send for unexpected errors.
    """

    def __init__(
        self, status: int, detail: object, *, early: bool = False, plain: bool = False
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.early = early
        self.plain = plain
