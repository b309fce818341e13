"""`python -m tinkex.rehearsal.trained SEED STEPS SAVE_EVERY`: a training process, to be killed.

It tells of each segment, each step and its end in a line of two words.
"""

from __future__ import annotations

import sys

import tinker

from ..policy import Policy
from ..shortcuts import open_run
from .engine.backend import BASE_MODEL
from .trainee import RANK, Course, train_segments

NAME = "rehearsal"

#: After so many seconds of silence an owner of another machine counts as gone. In earnest that is
#: two minutes.
SILENT_FOR = 2.0


def _main(seed: str, steps: str, save_every: str) -> None:
    course = Course(seed=int(seed), steps=int(steps), save_every=int(save_every))
    with open_run(
        NAME,
        tinker.ServiceClient,
        policy=Policy(enabled=True, poll_interval=1.0),
        silent_for=SILENT_FOR,
        base_model=BASE_MODEL,
        rank=RANK,
        seed=course.seed,
    ) as run:
        train_segments(
            run,
            course,
            lambda segment: _tell("segment", f"{segment.client.model_id}@{segment.start_step}"),
            on_step=lambda step: _tell("step", str(step)),
        )
    _tell("end", "")


def _tell(kind: str, value: str) -> None:
    sys.stdout.write(f"{kind} {value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
