"""`FakeRest`, a REST module for tests; a test sets the runs that it knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ApiStatusError
from ..types import Checkpoint, TrainingRun
from .service import MADE, Failures


class FakeRest:
    """A `rest_module` that knows the runs that a test sets.

    A run that was not set is a 404, except that runs made by a `FakeServiceClient` are healthy.
    `calls` lists `(function, run_id)` in order.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._runs: dict[str, TrainingRun] = {}
        self._checkpoints: dict[str, tuple[Checkpoint, ...]] = {}
        self._failures = Failures()

    def set_run(
        self,
        run_id: str,
        *,
        corrupted: bool = False,
        last_checkpoint: str | Checkpoint | Mapping[str, Any] | None = None,
        checkpoints: Iterable[str | Checkpoint | Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> TrainingRun:
        """Set what the fake server answers for a run.

        Args:
            run_id: The run's id.
            corrupted: The server's flag.
            last_checkpoint: A tinker path, a `Checkpoint`, or the API's JSON object.
            checkpoints: All its checkpoints, oldest first; `None`: only `last_checkpoint`.
            **fields: Further fields of the API's JSON object.
        """
        last = None if last_checkpoint is None else _checkpoint(last_checkpoint)
        listed = checkpoints if checkpoints is not None else filter(None, [last])
        self._checkpoints[run_id] = tuple(map(_checkpoint, listed))
        run = TrainingRun.from_json(
            {"training_run_id": run_id, "corrupted": corrupted, "base_model": "fake", **fields}
        )
        self._runs[run_id] = replace(run, last_checkpoint=last)
        return self._runs[run_id]

    def fail(self, error: BaseException, times: int = 1) -> None:
        """Make the next `times` calls of `get_training_run` raise `error`."""
        self._failures.add(error, times)

    def get_training_run(self, config: object, run_id: str) -> TrainingRun:
        """Return the run that was set; see `tinkex.rest.get_training_run`."""
        self.calls.append(("get_training_run", run_id))
        self._failures.raise_next()
        run = self._runs.get(run_id)
        if run is None and run_id.startswith(MADE):
            return TrainingRun.from_json({"training_run_id": run_id, "base_model": "fake"})
        if run is None:
            raise ApiStatusError.of(404, "no such run", where=run_id)
        return run

    def list_checkpoints(self, config: object, run_id: str) -> tuple[Checkpoint, ...]:
        """Return a run's checkpoints, oldest first; see `tinkex.rest.list_checkpoints`."""
        self.calls.append(("list_checkpoints", run_id))
        return self._checkpoints.get(run_id, ())


def _checkpoint(given: str | Checkpoint | Mapping[str, Any]) -> Checkpoint:
    return Checkpoint.from_path(given) if isinstance(given, str) else Checkpoint.from_json(given)
