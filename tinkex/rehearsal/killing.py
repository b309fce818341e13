"""`tinkex rehearse --kill`: a training process is killed and started again, and goes on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tinker

from ..display.words import short_id
from .stage import Stage
from .step_log import history
from .story import SAVES, Narrator, Rehearsal, Say, Take, show_curves, uninterrupted, verdict
from .trainee import PATIENCE, Course

#: How often the process is killed; the second time it is started again on another machine.
KILLS = 3

#: The process that is killed.
PROGRAM = f"{__package__}.trained"


def rehearse_kills(
    say: Say, *, seed: int = 0, steps: int = 60, width: int = 80, plain: bool = False
) -> Rehearsal:
    """Train once in peace; then in processes that are killed at random steps. Compare the losses.

    Args:
        say: Called with each line.
        seed: Decides the data, the initial weights, and when the process is killed.
        steps: How many steps to train.
        width: Columns for the charts.
        plain: ASCII only.
    """
    course = Course(seed=seed, steps=steps, save_every=max(1, steps // SAVES))
    say(f"Rehearsal with tinker {tinker.__version__}, seed {seed}: {steps} steps, twice.")
    say(f"The second time the training process is killed {KILLS} times (SIGKILL).")
    say("")
    narrator = Narrator(say)
    with Stage() as stage:
        first = uninterrupted(stage, course, narrator)
        second, moments = _killed(stage, course, narrator)
    say("")
    if [step for step, _ in second.steps] != list(range(steps)):
        missing = "the server's log does not have every step of the lineage exactly once"
        return Rehearsal(passed=False, difference=None, verdict=missing)
    told = ", ".join(map(str, moments))
    title = f"loss, killed at steps {told}"
    show_curves(say, first, second, title=title, moments=moments, width=width, plain=plain)
    return verdict(first, second, 0)


def _killed(stage: Stage, course: Course, narrator: Narrator) -> tuple[Take, list[int]]:
    """Train in processes that are killed, but for the last; tell of the steps at which."""
    chance, moments, run_ids = random.Random(course.seed), list[int](), list[str]()
    with tempfile.TemporaryDirectory(prefix="tinkex-rehearsal-") as folder:
        for number in range(KILLS + 1):
            machine = "one machine" if number < 2 else "another machine"
            narrator.tell("", f"the training process is started on {machine}")
            part = [course.steps * each // (KILLS + 1) for each in (number, number + 1)]
            ends_at = chance.randrange(*part) if number < KILLS else course.steps
            with _process(stage, course, Path(folder, machine.replace(" ", "-"))) as lines:
                for kind, value in lines:
                    if kind == "segment":
                        run_id, _, step = value.rpartition("@")
                        run_ids.append(run_id)
                        # A step that was trained before may not come again.
                        ends_at = max(ends_at, int(step) + 1)
                        narrator.tell("", f"{short_id(run_id)} goes on at step {step}")
                    if kind == "step" and int(value) == ends_at:
                        break
            if ends_at < course.steps:
                moments.append(ends_at)
                narrator.tell("", f"it is killed at step {ends_at}")
    narrator.tell("", "it has come to its end")
    return Take(run_ids=tuple(run_ids), steps=history(stage.server, run_ids[-1])), moments


@contextmanager
def _process(stage: Stage, course: Course, machine: Path) -> Iterator[Iterator[tuple[str, str]]]:
    """The training process, and what it tells; it is killed where the `with` block ends."""
    about = map(str, (course.seed, course.steps, course.save_every))
    with ExitStack() as ends:
        process = subprocess.Popen(  # noqa: S603 (a module of ours)
            [sys.executable, "-m", PROGRAM, *about],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **stage.server.environ, "XDG_STATE_HOME": str(machine)},
        )
        ends.callback(process.communicate, timeout=PATIENCE)
        ends.callback(process.kill)
        yield _lines(process)


def _lines(process: subprocess.Popen[str]) -> Iterator[tuple[str, str]]:
    for line in process.stdout or ():
        kind, _, value = line.strip().partition(" ")
        if kind == "end":
            return
        yield kind, value
    error = (process.stderr.read() if process.stderr else "").strip().rpartition("\n")[2]
    raise RuntimeError(f"the training process ended early: {error}")
