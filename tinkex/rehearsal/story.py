"""`tinkex rehearse`: train a run, train one that is corrupted and recovered, compare both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tinker

from ..display.words import short_id
from ..errors import TinkexError
from ..handle import MonitoredRun
from ..signals import Event
from ..training.outlook import ResumePoint
from ..training.segment import Segment
from .chart import Panel, draw
from .stage import Stage
from .step_log import History, history, largest_difference
from .trainee import Course, new_client, train, train_segments
from .words import in_words

#: With fewer steps nothing is left to compare after the recovery.
FEWEST_STEPS = 4
#: About how many checkpoints are saved in a rehearsal.
SAVES = 8
#: Rows of the two charts.
LOSS_ROWS = 9
DIFFERENCE_ROWS = 3
#: Columns for the labels of both charts, so that they are aligned.
MARGIN = 9
#: How many seconds the last event may come after the loop's new client.
LAST_WORDS = 5.0

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """The result of a rehearsal; `difference` is `None` if there was nothing to compare."""

    passed: bool
    difference: float | None
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Script:
    """The settings of a rehearsal; at step `moment` the second run is corrupted."""

    course: Course
    moment: int
    weights_only: bool
    broken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One training of the course: its runs, and their steps from the server's log."""

    run_ids: tuple[str, ...]
    steps: History
    resume: ResumePoint | None = None


def rehearse(
    say: Say,
    *,
    seed: int = 0,
    steps: int = 60,
    weights_only: bool = False,
    broken: int = 0,
    width: int = 80,
    plain: bool = False,
) -> Rehearsal:
    """Train twice, corrupt the second run half-way, and report each event with `say`.

    Args:
        say: Called with each line.
        seed: Decides the data and the initial weights.
        steps: How many steps to train, at least `FEWEST_STEPS`.
        weights_only: Recover without the optimizer's state.
        broken: How many of the newest checkpoints do not load.
        width: Columns for the charts.
        plain: ASCII only.
    """
    course = Course(seed=seed, steps=steps, save_every=max(1, steps // SAVES))
    script = _Script(course=course, moment=steps // 2, weights_only=weights_only, broken=broken)
    say(f"Rehearsal with tinker {tinker.__version__}, seed {seed}: {steps} steps, twice.")
    say(
        f"A checkpoint after every {_steps(course.save_every)}; "
        f"the second run is corrupted at step {script.moment}."
    )
    say("")
    try:
        first, second = _takes(script, Narrator(say))
    except TinkexError as error:
        say("")
        reason = str(error).partition("\n")[0]
        return Rehearsal(passed=False, difference=None, verdict=f"not recovered: {reason}")
    _show_runs(say, first, second)
    resume = second.resume
    if resume is None or [step for step, _ in second.steps] != list(range(steps)):
        missing = "the server's log does not have every step of the recovered run exactly once"
        return Rehearsal(passed=False, difference=None, verdict=missing)
    moment = script.moment
    title = f"loss, corrupted at step {moment}"
    show_curves(say, first, second, title=title, moments=[moment], width=width, plain=plain)
    return verdict(first, second, resume.step, weights_only=weights_only)


class Narrator:
    """Says each event in one line, after the seconds since the start.

    Threads: safe from any.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = time.monotonic()
        # Guards the output: held while a line is written, so that lines do not mix.
        self._lock = threading.Lock()
        self.recovered = threading.Event()

    def tell(self, what: str, words: str) -> None:
        """Say one line."""
        with self._lock:
            self._say(f"{time.monotonic() - self._began:6.2f} s  {what:<19}  {words}")

    def __call__(self, sender: object, *, event: Event) -> None:
        """Say a signal's event."""
        words = in_words(event)
        if words is not None:
            self.tell(event.name, words)
        if event.name == "completed":
            self.recovered.set()


def _takes(script: _Script, narrator: Narrator) -> tuple[Take, Take]:
    with Stage() as stage:
        return uninterrupted(stage, script.course, narrator), _interrupted(stage, script, narrator)


def uninterrupted(stage: Stage, course: Course, narrator: Narrator) -> Take:
    """Train the course in peace."""
    client = new_client(stage.service(), course)
    narrator.tell("", f"the uninterrupted run begins: {short_id(client.model_id)}")
    train(client, course)
    narrator.tell("", "it has come to its end")
    steps = history(stage.server, client.model_id)
    return Take(run_ids=(client.model_id,), steps=steps)


def _interrupted(stage: Stage, script: _Script, narrator: Narrator) -> Take:
    service = stage.service()
    client = new_client(service, script.course)
    stage.server.corrupt_at(client.model_id, script.moment, break_newest=script.broken)
    monitor = stage.monitor(narrator, restore_optimizer=not script.weights_only)
    run = monitor.monitor_run(client.model_id, service, client=client)
    resumes: list[ResumePoint] = []

    def on_segment(segment: Segment) -> None:
        if segment.resume is None:
            narrator.tell("", f"the second run begins: {short_id(client.model_id)}")
            return
        resumes.append(segment.resume)
        narrator.recovered.wait(LAST_WORDS)
        for words in _resumed(segment.resume):
            narrator.tell("", words)

    train_segments(run, script.course, on_segment)
    narrator.tell("", "it has come to its end")
    run_ids = _lineage(run)
    steps = history(stage.server, run.run_id)
    return Take(run_ids=run_ids, steps=steps, resume=resumes[0] if resumes else None)


def _lineage(run: MonitoredRun) -> tuple[str, ...]:
    return tuple(generation.run_id for generation in run.lineage)


def _resumed(resume: ResumePoint) -> tuple[str, str]:
    optimizer = "is restored too" if resume.optimizer_restored else "begins at zero"
    back = f", {_steps(resume.steps_lost)} back" if resume.steps_lost else ""
    return f"the loop goes on at step {resume.step}{back}", f"the optimizer's state {optimizer}"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _show_runs(say: Say, first: Take, second: Take) -> None:
    say("")
    say(f"uninterrupted  {first.run_ids[0]}")
    names = ["interrupted", *["its successor"] * (len(second.run_ids) - 1)]
    for name, run_id in zip(names, second.run_ids, strict=True):
        say(f"{name:<13}  {run_id}")


def show_curves(
    say: Say,
    first: Take,
    second: Take,
    *,
    title: str,
    moments: Sequence[int],
    width: int,
    plain: bool,
) -> None:
    """Draw both losses, the second one's under `title`, and their difference."""
    say("")
    panels = [
        Panel(title="loss, uninterrupted", points=first.steps),
        Panel(title=title, points=second.steps, marks=moments),
    ]
    for line in draw(panels, width=width, height=LOSS_ROWS, margin=MARGIN, plain=plain):
        say(line)
    pairs = zip(first.steps, second.steps, strict=True)
    apart = [(step, found - loss) for (step, loss), (_, found) in pairs]
    say("")
    difference = Panel(title="the second less the first", points=apart, marks=moments)
    for line in draw([difference], width=width, height=DIFFERENCE_ROWS, margin=MARGIN, plain=plain):
        say(line)
    say("")


def verdict(first: Take, second: Take, start: int, *, weights_only: bool = False) -> Rehearsal:
    """Judge the losses from step `start` on."""
    apart = largest_difference(first.steps, second.steps, start=start)
    passed = apart > 0.0 if weights_only else apart == 0.0
    last = first.steps[-1][0]
    words = f"largest difference of the loss, steps {start} to {last}: {apart!r}"
    if not passed:
        words += ", but it must be above zero" if weights_only else ", but it must be 0.0"
    return Rehearsal(passed=passed, difference=apart, verdict=words)
