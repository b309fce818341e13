"""Carries out what follows an attempt: success, another try, a pause, or giving up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..config.credentials import kept, secrets_of, without_secrets
from ..errors import (
    AttemptTimeoutError,
    MonitorStoppedError,
    RecoveryError,
    TinkexError,
    heed,
    in_words,
)
from ..lineage.metadata import RECOVERED_FROM, metadata_of
from ..ports import PAGE_SIZE
from ..runs.changes import AttemptFailed, GaveUp, Orphaned, Recovered
from ..signals import ClientCreated, Completed, Exhausted, Failed
from .attempt import AttemptReport, RecoveryRequest
from .error_kinds import Failure, Kind, classify
from .holds import Breaker
from .incident import RECOVERIES, Adopted, Attempt, Incident
from .retry import Action, Decision, decide

logger = logging.getLogger(__name__)

#: How a refusal of the account can look from inside an attempt: the official SDK, for one,
#: sleeps on a 402 until the attempt has outlasted its time.
_MAY_BE_A_REFUSAL = frozenset({Kind.SERVER, Kind.PATIENCE, Kind.CODE})

#: Closes an incident; false where it was closed before.
Settle = Callable[[Incident], bool]

#: Lets the next attempts of incidents begin, in some seconds.
Release = Callable[[tuple[Incident], float], None]


def conclude(attempt: Attempt, report: AttemptReport, settle: Settle, release: Release) -> None:
    """Tell what follows an attempt that was not abandoned, and begin it.

    Where the report has a client, the incident is settled.
    """
    incident, request = attempt.incident, attempt.incident.request
    try:
        if report.has_client:
            _recovered(attempt, report)
            return
        delay = _failed(attempt, report, settle)
        if delay is not None:
            release((incident,), delay)
    except RecoveryError as refused:
        settle(incident)
        _tell_give_up(attempt, refused)
    except Exception as unforeseen:
        # No run may be left in the middle of an incident that nothing carries on.
        logger.exception("run %s: its attempt could not be dealt with", request.run_id)
        settle(incident)
        tell_orphan(incident, report, is_shown=True)
        _tell_give_up(attempt, kept(unforeseen, secrets_of(request.service, request.config)))


def _recovered(attempt: Attempt, report: AttemptReport) -> None:
    made = {
        "checkpoint": report.checkpoint,
        "client": report.client,
        "successor_id": report.successor_id,
    }
    is_shown, is_refused = True, False
    try:
        is_shown = attempt.tell(ClientCreated, **made)
    except RecoveryError:
        is_refused = True  # the client is of a run that has another handle
        raise
    finally:
        # Also after an interrupt in a receiver that runs on this thread: the client is paid for.
        if not is_refused:
            _hand_over(attempt, report, made, is_shown=is_shown)


def _hand_over(
    attempt: Attempt, report: AttemptReport, made: dict[str, Any], *, is_shown: bool
) -> None:
    incident = attempt.incident
    completed = attempt.event(Completed, **made, duration=incident.elapsed())
    change = Recovered(
        run_id=completed.run_id,
        event=completed,
        with_optimizer=report.with_optimizer,
        broken=incident.broken,
    )
    RECOVERIES.leave(incident, change)
    try:
        is_taken = incident.tell(change) is not None
    except BaseException as error:
        if not isinstance(error, Exception):  # an interrupt in a receiver: it was applied
            _keep(incident, report, completed)
        raise
    if is_taken:
        _keep(incident, report, completed)
    else:
        RECOVERIES.disown(incident)
        tell_orphan(incident, report, is_shown=is_shown)
        end_with(incident, stopped(incident))
        incident.drop_joined()


def _keep(incident: Incident, report: AttemptReport, completed: Completed) -> None:
    replaced = incident.request.run_id
    own = incident.owner.own_services
    own.keep(report.opened, report.client, run_id=completed.successor_id, replaced=replaced)
    incident.future.set_result(completed)


def adopt(incident: Incident, recovered: Recovered) -> None:
    """Take over what came of another incident of the same run."""
    incident.settled = True
    metadata, now = incident.metadata, incident.owner.clock.utc()
    event = replace(recovered.event, metadata=metadata, time=now, duration=incident.elapsed())
    if incident.tell(Adopted(recovered._replace(event=event))) is None:
        end_with(incident, stopped(incident))
    else:
        incident.future.set_result(event)


def _failed(attempt: Attempt, report: AttemptReport, settle: Settle) -> float | None:
    incident = attempt.incident
    request, incident.run = incident.request, report.run or incident.run
    error = report.error or RecoveryError(
        f"the attempt made run {report.successor_id!r}, but its client stayed in another "
        "process; give an executor that runs attempts in this one"
    )
    incident.reopen = incident.reopen or isinstance(error, AttemptTimeoutError)
    decision = _decide(incident, report, error)
    is_held = decision.action is Action.PAUSE
    if is_held:
        incident.attempt -= 1
    else:
        incident.history.append(f"attempt {attempt.number}: {in_words(error)}")
    if decision.action is Action.GIVE_UP:
        if settle(incident):
            _tell_give_up(attempt, error)
        return None
    if report.checkpoint is not None and decision.action is Action.STEP_DOWN:
        incident.broken |= {report.checkpoint.tinker_path}
    elif decision.action is Action.DROP_OPTIMIZER:
        incident.with_optimizer = False
        incident.broken = frozenset()
    event = attempt.event(Failed, error=error, retry_in=decision.delay)
    change = AttemptFailed(
        run_id=request.run_id, event=event, checkpoint=report.checkpoint, is_held=is_held
    )
    if incident.settled:
        return None  # ended just now: what is told would meet the next incident
    incident.tell(change)
    if is_held:
        return 0.0 if incident.admit() else None  # admitted: the account works again by now
    return decision.delay


def _tell_give_up(attempt: Attempt, error: BaseException) -> None:
    """Tell the owner. Those that joined have means of their own, with which they go on."""
    incident = attempt.incident
    change = GaveUp(
        run_id=incident.request.run_id,
        event=attempt.event(Exhausted, error=error),
        failed=attempt.event(Failed, error=error, retry_in=None),
        history=tuple(incident.history),
    )
    try:
        incident.tell(change)
    finally:
        end_with(incident, error)
        incident.drop_joined()


def _decide(incident: Incident, report: AttemptReport, error: BaseException) -> Decision:
    if report.successor_id is not None:
        return Decision(action=Action.GIVE_UP)
    failure = classify(error, loading=report.loading)
    is_held = incident.owner.holds.breaker(incident.account) is not Breaker.CLOSED
    if is_held and failure.kind in _MAY_BE_A_REFUSAL:
        failure = Failure(kind=Kind.ACCOUNT)
    incident.tally = incident.tally.after(failure)._replace(
        rungs_left=report.rungs_left,
        with_optimizer=incident.with_optimizer,
        elapsed=incident.elapsed(),
    )
    try:
        return decide(incident.request.policy, failure, incident.tally, error)
    except BaseException as raised:  # an exit in foreign code, too
        heed(raised)
        logger.exception("run %s: the policy's strategy failed", incident.request.run_id)
        return Decision(action=Action.GIVE_UP)


def find_orphans(request: RecoveryRequest, successor_id: str | None) -> list[str]:
    """The runs that failed attempts left behind, as far as the newest page shows them.

    A load that failed can leave an empty run that the server lists as healthy; it carries the
    metadata of the successor that it was to be.
    """
    if not request.rest.can_list:
        return []
    rows = request.rest.rows(request.config, 0, PAGE_SIZE).all()
    return [
        run_id
        for run_id, row, _ in rows
        if run_id not in (successor_id, *request.run_ids)
        and metadata_of(row).get(RECOVERED_FROM) == request.run_id
    ]


def tell_left_behind(incident: Incident, successor_id: str | None) -> None:
    """Ask for the runs that failed attempts left behind; the answer is only looked at."""
    request = incident.request
    try:
        left = find_orphans(request, successor_id)
    except BaseException as error:  # an exit in foreign code, too
        heed(error)
        shown = without_secrets(error, secrets_of(request.service, request.config))
        logger.info("run %s: orphans cannot be listed: %s", request.run_id, shown)
        return
    for orphan in left:
        incident.tell(Orphaned(of=request.run_id, successor_id=orphan))


def tell_orphan(incident: Incident, report: AttemptReport, *, is_shown: bool = False) -> None:
    """Tell of a client that is not waited for any more, and end its session.

    Not where it `is_shown`: a receiver may hold it.
    """
    run_id, orphan = incident.request.run_id, report.successor_id
    if report.has_client and not is_shown:
        incident.owner.own_services.discard(report.opened, run_id)
    if orphan is not None:
        given_up = "run %s: an attempt that was given up made run %s after all; nothing uses it"
        logger.warning(given_up, run_id, orphan)
        incident.tell(Orphaned(of=run_id, successor_id=orphan))


def stopped(incident: Incident) -> TinkexError:
    """The error of an incident that its owner ended."""
    run_id = incident.request.run_id
    why = incident.owner.over(run_id)
    return why or MonitorStoppedError(f"the recovery of run {run_id!r} was stopped")


def end_with(incident: Incident, error: BaseException) -> None:
    """Have the incident's future raise an error, unless it has its result already."""
    with suppress(InvalidStateError):
        incident.future.set_exception(error)
