"""What the tests of training loops stand on: a run, its client, and a loop of the caller's own."""

from __future__ import annotations

from tinkex.testing import FakeTrainingClient

from .world import RUN


class SdkError(Exception):
    """An error as the official SDK raises them, told by the package it comes from."""

    __module__ = "tinker._exceptions"


class FailedError(SdkError):
    """As the SDK's errors with a status or a category."""

    __module__ = "tinker._exceptions"

    def __init__(self, text, status_code=None, category=None):
        super().__init__(text)
        if status_code is not None:
            self.status_code = status_code
        if category is not None:
            self.category = category


class ValidationError(ValueError):
    """As pydantic's, by which the SDK refuses arguments."""


class Diary:
    """What a training loop did: `(run, step)` of each step done, and each segment's resume."""

    def __init__(self):
        self.trained = []
        self.resumes = []

    @property
    def steps(self):
        return [step for _, step in self.trained]


def begin(world, *, metadata=None, executor=None, options=None, **policy):
    """Monitor a healthy run; give its handle and its client."""
    world.rest.set_run(RUN)
    client = FakeTrainingClient(RUN)
    monitor = world.monitor(executor, options=options, **policy)
    return monitor.monitor_run(RUN, world.service, metadata, client), client


def nothing(segment, step):
    """What happens before most steps."""


def train(run, total, *, before=nothing, save_every=5, diary=None, **options):
    """Train as people do: a step at a time, saved every few steps."""
    diary = Diary() if diary is None else diary
    for segment in run.segments(**options):
        diary.resumes.append(segment.resume)
        with segment:
            for step in segment.steps(total):
                before(segment, step)
                segment.result(segment.client.forward_backward(f"batch {step}"))
                segment.result(segment.client.optim_step())
                diary.trained.append((segment.client.model_id, step))
                if (step + 1) % save_every == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)
    return diary


class Once:
    """Does something before one step, the first time that the loop comes there."""

    def __init__(self, step, action):
        self._step = step
        self._action = action
        self.done = False

    def __call__(self, segment, step):
        if step == self._step and not self.done:
            self.done = True
            self._action(segment)
