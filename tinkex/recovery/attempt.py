"""The work of one attempt: choose a checkpoint, make a client from it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import AttemptTimeoutError, CheckpointMissingError, apart_from_outer
from ..policy import Specific
from ..rest.port import PAGE_SIZE, ask_page
from ..runs.checkpoints import Plan, plan_recovery
from ..runs.record import Restored
from ..service import is_service_client, model_id_of, secrets_of, without_secrets
from ..signals import CheckpointSelected, ClientCreated
from ..types import Checkpoint, TrainingRun
from .error_kinds import Kind, classify
from .incident import Attempt, Incident, RecoveryRequest, Tools

__all__ = ["find_orphans", "make_plan", "run_attempt"]

logger = logging.getLogger(__name__)

#: The key of a successor's `user_metadata` that names the run it was recovered from.
RECOVERED_FROM = "tinkex_recovered_from"

#: How many runs of a lineage are asked for checkpoints, the newest first.
RUNS_LISTED = 32


def run_attempt(attempt: Attempt) -> Restored:
    """Restore the incident's run, on the thread that calls.

    Raises:
        Exception: What the rest module or the service client raised, or a
            `CheckpointMissingError`.
    """
    attempt.thread = threading.get_ident()
    with apart_from_outer():
        return _restore(attempt)


def _restore(attempt: Attempt) -> Restored:
    incident = attempt.incident
    request = incident.request
    plan = make_plan(request, incident.tools, broken=incident.broken)
    if not plan.candidates:
        raise CheckpointMissingError(request.run_id, _why_none(plan))
    checkpoint = plan.candidates[0].checkpoint
    attempt.checkpoint, attempt.rungs_left = checkpoint, len(plan.candidates) - 1
    _publish(attempt, CheckpointSelected, checkpoint=checkpoint)
    client = _create(attempt, checkpoint)
    restored = Restored(
        checkpoint=checkpoint,
        client=client,
        successor_id=model_id_of(client),
        with_optimizer=incident.with_optimizer,
    )
    _publish(
        attempt,
        ClientCreated,
        checkpoint=checkpoint,
        client=client,
        successor_id=restored.successor_id,
    )
    return restored


def _create(attempt: Attempt, checkpoint: Checkpoint) -> Any:
    incident = attempt.incident
    request, services = incident.request, incident.tools.services
    service = attempt.service = _opened(services, request.service)
    create = (
        services.create_training_client_from_state_with_optimizer
        if incident.with_optimizer
        else services.create_training_client_from_state
    )
    if not attempt.is_current:
        # Nobody waits for a client any more: do not pay for one.
        raise AttemptTimeoutError(request.run_id, request.policy.attempt_timeout)
    attempt.loading = True
    client = create(
        service, checkpoint.tinker_path, user_metadata=_successor_metadata(attempt, checkpoint)
    )
    attempt.loading = False
    return client


def _opened(services: Any, service: Any) -> Any:
    """The service client, made anew where a callable that makes one was given."""
    if hasattr(services, "open_service_client"):
        return services.open_service_client(service)
    # A module of a person's own may take service clients that only it knows.
    return service() if callable(service) and not is_service_client(service) else service


def _successor_metadata(attempt: Attempt, checkpoint: Checkpoint) -> dict[str, str]:
    incident = attempt.incident
    request = incident.request
    incident.run = run = incident.run or _asked(request, incident.tools)
    own = run.user_metadata if run else None
    return {
        **{key: str(value) for key, value in (own or {}).items()},
        "tinkex_root": request.root_id,
        RECOVERED_FROM: request.run_id,
        "tinkex_checkpoint": checkpoint.tinker_path,
        "tinkex_attempt": str(attempt.number),
    }


def _asked(request: RecoveryRequest, tools: Tools) -> TrainingRun | None:
    """The run that is recovered, where no poll has brought it."""
    try:
        found = tools.rest.get_training_run(request.config, request.run_id)
        return TrainingRun.from_json(found)
    except Exception as error:
        # A recovery is worth more than the metadata that it could carry on.
        shown = without_secrets(error, secrets_of(request.service, request.config))
        logger.info("the metadata of run %s cannot be had: %s", request.run_id, shown)
        return None


def _publish(attempt: Attempt, kind: type, **fields: Any) -> None:
    if attempt.is_current:
        incident: Incident = attempt.incident
        if kind is CheckpointSelected:
            fields["strategy"] = incident.request.policy.checkpoint_strategy
        incident.publish(kind, attempt=attempt.number, **fields)


def make_plan(request: RecoveryRequest, tools: Tools, *, broken: set[str]) -> Plan:
    """Ask for the lineage's checkpoints and order them; see `plan_recovery`.

    Raises:
        Exception: The account is blocked, or no checkpoint is known and the list failed.
    """
    found: list[Checkpoint] = []
    failed: Exception | None = None
    plan = _plan(request, tools, found, broken)
    if isinstance(request.policy.checkpoint_strategy, Specific):
        return plan
    for listed in _listings(request, tools):
        if isinstance(listed, Exception):
            failed = listed
            continue
        found[:0] = listed
        plan = _plan(request, tools, found, broken)
        if len(plan.candidates) > request.policy.fallback_checkpoints:
            break
    if not plan.candidates and failed is not None and _may_pass(failed):
        raise failed
    return plan


def _plan(
    request: RecoveryRequest, tools: Tools, found: list[Checkpoint], broken: set[str]
) -> Plan:
    seen = request.run.last_checkpoint if request.run else None
    return plan_recovery(
        request.policy,
        [*request.known, *([seen] if seen else []), *found],
        recorded=request.recorded,
        broken=broken | request.broken,
        tried=len(broken),
        lineage=request.run_ids,
        now=tools.clock.utc(),
    )


def _listings(
    request: RecoveryRequest, tools: Tools
) -> Iterator[tuple[Checkpoint, ...] | Exception]:
    """Each run's checkpoints, or why they could not be listed."""
    list_checkpoints = getattr(tools.rest, "list_checkpoints", None)
    if list_checkpoints is None:
        return
    for run_id in request.run_ids[:RUNS_LISTED]:
        try:
            listed = tuple(list_checkpoints(request.config, run_id))
        except Exception as error:
            if classify(error).kind is Kind.ACCOUNT:
                raise
            # Not every server can list; what was recorded and seen serves then.
            shown = without_secrets(error, secrets_of(request.service, request.config))
            logger.info("the checkpoints of run %s cannot be listed: %s", run_id, shown)
            yield error
        else:
            yield tuple(Checkpoint.from_json(item) for item in listed)


def find_orphans(request: RecoveryRequest, tools: Tools, successor_id: str | None) -> list[str]:
    """The runs that failed attempts left behind, as far as the newest page shows them.

    A load that failed can leave an empty run that the server lists as healthy; it carries the
    metadata of the successor that it was to be.
    """
    if not callable(getattr(tools.rest, "list_training_runs", None)):
        return []
    rows, _ = ask_page(tools.rest, request.config, 0, PAGE_SIZE, {})
    return [
        run_id
        for run_id, row in rows
        if run_id not in (successor_id, *request.run_ids)
        and _metadata_of(row).get(RECOVERED_FROM) == request.run_id
    ]


def _metadata_of(row: Any) -> Mapping[str, Any]:
    found = row.get("user_metadata") if isinstance(row, Mapping) else None
    found = found or getattr(row, "user_metadata", None)
    return found if isinstance(found, Mapping) else {}


def _may_pass(error: Exception) -> bool:
    return classify(error).kind in (Kind.SERVER, Kind.PATIENCE)


def _why_none(plan: Plan) -> str:
    if not plan.left_out:
        return "it has no training checkpoint"
    return "; ".join(f"{out.checkpoint.tinker_path}: {out.reason}" for out in plan.left_out[:4])
