"""Applies each kind of change to a record; returns what is to be published."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ..runtime.publisher import Notice
from ..signals import Cause, Detected, Fenced, Missing, PollError, Started
from ..types import Checkpoint, TrainingRun
from . import changes
from .changes import Change, Moment
from .checkpoints import saved_again
from .record import History, Origin, Record
from .rows import warning
from .state import RunState, check_transition

#: Seconds between two `poll_error` signals of a run that goes on failing.
POLL_ERROR_EVERY = 60.0

#: After how many polls in a row that could not find it a run counts as missing, and how many
#: poll intervals then lie between two polls.
MISSES = 3
MISSING_INTERVALS = 10

#: The notices of a change in their order, or `None` where the run refuses it.
Result = tuple[Notice, ...] | None


def apply(record: Record, change: Change, moment: Moment) -> Result:
    """Apply a change to a record, whose lock the caller holds; return the notices to publish.

    Refused, with `None`, is what is about a generation that is not live, and what does not fit
    the run's state: a poll of a run that is not polled, a step of an incident that is not open.
    """
    is_refused = (
        change.run_id not in (None, record.run_id)
        or (type(change) in changes.POLLED and not record.state.is_polled)
        or (type(change) in changes.STEPS and not record.state.is_pending)
        or (type(change) in changes.NOT_FOLLOWED and record.state is RunState.FOLLOWING)
    )
    if is_refused:
        return None
    record.fingerprint = None
    return APPLIED_BY[type(change)](record, change, moment)


def take_up(record: Record, origin: Origin) -> None:
    """Have a record stand for a run that was opened."""
    history = record.own_history = origin.kept or History()
    history.past, history.carried = origin.past, origin.carried
    history.is_left, history.is_kept = record.client is None, origin.kept is not None
    if history.source is None and origin.made_from is not None:
        history.source = Checkpoint.from_path(origin.made_from)
    record.generation = origin.generation
    record.root_id = record.run_ids[-1]


# Polls


def _seen(record: Record, change: changes.Seen, moment: Moment) -> Result:
    record.last_poll, record.saved = moment.utc, change.run.last_checkpoint or record.saved
    if record.state is RunState.FOLLOWING:
        return ()
    if record.state is not RunState.HEALTHY:
        _begin_anew(record)
    return warning(record, moment)


def _flagged(record: Record, change: changes.Flagged, moment: Moment) -> Result:
    record.last_poll, record.saved = moment.utc, change.run.last_checkpoint or record.saved
    return _begin_incident(record, moment, Cause.CORRUPTED, change.run)


def _poll_failed(record: Record, change: changes.PollFailed, moment: Moment) -> Result:
    record.error = change.error
    if change.is_miss:
        record.misses += 1
    elif record.failed_at is not None:
        record.misses = 0  # the account fails as a whole: it says nothing of this run
    record.failed_at = moment.seconds
    notices: list[Notice] = []
    common = _common(record, moment)
    if record.told_at is None or moment.seconds - record.told_at >= POLL_ERROR_EVERY:
        record.told_at = moment.seconds
        notices.append(PollError(**common, error=change.error))
    if record.misses >= MISSES:
        record.poll_after = moment.seconds + MISSING_INTERVALS * moment.policy.poll_interval
        if record.state is not RunState.MISSING:
            notices.append(Missing(**common, error=change.error))
        _move(record, RunState.MISSING)
    else:
        _move(record, RunState.FAILING)
    return tuple(notices)


# Recoveries


def _requested(record: Record, change: changes.Requested, moment: Moment) -> Result:
    if record.state is RunState.STOPPED or record.state.is_pending:
        return None
    history = _history(record)
    if change.cause is Cause.REQUESTED:
        _give_budget_back(history)
    history.error = change.error or history.error
    begun = _begin_incident(record, moment, change.cause, None)
    return (*begun, change.proof) if change.proof else begun


def _begin_incident(
    record: Record, moment: Moment, cause: Cause, run: TrainingRun | None
) -> tuple[Notice, ...]:
    history = _history(record)
    history.cause = cause
    _forget_polls(record)
    _move(record, RunState.RECOVERING)
    if not cause.is_detected:
        return ()
    since = moment.seconds - moment.policy.incident_window
    history.incidents = (*(each for each in history.incidents if each > since), moment.seconds)
    highest = max((cursor.step for cursor in history.cursors.values()), default=None)
    is_stuck = highest is not None and highest == history.stuck_at
    history.stuck, history.stuck_at = history.stuck + 1 if is_stuck else 1, highest
    last = run.last_checkpoint if run else record.last_checkpoint
    common = {**_common(record, moment), "checkpoint": last, "run": run, "cause": cause}
    return (Detected(**common, reason=None if run else history.error),)


def _attempt_step(record: Record, change: changes.AttemptStep, moment: Moment) -> Result:
    if record.state is RunState.WAITING and not isinstance(change.event, Started):
        return None  # of an attempt that was abandoned just now
    return _step(record, change, moment, RunState.RECOVERING)


def _attempt_failed(record: Record, change: changes.AttemptFailed, moment: Moment) -> Result:
    notices = _step(record, change, moment, RunState.WAITING)
    record.error = change.event.error
    if not change.is_held:
        record.next_attempt = moment.utc + timedelta(seconds=change.event.retry_in or 0.0)
    return notices


def _gave_up(record: Record, change: changes.GaveUp, moment: Moment) -> Result:
    record.error, record.attempts = change.event.error, change.history
    return _step(record, change, moment, RunState.EXHAUSTED)


def _dropped(record: Record, _: changes.Dropped, __: Moment) -> Result:
    record.next_attempt = None
    _move(record, RunState.RECOVERING)
    return ()


def _step(
    record: Record, change: changes.RecoveryChange, moment: Moment, after: RunState
) -> tuple[Notice, ...]:
    record.next_attempt = None
    _move(record, after)
    return changes.notices_of(change, moment.policy, record.client)


def _recovered(record: Record, change: changes.Recovered, moment: Moment) -> Result:
    notices = _step(record, change, moment, RunState.HEALTHY)
    event, history = change.event, _history(record)
    # The clock on the wall may have been set meanwhile.
    now = record.started_at + timedelta(seconds=moment.seconds - record.started)
    history.past = (*history.past, record.ended(now, event.attempt))
    history.broken |= change.broken
    history.source, history.with_optimizer = event.checkpoint, change.with_optimizer
    for path in saved_again((*history.known.values(), event.checkpoint)):
        history.cursors.pop(path, None)
    history.known[event.checkpoint.tinker_path] = event.checkpoint
    history.cause = history.error = None
    record.run_id, record.generation = event.successor_id, record.generation + 1
    record.client, record.saved = event.client, event.checkpoint
    record.started_at, record.started = now, moment.seconds
    record.error, record.attempts, record.warned_at = None, (), None
    return notices


def _orphaned(record: Record, change: changes.Orphaned, _: Moment) -> Result:
    orphans = _history(record).orphans
    orphans[change.of] = tuple(dict.fromkeys((*orphans.get(change.of, ()), change.successor_id)))
    return ()


def _fenced(record: Record, change: changes.Fenced, moment: Moment) -> Result:
    history = _history(record)
    known = history.fenced if record.state is RunState.FOLLOWING else None
    if record.state is RunState.STOPPED or (known and known.successor_id == change.successor_id):
        return None
    record.next_attempt = None
    _move(record, RunState.FOLLOWING)
    about = {**_common(record, moment), "successor_id": change.successor_id}
    history.fenced = told = Fenced(**about, owner=change.owner)
    history.is_kept = False  # what the other owner writes is not in here
    return () if known else (told,)


def _taken_up(record: Record, change: changes.TakenUp, _: Moment) -> Result:
    if record.state is not RunState.FOLLOWING:
        return None
    record.run_id, record.client, record.saved = change.successor_id, None, None
    take_up(record, change.origin)
    _begin_anew(record)
    return ()


def _freed(record: Record, _: changes.Freed, __: Moment) -> Result:
    if record.state is RunState.FOLLOWING:
        _begin_anew(record)
    return ()


# Commands


def _updated(record: Record, change: changes.Updated, _: Moment) -> Result:
    if record.state is RunState.STOPPED:
        return None
    record.service, record.config = change.service, change.config
    record.metadata = change.metadata or record.metadata
    record.client = record.client if change.client is None else change.client
    if record.state in (RunState.EXHAUSTED, RunState.FOLLOWING):
        _give_budget_back(_history(record))
        _begin_anew(record)
    return ()


def _remembered(record: Record, change: changes.Remembered, _: Moment) -> Result:
    record.own_history = change.joined(_history(record))
    return ()


def _stopped(record: Record, _: changes.Stopped, __: Moment) -> Result:
    if record.state is RunState.STOPPED:
        return None
    record.is_dead, record.next_attempt = not record.state.is_ours, None
    _move(record, RunState.STOPPED)
    return ()


# The training loop


def _error_noted(record: Record, change: changes.ErrorNoted, _: Moment) -> Result:
    _history(record).error = change.error
    return ()


def _loop_began(record: Record, change: changes.LoopBegan, _: Moment) -> Result:
    _history(record).has_resume_step = change.has_resume_step
    return ()


def _save_began(record: Record, change: changes.SaveBegan, _: Moment) -> Result:
    _history(record).cursors.pop(change.path, None)
    _history(record).known.pop(change.path, None)
    return ()


def _save_unsent(record: Record, change: changes.SaveUnsent, _: Moment) -> Result:
    record.own_history = change.undone(_history(record))
    return ()


def _withdrawn(record: Record, change: changes.Withdrawn, _: Moment) -> Result:
    _history(record).cursors.pop(change.path, None)
    _history(record).broken |= {change.path}
    return ()


def _saved(record: Record, change: changes.Saved, moment: Moment) -> Result:
    history = _history(record)
    path = change.checkpoint.tinker_path
    if path not in history.known:  # else it is noted once more
        history.saved_last = path, moment.utc
    history.known.pop(path, None)  # saving a name again makes it the newest: it goes last
    history.known[path] = change.checkpoint
    history.cursors[path] = change.cursor
    return ()


#: The function for each kind of change.
APPLIED_BY: dict[type[Change], Callable[[Record, Any, Moment], Result]] = {
    changes.Seen: _seen,
    changes.Flagged: _flagged,
    changes.PollFailed: _poll_failed,
    changes.Requested: _requested,
    changes.AttemptStep: _attempt_step,
    changes.AttemptFailed: _attempt_failed,
    changes.GaveUp: _gave_up,
    changes.Recovered: _recovered,
    changes.Dropped: _dropped,
    changes.Orphaned: _orphaned,
    changes.Fenced: _fenced,
    changes.Freed: _freed,
    changes.TakenUp: _taken_up,
    changes.Updated: _updated,
    changes.Remembered: _remembered,
    changes.Stopped: _stopped,
    changes.ErrorNoted: _error_noted,
    changes.LoopBegan: _loop_began,
    changes.SaveBegan: _save_began,
    changes.SaveUnsent: _save_unsent,
    changes.Withdrawn: _withdrawn,
    changes.Saved: _saved,
}


# What several changes do


def _history(record: Record) -> History:
    """The record's history, begun at the first need."""
    record.own_history = record.own_history or History()
    return record.own_history


def _give_budget_back(history: History) -> None:
    """Count incidents from 0 again, and give every checkpoint another chance."""
    history.incidents, history.broken, history.stuck_at = (), frozenset(), None


def _begin_anew(record: Record) -> None:
    _move(record, RunState.HEALTHY)
    _forget_polls(record)
    record.error = None


def _forget_polls(record: Record) -> None:
    """Forget failed polls: they say nothing of what comes next."""
    record.failed_at = record.told_at = None
    record.misses, record.poll_after = 0, 0.0


def _move(record: Record, after: RunState) -> None:
    """Change a run's state, here alone; `RuntimeError` where the table does not allow it."""
    if record.state is not after:
        check_transition(record.state, after)
        record.state = after


def _common(record: Record, moment: Moment) -> dict[str, Any]:
    return {"run_id": record.run_id, "metadata": record.metadata, "time": moment.utc}
