"""`Trainer`, which applies a training client's requests to a run, and the requests as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .model import AdamSettings, Example, LossReport
from .records import AppliedStep, FailureMode, Refusal
from .runs import TRAINING, Checkpoint, Run, now
from .state import State
from .store import CheckpointStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_PATH = re.compile(r"tinker://([^/]+)/(weights|sampler_weights)/([^/]+)\Z")


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
class LoadWeights:
    """Load a checkpoint, with the optimizer's state or without."""

    path: str
    optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadModel:
    """End the run; its checkpoints stay."""


Operation = ForwardBackward | OptimStep | SaveWeights | LoadWeights | UnloadModel
#: The result of a request: JSON, a loss report (which has two encodings), or an error.
Outcome = Mapping[str, Any] | LossReport | Refusal


class Trainer:
    """Applies operations to runs.

    Threads: `perform` is called on the server's thread only, one operation at a time.
    """

    def __init__(self, state: State, store: CheckpointStore) -> None:
        self._state = state
        self._store = store

    def perform(self, run: Run, sequence: int, operation: Operation) -> Outcome | None:
        """Apply `operation`; `None` means that no answer will ever come."""
        try:
            self._check_alive(run)
            return self._perform(run, sequence, operation)
        except Refusal as refusal:
            return refusal
        except _NoAnswer:
            return None

    def corrupt(self, run_id: str, *, break_newest: int, flag: bool, mode: FailureMode) -> None:
        """Corrupt a run and break its newest files; safe from any thread."""
        # In this order no save comes later, and a client that sees the flag finds broken files.
        for path in self._state.disable(run_id, break_newest=break_newest, mode=mode):
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
            case LoadWeights():
                return self._load(run, operation)
            case UnloadModel():
                return self._unload(run)

    def _check_alive(self, run: Run) -> None:
        with self._state.changed:
            if run.forgotten:
                raise self._state.unknown_run()
            failure = "fail" if run.unloaded else run.failure
        if failure == "hang":
            raise _NoAnswer
        if failure == "fail":
            raise Refusal(422, f"Future failed: Adapter {run.run_id} not found")

    def _forward_backward(self, run: Run, operation: ForwardBackward) -> LossReport:
        if operation.loss_fn != "cross_entropy":
            raise Refusal(422, f"Future failed: loss {operation.loss_fn!r} is not supported")
        return run.model.forward(operation.batch, backward=operation.backward)

    def _optim_step(self, run: Run, sequence: int, operation: OptimStep) -> Mapping[str, Any]:
        step = run.model.steps
        if trap := self._state.spring(run.run_id, step):
            self.corrupt(run.run_id, break_newest=trap.break_newest, flag=trap.flag, mode=trap.mode)
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
        sampling = None if operation.name else f"{run.run_id}:sample:{name}"
        return {
            "path": path,
            "sampling_session_id": sampling,
            "type": "save_weights_for_sampler",
        }

    def _load(self, run: Run, operation: LoadWeights) -> Mapping[str, Any]:
        found = _PATH.match(operation.path)
        if found is None or found[2] != TRAINING:
            detail = f"Cannot train from {operation.path!r}: not a path of training weights"
            raise Refusal(400, detail, early=True)
        with self._state.changed:
            source = self._state.run_of(run.owner, found[1])
            checkpoint = source.checkpoints.get(operation.path)
            if checkpoint is None or checkpoint.expired:
                word = "not found" if checkpoint is None else "has expired"
                raise Refusal(404, f"Checkpoint {operation.path} {word}", early=True)
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
