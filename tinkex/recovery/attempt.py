"""The work of one attempt: a frozen task goes in, a frozen report comes out.

The work changes nothing of ours and publishes nothing, so that it can run on any executor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from threading import current_thread, main_thread
from typing import Any, NamedTuple

from ..config import Config
from ..config.credentials import all_secrets_of, kept, secrets_of, with_own_key, without_secrets
from ..errors import (
    AttemptTimeoutError,
    CheckpointMissingError,
    ServiceError,
    TinkexError,
    apart_from_outer,
    in_words,
    status_of,
)
from ..lineage.metadata import GENERATION, MADE_FROM, OWNER, RECOVERED_FROM, ROOT, SILENT_FOR
from ..lineage.owners import is_own
from ..policy import Policy, Specific
from ..ports import RestPort, ServicePort
from ..runs.checkpoints import Candidate, Cursor, Plan, plan_recovery
from ..runs.state import generation_in
from ..service import model_id_of
from ..types import Checkpoint, TinkerPath, TrainingRun
from .error_kinds import Kind, classify, is_session_over

logger = logging.getLogger(__name__)

#: How many runs of a lineage are asked for checkpoints, the newest first.
RUNS_LISTED = 32
#: The task that the present thread works on.
_current: ContextVar[AttemptTask | None] = ContextVar("tinkex_attempt", default=None)


class RecoveryRequest(NamedTuple):
    """What is to be recovered, how, and through which modules.

    `run_ids` are of the lineage, newest first, `generation` counts from 0, and `forks` names for
    each run before the live one what the next one was made from; `carried` is metadata of each run
    that the owner makes; `known` are checkpoints beside those that the server lists, `recorded`
    their cursors, `broken` the paths that did not load; `run` is the run as a poll saw it.
    `has_resume_step`: the training loop knows the step of checkpoints for which none is recorded.
    """

    run_id: str
    root_id: str
    service: Any
    policy: Policy
    rest: RestPort
    services: ServicePort
    recorded: Mapping[str, Cursor]
    config: Config | None = None
    run: TrainingRun | None = None
    run_ids: tuple[str, ...] = ()
    generation: int = 0
    forks: tuple[tuple[str, str], ...] = ()
    carried: tuple[tuple[str, str], ...] = ()
    known: tuple[Checkpoint, ...] = ()
    broken: frozenset[str] = frozenset()
    has_resume_step: bool = False


class AttemptTask(NamedTuple):
    """One attempt. It can be pickled where its service client and its modules can.

    `number` counts from 1; `broken` are the paths that did not load in this incident; `now` is
    an aware UTC time, which counts where the server's is not known; the successor carries the
    metadata of `run`; `reopen`: with a new service client, since an attempt hung in the present
    one. `on_begun` is told that the work begins, `on_selected` the chosen checkpoint, before
    minutes may pass in loading it; `is_wanted` is asked before a client is paid for. They stay
    behind when the task is pickled, as do the key and the headers of its config: a worker
    elsewhere finds its own key.
    """

    request: RecoveryRequest
    number: int
    with_optimizer: bool
    broken: frozenset[str]
    now: datetime
    run: TrainingRun | None = None
    reopen: bool = False
    on_begun: Callable[[], object] = lambda: None
    on_selected: Callable[[Any], object] = lambda _: None
    is_wanted: Callable[[], bool] = lambda: True

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(AttemptTask, **_values(self, "on_begun", "on_selected", "is_wanted")), ()


class AttemptReport(NamedTuple):
    """What became of an attempt: `error`, or a client that has loaded `checkpoint`.

    `rungs_left` says how many older checkpoints may still be tried, `loading` whether the error
    came from loading; `run` is the run as the attempt knew it; `opened` are the service clients
    that are of our making, the last of which made `client`. A pickled report has neither those nor
    `client`, only its run's id.
    """

    checkpoint: Checkpoint | None = None
    rungs_left: int = 0
    run: TrainingRun | None = None
    loading: bool = False
    client: Any = None
    successor_id: str | None = None
    with_optimizer: bool = True
    error: BaseException | None = None
    opened: tuple[Any, ...] = ()

    @property
    def has_client(self) -> bool:
        """Whether there is a client, in this process."""
        return self.client is not None and self.successor_id is not None

    @classmethod
    def of(cls, job: Future[Any]) -> AttemptReport:
        """What a job brought. Its error becomes a value, so that nothing is raised from it."""
        try:
            result = job.result()
        except CancelledError:
            return cls(error=RuntimeError("the executor cancelled the attempt"))
        except BaseException as error:  # whatever ended the job, also an exit in foreign code
            return cls(error=error)
        if isinstance(result, cls):
            return result
        return cls(error=TypeError(f"the executor's future holds {result!r}, no report"))

    def __reduce__(self) -> tuple[Any, ...]:
        kept = _values(self, "client", "opened")
        error = self.error
        if error is not None and not isinstance(error, TinkexError):
            # An error of a library may be more than a pickle can hold.
            kind, status = type(error).__name__, status_of(error)
            category = str(getattr(error, "category", None) or "") or None
            kept["error"] = ServiceError(kind, in_words(error), status=status, category=category)
        return partial(AttemptReport, **kept), ()


def _values(value: AttemptTask | AttemptReport, *left_out: str) -> dict[str, Any]:
    return {name: held for name, held in value._asdict().items() if name not in left_out}


def current_task() -> AttemptTask | None:
    """The task that the calling thread works on, if it does."""
    return _current.get()


def run_attempt(task: AttemptTask) -> AttemptReport:
    """Make an attempt on the calling thread. Its errors come back in the report."""
    used, keyed = [task.request.service], task  # no error may hold a key of those used
    known: dict[str, Any] = {"with_optimizer": task.with_optimizer, "run": task.run}
    token = _current.set(task)
    try:
        with apart_from_outer():
            task.on_begun()
            keyed = _with_key(task)
            candidates, lacks_some = _candidates(keyed)
            checkpoint = candidates[0].checkpoint
            # Older ones may be listed by the time that this one has failed to load.
            known.update(checkpoint=checkpoint, rungs_left=len(candidates) - (not lacks_some))
            task.on_selected(checkpoint)
            _check_wanted(task)
            run = task.run or _asked(keyed.request)
            metadata = _successor_metadata(task, checkpoint, run)
            known["run"] = run
            used.append(_opened(task))
            known["loading"] = True
            client = _restored(task, used, checkpoint.tinker_path, metadata)
            known["loading"] = False
            known.update(client=client, successor_id=model_id_of(client))
    except BaseException as error:
        if not isinstance(error, Exception) and current_thread() is main_thread():
            raise  # an interrupt of the caller, whose thread this is
        known["error"] = kept(error, all_secrets_of(used, keyed.request.config))
    finally:
        _current.reset(token)
    given, *opened = used
    owned = tuple(one for one in opened if task.request.services.owns(given, one))
    return AttemptReport(**known, opened=owned)


def _opened(task: AttemptTask) -> Any:
    """The service client to restore with; a new one where an attempt hung in the old one."""
    services, service = task.request.services, task.request.service
    new = services.reopened(service) if task.reopen else None
    return services.opened(service) if new is None else new


def _restored(task: AttemptTask, used: list[Any], path: str, metadata: Mapping[str, str]) -> Any:
    """The client that has loaded; made with a new service client where its session is over."""
    services, options = task.request.services, {"with_optimizer": task.with_optimizer}
    try:
        return services.restore(used[-1], path, metadata, **options)
    except Exception as error:
        if not is_session_over(error):
            raise
        over = in_words(error)
    # Outside the except block: what follows says nothing of the checkpoint.
    new = services.reopened(task.request.service)
    if new is None:
        advice = "give a callable that makes a service client, such as its class, in place of one"
        raise TypeError(f"the session of the service client is over ({over}); {advice}")
    used.append(new)
    _check_wanted(task)
    return services.restore(new, path, metadata, **options)


def _check_wanted(task: AttemptTask) -> None:
    if not task.is_wanted():
        raise AttemptTimeoutError(task.request.run_id, task.request.policy.attempt_timeout)


def _candidates(task: AttemptTask) -> tuple[tuple[Candidate, ...], bool]:
    plan, lacks_some = _planned(task)
    if plan.candidates:
        return plan.candidates, lacks_some
    why = "; ".join(f"{out.checkpoint.tinker_path}: {out.reason}" for out in plan.left_out[:4])
    raise CheckpointMissingError(task.request.run_id, why or "it has no training checkpoint")


def _with_key(task: AttemptTask) -> AttemptTask:
    """The task with a key, found here where its own stayed in another process."""
    request = task.request
    if not isinstance(request.config, Config):
        return task
    config = with_own_key(request.config, request.service)
    return task._replace(request=request._replace(config=config))


def _successor_metadata(
    task: AttemptTask, checkpoint: Checkpoint, run: TrainingRun | None
) -> dict[str, str]:
    request, own = task.request, (run.user_metadata if run else None) or {}
    # To recover the run of another process does not make its owner.
    not_ours = () if is_own(own.get(OWNER)) else (OWNER, SILENT_FOR)
    return {
        ROOT: request.root_id,
        **{key: str(value) for key, value in own.items() if key not in not_ours},
        **dict(request.carried),
        GENERATION: str(1 + max(request.generation, generation_in(own.get(GENERATION)) or 0)),
        RECOVERED_FROM: request.run_id,
        MADE_FROM: checkpoint.tinker_path,
        "tinkex_attempt": str(task.number),
    }


def _asked(request: RecoveryRequest) -> TrainingRun | None:
    """The run that is recovered, where no poll has brought it; recoveries do without."""
    try:
        return request.rest.run(request.config, request.run_id)
    except Exception as error:
        shown = without_secrets(error, secrets_of(request.service, request.config))
        logger.info("the metadata of run %s cannot be had: %s", request.run_id, shown)
        return None


def make_plan(task: AttemptTask) -> Plan:
    """Ask for the lineage's checkpoints and order them; raises where nothing can be known."""
    return _planned(task)[0]


def _planned(task: AttemptTask) -> tuple[Plan, bool]:
    """The plan, and whether it may lack checkpoints, since a list failed."""
    request, failed = task.request, None
    found: list[Checkpoint] = []
    if isinstance(request.policy.checkpoint_strategy, Specific):
        return _plan(task, found), False
    plan = None
    for listed in _listings(request, request.run_ids[:RUNS_LISTED]):
        if isinstance(listed, Exception):
            failed = listed
            continue
        found[:0] = listed
        plan = _plan(task, found)
        # Where steps are recorded, those without one may give way to those of an older run.
        fresh = [c for c in plan.candidates if not c.is_expired]
        ready = [c for c in fresh if c.step is not None or not request.recorded]
        if len(ready) > request.policy.fallback_checkpoints:
            break
    plan = plan or _plan(task, found)
    lacks_some = failed is not None and classify(failed).kind in (Kind.SERVER, Kind.PATIENCE)
    if all(candidate.is_expired for candidate in plan.candidates):
        found += _made_from(task)
        plan = _plan(task, found)
    if failed is not None and lacks_some and not plan.candidates:
        raise failed
    return plan, lacks_some


def _made_from(task: AttemptTask) -> list[Checkpoint]:
    """What a successor without a checkpoint of its own was made from, by its metadata."""
    run = task.run or task.request.run or _asked(task.request)
    path = ((run.user_metadata if run else None) or {}).get(MADE_FROM)
    try:
        known = Checkpoint.from_path(str(path))
    except ValueError:
        return []
    source = TinkerPath.parse(known.tinker_path).run_id
    listed = next(iter(_listings(task.request, (source,))), ())
    rows = () if isinstance(listed, Exception) else listed
    return [each for each in rows if each.tinker_path == path] or [known]


def _plan(task: AttemptTask, found: list[Checkpoint]) -> Plan:
    request = task.request
    seen = request.run.last_checkpoint if request.run else None
    return plan_recovery(
        request.policy,
        [*request.known, *([seen] if seen else []), *found],
        recorded=request.recorded,
        broken=task.broken | request.broken,
        tried=len(task.broken),
        lineage=request.run_ids,
        forks=dict(request.forks),
        has_resume_step=request.has_resume_step,
        now=request.rest.now(request.config, task.now),
    )


def _listings(
    request: RecoveryRequest, run_ids: tuple[str, ...]
) -> Iterator[tuple[Checkpoint, ...] | Exception]:
    """Each run's checkpoints, or why they could not be listed."""
    for run_id in run_ids if request.rest.can_list_checkpoints else ():
        try:
            listed = request.rest.checkpoints(request.config, run_id)
        except Exception as error:
            if classify(error).kind is Kind.ACCOUNT:
                raise
            # Not every server can list; what was recorded and seen serves then.
            shown = without_secrets(error, secrets_of(request.service, request.config))
            logger.info("the checkpoints of run %s cannot be listed: %s", run_id, shown)
            yield error
        else:
            yield listed
