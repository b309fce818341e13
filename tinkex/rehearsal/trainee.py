"""The training loops of rehearsals: ordinary code with the official SDK."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tinker

from ..handle import MonitoredRun
from ..service import finished, takes_option
from ..training.segment import Segment
from .engine.backend import BASE_MODEL
from .engine.corpus import batch

RANK = 8
LEARNING_RATE = 0.05
#: Seconds for an answer of a server on this machine.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is trained: `seed` decides the data and the initial weights.

    A checkpoint is saved every `save_every` steps. `ahead` is how many further steps are
    submitted before the loop waits for the results of a step.
    """

    seed: int
    steps: int
    save_every: int = 7
    ahead: int = 0


def new_client(service: Any, course: Course) -> Any:
    """Make a training client with fresh weights."""
    return finished(
        service.create_lora_training_client(base_model=BASE_MODEL, rank=RANK, seed=course.seed)
    )


def train(client: Any, course: Course) -> None:
    """Train the whole course without a monitor and without saving."""
    for step in range(course.steps):
        for future in _submit(client, course, step):
            future.result(timeout=PATIENCE)


def save_steps(client: Any, course: Course, steps: range) -> str:
    """Train a part of the course, save, and return the checkpoint's tinker path."""
    for step in steps:
        for future in _submit(client, course, step):
            future.result(timeout=PATIENCE)
    path: str = client.save_state(f"{steps.stop:06d}").result(timeout=PATIENCE).path
    return path


def train_segments(
    run: MonitoredRun,
    course: Course,
    on_segment: Callable[[Segment], object] | None = None,
    *,
    start_step: int = 0,
    on_step: Callable[[int], object] | None = None,
) -> None:
    """Train the course in segments; `on_segment` is called with each, `on_step` in each step."""
    # Older SDKs carry no step with a checkpoint; here its name is the step.
    step_of = None if _carries_steps() else lambda checkpoint: int(checkpoint.checkpoint_id)
    for segment in run.segments(start_step, resume_step=step_of, max_wait=PATIENCE):
        with segment:
            if on_segment is not None:
                on_segment(segment)
            _train_segment(segment, course, on_step)


def _carries_steps() -> bool:
    return takes_option(tinker.TrainingClient.save_state, "user_metadata")


def _train_segment(
    segment: Segment, course: Course, on_step: Callable[[int], object] | None
) -> None:
    waiting: deque[Any] = deque()
    for step in segment.steps(course.steps):
        if on_step is not None:
            on_step(step)
        waiting.append(_submit(segment.client, course, step))
        while len(waiting) > course.ahead:
            _collect(segment, waiting.popleft())
        if (step + 1) % course.save_every == 0:
            segment.save_state(f"{step + 1:06d}", step=step + 1)
    while waiting:
        _collect(segment, waiting.popleft())


def _submit(client: Any, course: Course, step: int) -> tuple[Any, Any]:
    """Submit a whole step; return the futures of the gradients and of the update."""
    forward = client.forward_backward(batch(step, course.seed), "cross_entropy")
    update = client.optim_step(tinker.AdamParams(learning_rate=LEARNING_RATE))
    return forward, update


def _collect(segment: Segment, futures: tuple[Any, Any]) -> None:
    for future in futures:
        segment.result(future, timeout=PATIENCE)
