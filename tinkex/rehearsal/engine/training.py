"""`Trainer`, which applies a training client's requests to a run, and the requests as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .model import AdamSettings, Example, LossReport
from .records import AppliedStep, FailureMode, Refusal, SessionEnd
from .runs import TRAINING, Checkpoint, Run, now
from .sampling import SampleReport, Samplers
from .state import State
from .store import CheckpointStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
#: The losses, by what their examples need.
CROSS_ENTROPY = "cross_entropy"
IMPORTANCE_SAMPLING = "importance_sampling"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBackward:
    """Compute the loss of a batch; with `backward` accumulate its gradient too."""

    batch: tuple[Example, ...]
    loss_fn: str
    backward: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimStep:
    """Apply the accumulated gradient."""

    adam: AdamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveWeights:
    """Save a checkpoint; `kind` is the middle part of its tinker path."""

    kind: str
    name: str | None
    ttl_seconds: float | None = None
    overwrite: bool = False
    user_metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Keep the weights for a sampling client, without a checkpoint."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadWeights:
    """Load a checkpoint, with the optimizer's state or without."""

    path: str
    optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadModel:
    """End the run; its checkpoints stay."""


Operation = ForwardBackward | OptimStep | SaveWeights | Publish | LoadWeights | UnloadModel
#: The result of a request: JSON, a report (which has two encodings), or an error.
Outcome = Mapping[str, Any] | LossReport | SampleReport | Refusal


class Trainer:
    """Applies operations to runs.

    Threads: `perform` is called on the server's thread only, one operation at a time.
    """

    def __init__(self, state: State, store: CheckpointStore, samplers: Samplers) -> None:
        self._state = state
        self._store = store
        self._samplers = samplers

    def perform(self, run: Run, sequence: int, operation: Operation) -> Outcome | None:
        """Apply `operation`; `None` means that no answer will ever come."""
        try:
            self._check_alive(run)
            return self._perform(run, sequence, operation)
        except Refusal as refusal:
            return refusal
        except _NoAnswer:
            return None

    def corrupt(
        self,
        run_id: str,
        *,
        break_newest: int,
        flag: bool,
        mode: FailureMode,
        ends_session: SessionEnd | None,
    ) -> None:
        """Corrupt a run and break its newest files; safe from any thread."""
        # In this order no save comes later, and a client that sees the flag finds broken files.
        for path in self._state.disable(
            run_id, break_newest=break_newest, mode=mode, ends_session=ends_session
        ):
            self._store.truncate(path)
        if flag:
            self._state.flag(run_id)

    def roll_back(self, run_id: str) -> str:
        """Put a run back to its newest checkpoint, and return its name; while nothing is served."""
        with self._state.changed:
            run = self._state.known_run(run_id)
            saved = [each for each in run.checkpoints.values() if each.kind == TRAINING]
        if saved:
            run.model.restore(self._store.read(saved[-1].tinker_path), optimizer=True)
        return saved[-1].name if saved else "none"

    def _perform(self, run: Run, sequence: int, operation: Operation) -> Outcome:
        match operation:
            case ForwardBackward():
                return self._forward_backward(run, operation)
            case OptimStep():
                return self._optim_step(run, sequence, operation)
            case SaveWeights():
                return self._save(run, operation)
            case Publish():
                return self._publish(run, operation)
            case LoadWeights():
                return self._load(run, operation)
            case UnloadModel():
                return self._unload(run)

    def _check_alive(self, run: Run) -> None:
        with self._state.changed:
            if run.forgotten:
                raise self._state.unknown_run()
            failure = "fail" if run.unloaded else run.failure
            if failure != "hang":
                self._state.sessions[run.session_id].check()
        if failure == "hang":
            raise _NoAnswer
        if failure == "fail":
            raise Refusal(422, f"Future failed: Adapter {run.run_id} not found")

    def _forward_backward(self, run: Run, operation: ForwardBackward) -> LossReport:
        if operation.loss_fn not in (CROSS_ENTROPY, IMPORTANCE_SAMPLING):
            raise Refusal(422, f"Future failed: loss {operation.loss_fn!r} is not supported")
        return run.model.forward(operation.batch, backward=operation.backward)

    def _optim_step(self, run: Run, sequence: int, operation: OptimStep) -> Mapping[str, Any]:
        step = run.model.steps
        if trap := self._state.spring(run.run_id, step):
            self.corrupt(
                run.run_id,
                break_newest=trap.break_newest,
                flag=trap.flag,
                mode=trap.mode,
                ends_session=trap.ends_session,
            )
            self._check_alive(run)
        loss = run.model.apply(operation.adam)
        self._state.log(AppliedStep(run_id=run.run_id, sequence=sequence, step=step, loss=loss))
        return {"metrics": {"step:max": float(step)}, "type": "optim_step"}

    def _save(self, run: Run, operation: SaveWeights) -> Mapping[str, Any]:
        saved = run.model.state
        with self._state.changed:
            name = operation.name or f"checkpoint-{len(run.checkpoints):06d}"
        if not _NAME.match(name):
            raise Refusal(400, f"Invalid checkpoint name {name!r}", early=True)
        checkpoint = Checkpoint(
            run_id=run.run_id,
            kind=operation.kind,
            name=name,
            time=now(),
            size_bytes=0,
            step=saved.steps,
            user_metadata=operation.user_metadata,
        )
        checkpoint.keep_for(operation.ttl_seconds)
        path = checkpoint.tinker_path
        with self._state.changed:
            taken = path in run.checkpoints
        if taken and not operation.overwrite:
            detail = (
                f"Checkpoint '{name}' already exists for model {run.run_id} in {operation.kind}. "
                "Please choose a different name to avoid overwriting."
            )
            raise Refusal(409, detail, early=True)
        checkpoint.size_bytes = self._store.write(path, saved)
        with self._state.changed:
            self._check_alive(run)
            # Removed and inserted again: a replaced checkpoint becomes the newest.
            run.checkpoints.pop(path, None)
            run.checkpoints[path] = checkpoint
            self._state.changed.notify_all()
        if operation.kind == TRAINING:
            return {"path": path, "type": "save_weights"}
        return {"path": path, "sampling_session_id": None, "type": "save_weights_for_sampler"}

    def _publish(self, run: Run, operation: Publish) -> Mapping[str, Any]:
        with self._state.changed:
            session = self._state.sessions[run.session_id]
        weights = run.model.state.weights
        sampler = self._samplers.snapshot(session, operation.number, run.base_model, weights)
        return {"path": None, "sampling_session_id": sampler, "type": "save_weights_for_sampler"}

    def _load(self, run: Run, operation: LoadWeights) -> Mapping[str, Any]:
        if f"/{TRAINING}/" not in operation.path:
            detail = f"Cannot train from {operation.path!r}: not a path of training weights"
            raise Refusal(400, detail, early=True)
        self._state.saved(run.owner, operation.path)
        loaded = self._store.read(operation.path)
        run.model.restore(loaded, optimizer=operation.optimizer)
        with self._state.changed:
            run.created_from = operation.path
            run.with_optimizer = operation.optimizer
            run.start_step = loaded.steps
        return {"path": operation.path, "model_id": run.run_id, "type": "load_weights"}

    def _unload(self, run: Run) -> Mapping[str, Any]:
        with self._state.changed:
            run.unloaded = True
        return {"model_id": run.run_id, "type": "unload_model"}


class _NoAnswer(Exception):  # noqa: N818 - not an error: no answer is to be sent
    """Raised inside `perform` for a run whose calls hang."""
