"""What rehearsals say and claim: events in words, the server's log, claims that catch a fault."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pytest

from tinkex.rehearsal.engine.records import AppliedStep
from tinkex.rehearsal.scenarios.claims import ClaimError
from tinkex.rehearsal.scenarios.play import Play
from tinkex.rehearsal.stage import Stage
from tinkex.rehearsal.step_log import history, largest_difference
from tinkex.rehearsal.trainee import Course
from tinkex.rehearsal.words import LENGTH, in_words
from tinkex.signals import EVENTS
from tinkex.types import Checkpoint

RUN = "3f0c5a11-5f67-45e2-abd3-51ab40b2f0ba:train:0"
LONG = RuntimeError("it is\na long story " * 20)
VALUES = {
    "run_id": RUN,
    "metadata": {},
    "time": datetime(2026, 11, 1, tzinfo=UTC),
    "attempt": 12,
    "checkpoint": Checkpoint.from_path(f"tinker://{RUN}/weights/000028"),
    "successor_id": RUN,
    "duration": 123.456,
    "error": LONG,
}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def event_of(name, **values):
    kind = EVENTS[name]
    values = {**VALUES, **values}
    return kind(**{each.name: values.get(each.name) for each in fields(kind)})


@pytest.mark.parametrize("name", [name for name in EVENTS if name != "swept"])
def test_every_event_has_a_short_sentence(name):
    words = in_words(event_of(name))

    assert 0 < len(words) <= LENGTH
    assert "\n" not in words


def test_the_end_of_a_sweep_is_not_worth_a_line():
    assert in_words(event_of("swept")) is None


def test_of_a_run_that_is_lost_the_servers_reason_is_told():
    words = in_words(event_of("detected", run_id="a:train:0", reason="internal: lost"))

    assert words == "a:train:0 is corrupted: internal: lost"


def test_of_an_error_of_the_sdk_the_servers_words_are_told():
    error = ValueError("Error code: 422 - {'detail': 'Future failed: cut short'} with status 422")

    assert in_words(event_of("failed", error=error)) == "attempt 12 failed: cut short"


@dataclass
class Run:
    run_id: str
    created_from: str | None
    start_step: int


class Log:
    """A server that has nothing but its log: the run before, the first step, and the losses."""

    def __init__(self, **runs):
        self.runs = runs

    def run(self, run_id):
        before, start, *_ = self.runs[run_id]
        return Run(run_id, before and f"tinker://{before}/weights/{start:06d}", start)

    def steps(self, run_id):
        _, start, *losses = self.runs[run_id]
        return tuple(
            AppliedStep(run_id=run_id, sequence=2 * place, step=start + place, loss=loss)
            for place, loss in enumerate(losses)
        )


def test_a_history_is_what_led_to_the_newest_weights():
    log = Log(a=(None, 0, 5.0, 4.0, 3.0, 2.5), b=("a", 2, 3.0, 2.5, 2.0), c=("b", 2, 3.1, 2.6))

    assert history(log, "a") == ((0, 5.0), (1, 4.0), (2, 3.0), (3, 2.5))
    assert history(log, "b") == ((0, 5.0), (1, 4.0), (2, 3.0), (3, 2.5), (4, 2.0))
    assert history(log, "c") == ((0, 5.0), (1, 4.0), (2, 3.1), (3, 2.6))


def test_a_history_passes_over_a_run_that_the_newest_was_not_made_from():
    # The answer to a's save came when b had begun at an older checkpoint already.
    log = Log(a=(None, 0, 5.0, 4.0), b=("a", 0, 5.0), c=("a", 2, 3.0))

    assert history(log, "c") == ((0, 5.0), (1, 4.0), (2, 3.0))


def test_a_history_shows_a_step_that_was_run_twice_or_not_at_all():
    class Twice(Log):
        def steps(self, run_id):
            return super().steps(run_id) * 2

    twice = history(Twice(a=(None, 0, 5.0, 4.0)), "a")
    missing = history(Log(a=(None, 0, 5.0), b=("a", 2, 3.0)), "b")

    assert [step for step, _ in twice] == [0, 1, 0, 1]
    assert [step for step, _ in missing] == [0, 2]


def test_the_largest_difference_begins_where_it_is_told_to():
    one = ((0, 5.0), (1, 4.0), (2, 3.0))
    other = ((0, 9.0), (1, 4.5), (2, 2.75))

    assert largest_difference(one, other, start=1) == 0.5
    assert largest_difference(one, other, start=2) == 0.25
    with pytest.raises(ValueError, match="not of the same steps"):
        largest_difference(one, other[:2], start=0)


def test_a_recovery_without_the_optimizer_does_not_pass_for_an_equal_one():
    with Stage() as stage:
        play = Play(stage, Course(seed=0, steps=14), restore_optimizer=False)
        play.begin(range(7))
        play.corrupt()

        with pytest.raises(ClaimError, match="has its optimizer's state"):
            play.finish(7)


def test_other_data_after_a_recovery_does_not_pass_for_an_equal_one():
    with Stage() as stage:
        play = Play(stage, Course(seed=0, steps=14))
        play.begin(range(7))
        play.corrupt()
        play.course = Course(seed=1, steps=14)

        with pytest.raises(ClaimError, match=r"steps with another loss: \[7, 8, 9"):
            play.finish(7)
