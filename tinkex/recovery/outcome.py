"""What follows the end of an attempt: success, another try, or none; told, then published."""

from __future__ import annotations

import logging
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from ..errors import MonitorStoppedError, in_words
from ..runs.record import Restored
from ..service import secrets_of, without_secrets
from ..signals import Completed, Exhausted, Failed
from .attempt import find_orphans
from .error_kinds import Failure, Kind, classify
from .incident import (
    Attempt,
    Blocked,
    Change,
    GaveUp,
    Incident,
    Orphaned,
    Recovered,
    Waiting,
)
from .retry import Action, Decision, decide

__all__ = ["Queue", "crashed", "failed", "orphaned", "recovered"]

logger = logging.getLogger(__name__)

#: How a block of the account can look from inside an attempt: the official SDK, for one, sleeps
#: on a 402 until the attempt has outlasted its time.
_MAY_BE_THE_BLOCK = frozenset({Kind.SERVER, Kind.PATIENCE, Kind.CODE})


class Queue(Protocol):
    """Where incidents wait for their next attempt."""

    def again(self, incident: Incident, delay: float) -> None:
        """Let the next attempt begin in `delay` seconds."""

    def park(self, incident: Incident) -> None:
        """Hold the incident back until its account works again."""

    def is_blocked(self, incident: Incident) -> bool:
        """Whether the incident's account is known to be blocked."""

    def settle(self, incident: Incident) -> bool:
        """Close an incident; false where it was closed before."""


def recovered(queue: Queue, attempt: Attempt, restored: Restored) -> None:
    """Hand over the new client: the handle first, then `completed`, then the callback."""
    incident = attempt.incident
    request = incident.request
    change = Recovered(attempt=attempt.number, restored=restored, broken=frozenset(incident.broken))
    if not incident.tell(change):
        orphaned(incident, restored)
        incident.future.set_exception(
            MonitorStoppedError(f"the recovery of run {request.run_id!r} was stopped")
        )
        return
    event = incident.publish(
        Completed,
        attempt=attempt.number,
        checkpoint=restored.checkpoint,
        client=restored.client,
        successor_id=restored.successor_id,
        duration=incident.tools.clock.monotonic() - incident.began,
    )
    incident.reporter.call(
        request.root_id,
        request.policy.on_recovery,
        request.old_client,
        restored.client,
        restored.checkpoint,
    )
    incident.future.set_result(event)
    _tell_orphans(incident, restored.successor_id)


def orphaned(incident: Incident, restored: Restored) -> None:
    """Tell of a client that nobody waits for any more."""
    logger.warning(
        "run %s: an attempt that was given up made run %s after all; nothing uses it",
        incident.request.run_id,
        restored.successor_id,
    )
    incident.tell(Orphaned(successor_id=restored.successor_id))


def failed(queue: Queue, attempt: Attempt, raised: BaseException) -> None:
    """Decide what follows a failed attempt, and say so."""
    incident = attempt.incident
    request = incident.request
    error = without_secrets(raised, secrets_of(attempt.service, request.config))
    decision = _decide(attempt, error, is_blocked=queue.is_blocked(incident))
    if decision.action is not Action.PAUSE:
        incident.history.append(f"attempt {attempt.number}: {in_words(error)}")
    if decision.action is Action.GIVE_UP:
        _give_up(queue, attempt, error)
        return
    if decision.action is Action.PAUSE:
        incident.attempt -= 1
        change: Change = Blocked(error=error)
    else:
        change = Waiting(error=error, delay=decision.delay)
        if attempt.checkpoint is not None and decision.action is Action.STEP_DOWN:
            incident.broken.add(attempt.checkpoint.tinker_path)
        elif decision.action is Action.DROP_OPTIMIZER:
            incident.with_optimizer = False
            incident.broken.clear()
    incident.tell(change)
    incident.publish(Failed, attempt=attempt.number, error=error, retry_in=decision.delay)
    if decision.action is Action.PAUSE:
        queue.park(incident)
    else:
        queue.again(incident, decision.delay)


def _decide(attempt: Attempt, error: BaseException, *, is_blocked: bool) -> Decision:
    incident = attempt.incident
    failure = classify(error, loading=attempt.loading)
    if is_blocked and failure.kind in _MAY_BE_THE_BLOCK:
        failure = Failure(kind=Kind.ACCOUNT)
    incident.tally = replace(
        incident.tally.after(failure),
        rungs_left=attempt.rungs_left,
        with_optimizer=incident.with_optimizer,
        elapsed=incident.tools.clock.monotonic() - incident.began,
    )
    try:
        return decide(incident.request.policy, failure, incident.tally, error)
    except Exception:
        logger.exception("run %s: the policy's strategy failed", incident.request.run_id)
        return Decision(action=Action.GIVE_UP)


def crashed(queue: Queue, attempt: Attempt, error: Exception) -> None:
    """End an incident whose bookkeeping failed."""
    incident = attempt.incident
    queue.settle(incident)
    incident.tell(GaveUp(attempt=attempt.number, error=error, history=tuple(incident.history)))
    incident.publish(Exhausted, attempt=attempt.number, error=error)
    with suppress(InvalidStateError):  # it may have been told of before the failure
        incident.future.set_exception(error)


def _give_up(queue: Queue, attempt: Attempt, error: BaseException) -> None:
    incident = attempt.incident
    request = incident.request
    if not queue.settle(incident):
        return
    incident.tell(GaveUp(attempt=attempt.number, error=error, history=tuple(incident.history)))
    incident.publish(Failed, attempt=attempt.number, error=error, retry_in=None)
    incident.publish(Exhausted, attempt=attempt.number, error=error)
    incident.reporter.call(request.root_id, request.policy.on_failure, request.run_id, error)
    incident.future.set_exception(error)
    _tell_orphans(incident, None)


def _tell_orphans(incident: Incident, successor_id: str | None) -> None:
    """Tell of the runs that failed attempts left behind; only to look at, so it may fail."""
    if not incident.history:
        return
    try:
        left = find_orphans(incident.request, incident.tools, successor_id)
    except Exception as error:
        shown = without_secrets(
            error, secrets_of(incident.request.service, incident.request.config)
        )
        logger.info("run %s: orphans cannot be listed: %s", incident.request.run_id, shown)
        return
    for orphan in left:
        incident.tell(Orphaned(successor_id=orphan))
