"""Scenarios in which runs are corrupted, with checks of how they are recovered."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import get_args

from ...errors import IncidentBudgetError, RecoveryExhaustedError
from ..engine.records import FailureMode, SessionEnd
from ..stage import Stage
from ..trainee import Course, train_segments
from .claims import ClaimError, check_equal, check_holds
from .play import Play

#: The steps of the long course, and how often it is corrupted.
STEPS = 105
TIMES = 20
#: An incident budget that is never used up.
PLENTY = 100
#: Seconds between two polls, for scenarios in which only polls find a run that hangs.
QUICK_POLLS = 0.05


def flagged_and_failing(seed: int) -> str:
    """A run is corrupted at 20 random steps; the server flags it and its calls fail."""
    return _often_corrupted(seed, flag=True, mode="fail")


def client_alone_fails(seed: int) -> str:
    """The same, but the flag never comes: only the client's calls fail."""
    return _often_corrupted(seed, flag=False, mode="fail")


def flag_alone_comes(seed: int) -> str:
    """The same, but the client's calls hang for ever: only the flag comes."""
    return _often_corrupted(seed, flag=True, mode="hang")


def _often_corrupted(seed: int, *, flag: bool, mode: FailureMode) -> str:
    """Corrupt a run whose loop submits one step ahead; half of the times also its newest save."""
    course = Course(seed=seed, steps=STEPS, ahead=1)
    mishaps = _mishaps(course)
    with Stage() as stage:
        play = Play(stage, course, max_incidents=PLENTY, poll_interval=QUICK_POLLS)
        for one in mishaps:
            stage.server.corrupt_at(
                None, one.step, break_newest=int(one.breaks), flag=flag, mode=mode
            )
        resumes = play.finish(generations=1 + TIMES)

        check_equal("resumed at", [one.step for one in resumes], [one.back_to for one in mishaps])
        check_equal("recoveries", len(stage.events.named("completed")), TIMES)
        detected = stage.events.named("detected")
        check_equal("detections", len(detected), TIMES)
        check_equal("flagged", sum(each.cause == "corrupted" for each in detected) == TIMES, flag)
        check_equal("runs given up", stage.events.named("exhausted"), [])
        broken = sum(one.breaks for one in mishaps)
        check_equal("attempts failed", len(stage.events.named("failed")), broken)
        check_equal("clients made", play.clients_made, TIMES + broken)
        applied = sum(len(stage.server.steps(one.run_id)) for one in play.run.lineage)
    return (
        f"{TIMES} recoveries, {broken} of them past a broken checkpoint; {applied} steps "
        f"applied, of which {STEPS} led to the end: all equal, none twice, none missing"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mishap:
    """A corruption: its step, whether the newest checkpoint breaks, where the loop continues."""

    step: int
    breaks: bool
    back_to: int


def _mishaps(course: Course) -> list[_Mishap]:
    """Draw the corruptions of a course; exactly half of them break the newest checkpoint."""
    random = Random(course.seed)
    # From here on there are two checkpoints, so one may break.
    possible = range(2 * course.save_every, course.steps)
    while True:
        mishaps = _fates(sorted(random.sample(possible, TIMES)), course.save_every)
        if 2 * sum(one.breaks for one in mishaps) == TIMES:
            return mishaps


def _fates(moments: list[int], every: int) -> list[_Mishap]:
    """Decide which checkpoints break, and compute where the loop must continue."""
    saved = [0]
    mishaps: list[_Mishap] = []
    for place, moment in enumerate(moments):
        own = list(range(saved[-1] + every, moment + 1, every))
        # A run that is corrupted before its first save has no checkpoint to break.
        breaks = bool(own) and 2 * sum(one.breaks for one in mishaps) <= place
        saved += own[:-1] if breaks else own
        mishaps.append(_Mishap(step=moment, breaks=breaks, back_to=saved[-1]))
    return mishaps


def session_over(seed: int) -> str:
    """Three times the session ends with its run; no checkpoint and no attempt is used up by it."""
    course = Course(seed=seed, steps=40)
    with Stage() as stage:
        play = Play(stage, course)
        for moment, end in zip((10, 20, 30), get_args(SessionEnd), strict=True):
            stage.server.corrupt_at(None, moment, ends_session=end)
        resumes = play.finish(generations=4)

        check_equal("resumed at", [one.step for one in resumes], [7, 14, 28])
        check_equal("attempts failed", stage.events.named("failed"), [])
        check_equal("clients made", play.clients_made, 3)
        sessions = [one.run_id.partition(":")[0] for one in play.run.lineage]
        check_equal("sessions", len(set(sessions)), 4)
    return "answered with 404, 400 and 410; each time a new session, at the first attempt, exact"


def two_newest_broken(seed: int) -> str:
    """The newest two checkpoints do not load; the run is recovered from the third."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=40))
        stage.server.corrupt_at(play.run.run_id, 30, break_newest=2)
        (resume,) = play.finish()

        check_equal("step, steps lost", (resume.step, resume.steps_lost), (14, 16))
        check_equal("attempts", play.run.lineage[0].attempts, 3)
        ends = [event.name for event in stage.events.named("detected", "completed", "exhausted")]
        check_equal("incidents", ends, ["detected", "completed"])
        empty = play.left_over()
        check_holds(len(empty) <= 2, "at most two runs are left over")
        check_holds(
            set(play.run.lineage[0].orphans) <= empty, "each reported orphan is an empty run"
        )
    return f"3 attempts, on at step 14 of 30, 16 steps lost; {len(empty)} empty runs left behind"


def expired_newest(seed: int) -> str:
    """The newest checkpoint has expired: it would be tried after all others."""
    with Stage() as stage:
        play = Play(stage, Course(seed=seed, steps=28))
        play.begin(range(7), range(7, 14))
        newest = play.run.plan().candidates[0].checkpoint.tinker_path
        stage.server.expire(newest)
        late = [c.checkpoint.tinker_path for c in play.run.plan().candidates if c.is_expired]
        check_equal("expired by the plan", late, [newest])
        play.corrupt()
        (resume,) = play.finish(14)

        check_equal("step", resume.step, 7)
        loads = stage.server.requests["POST /api/v1/load_weights"]
        check_equal("loads asked for", loads, 1)
    return "000014 has expired, 000007 was loaded at the first attempt"


def corrupted_again_and_again(seed: int) -> str:
    """Each successor is corrupted too, until the budget of incidents is used up."""
    allowed = 3
    course = Course(seed=seed, steps=20, save_every=3)
    with Stage() as stage:
        play = Play(stage, course, max_incidents=allowed)
        for _ in range(2 * allowed):
            stage.server.corrupt_at(None, 5)
        error = _end_of(play)

        check_equal("incidents counted", error.incidents, allowed)
        check_equal("state", str(play.run.state), "exhausted")
        check_equal("recoveries", len(stage.events.named("completed")), allowed)
        check_holds(stage.events.wait_for("exhausted"), "exhausted is signalled")
        told = [type(event.error) for event in stage.events.named("exhausted")]
        check_equal("exhausted by", told, [IncidentBudgetError])
        check_holds(stage.events.wait_for_sweeps(3), "the monitor continues")
        check_equal("clients made", play.clients_made, allowed)
    return f"{allowed} recoveries allowed, {allowed} clients made, then no further one"


def _end_of(play: Play) -> IncidentBudgetError:
    try:
        train_segments(play.run, play.course)
    except RecoveryExhaustedError as error:
        if isinstance(error.error, IncidentBudgetError):
            return error.error
        raise
    raise ClaimError("the loop finished although each successor was corrupted")
