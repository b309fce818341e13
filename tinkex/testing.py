"""Fakes for deterministic tests: time, REST, the service client and the executor.

With all four there is no thread, no socket and no waiting: `FakeScheduler.advance` fires what
is due on the thread that calls it. None of them is special to a monitor; anything of the same
shape works as well.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from .errors import ApiStatusError, TinkexError
from .types import Checkpoint, TinkerPath, TrainingRun

__all__ = [
    "DeadlockError",
    "FakeRest",
    "FakeScheduler",
    "FakeServiceClient",
    "FakeTrainingClient",
    "InlineExecutor",
]

P = ParamSpec("P")
T = TypeVar("T")

#: How the ids of runs begin that a `FakeServiceClient` made.
_MADE = "fake:"


class DeadlockError(TinkexError):
    """Raised by `FakeScheduler.wait` when nothing is pending that could end the wait."""


class FakeScheduler:
    """A scheduler whose time stands still until it is advanced.

    Call it as a scheduler, `fake(interval, function)`; it starts at 0 seconds.

    Threads: none; use it from one thread.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ids = itertools.count()
        self._armed: list[tuple[float, int, _FakeTimer]] = []

    def __call__(self, interval: float, function: Callable[[], object]) -> _FakeTimer:
        """Make a timer that calls `function` once, `interval` seconds after its start."""
        return _FakeTimer(self, interval, function)

    def now(self) -> float:
        """Seconds since the scheduler was made."""
        return self._now

    @property
    def pending(self) -> tuple[float, ...]:
        """When the armed timers are due, in seconds of `now()`, the next first."""
        return tuple(due for due, _, timer in sorted(self._armed) if timer.armed)

    def advance(self, seconds: float) -> None:
        """Move time on, stepping to each due timer in order, also to those armed meanwhile.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"time moves forward by a finite number of seconds, not {seconds!r}")
        until = self._now + seconds
        while self._fire_next(until):
            pass
        self._now = max(self._now, until)

    def wait(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Step from timer to timer until `predicate()` holds; say whether it does.

        Args:
            predicate: Asked before each step.
            timeout: The most seconds to move on; `None`: no bound.

        Raises:
            DeadlockError: Nothing is pending that could make it true.
        """
        until = math.inf if timeout is None else self._now + timeout
        while not predicate():
            if self._fire_next(until):
                continue
            if self._now < until and not self.pending:
                raise DeadlockError(f"{self!r} waits for what nothing pending can bring about")
            self._now = max(self._now, until)
            return predicate()
        return True

    def __repr__(self) -> str:
        return f"<FakeScheduler at {self._now:g} s, pending {list(self.pending)}>"

    def _fire_next(self, until: float) -> bool:
        while self._armed and self._armed[0][0] <= until:
            due, _, timer = heapq.heappop(self._armed)
            if timer.armed:
                timer.armed = False
                self._now = max(self._now, due)
                timer.function()
                return True
        return False

    def _arm(self, timer: _FakeTimer, interval: float) -> None:
        heapq.heappush(self._armed, (self._now + interval, next(self._ids), timer))


class _FakeTimer:
    """A timer of a `FakeScheduler`, of the shape of `threading.Timer`."""

    def __init__(
        self, scheduler: FakeScheduler, interval: float, function: Callable[[], object]
    ) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self.function = function
        self.armed = False

    def start(self) -> None:
        """Arm the timer."""
        self.armed = True
        self._scheduler._arm(self, self._interval)

    def cancel(self) -> None:
        """Disarm the timer."""
        self.armed = False


class _Failures:
    """Errors that the next calls raise."""

    def __init__(self) -> None:
        self._errors: deque[BaseException] = deque()

    def add(self, error: BaseException, times: int) -> None:
        if not isinstance(error, BaseException):
            raise TypeError(f"an exception instance is needed, not {error!r}")
        self._errors.extend([error] * times)

    def raise_next(self) -> None:
        if self._errors:
            raise self._errors.popleft()


class FakeRest:
    """A `rest_module` that knows the runs that it was told of.

    A run that was not set is a 404, but one that a `FakeServiceClient` made is healthy.
    `calls` lists `(function, run_id)` in order.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._runs: dict[str, TrainingRun] = {}
        self._checkpoints: dict[str, tuple[Checkpoint, ...]] = {}
        self._failures = _Failures()

    def set_run(
        self,
        run_id: str,
        *,
        corrupted: bool = False,
        last_checkpoint: str | Checkpoint | Mapping[str, Any] | None = None,
        checkpoints: Iterable[str | Checkpoint | Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> TrainingRun:
        """Set what the server says of a run.

        Args:
            run_id: The run's id.
            corrupted: The server's flag.
            last_checkpoint: A tinker path, a `Checkpoint`, or the API's JSON object.
            checkpoints: All of its checkpoints, oldest first; the last one where `None`.
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
        """Have the next `times` calls of `get_training_run` raise `error`."""
        self._failures.add(error, times)

    def get_training_run(self, config: object, run_id: str) -> TrainingRun:
        """Return a run as it was set; see `tinkex.rest.get_training_run`."""
        self.calls.append(("get_training_run", run_id))
        self._failures.raise_next()
        run = self._runs.get(run_id)
        if run is None and run_id.startswith(_MADE):
            return TrainingRun.from_json({"training_run_id": run_id, "base_model": "fake"})
        if run is None:
            raise ApiStatusError.of(404, "no such run", where=run_id)
        return run

    def list_checkpoints(self, config: object, run_id: str) -> tuple[Checkpoint, ...]:
        """Return a run's checkpoints, oldest first; see `tinkex.rest.list_checkpoints`."""
        self.calls.append(("list_checkpoints", run_id))
        return self._checkpoints.get(run_id, ())


def _checkpoint(given: str | Checkpoint | Mapping[str, Any]) -> Checkpoint:
    if isinstance(given, Checkpoint):
        return given
    return Checkpoint.from_path(given) if isinstance(given, str) else Checkpoint.from_json(given)


class FakeTrainingClient:
    """A training client that trains nothing; `model_id` is its run's id.

    `calls` lists `(method, first argument)` in order; each method returns a done future, as
    those of the official SDK return futures.
    """

    def __init__(self, model_id: str, path: str | None = None) -> None:
        self.model_id = model_id
        self.path = path
        self.calls: list[tuple[str, Any]] = []
        self._failures = _Failures()

    def fail(self, error: BaseException, times: int = 1) -> None:
        """Have the futures of the next `times` calls hold `error`."""
        self._failures.add(error, times)

    def forward_backward(self, data: Any, loss_fn: str = "cross_entropy") -> Future[Any]:
        """Pretend to compute gradients."""
        return self._answer("forward_backward", data, {"loss_fn": loss_fn})

    def optim_step(self, params: Any = None) -> Future[Any]:
        """Pretend to apply them."""
        return self._answer("optim_step", params, None)

    def save_state(self, name: str, user_metadata: Mapping[str, str] | None = None) -> Future[Any]:
        """Pretend to save; the result is the checkpoint."""
        path = f"tinker://{self.model_id}/weights/{name}"
        metadata = dict(user_metadata) if user_metadata else None
        return self._answer(
            "save_state", name, replace(Checkpoint.from_path(path), user_metadata=metadata)
        )

    def _answer(self, method: str, argument: Any, result: Any) -> Future[Any]:
        self.calls.append((method, argument))
        future: Future[Any] = Future()
        try:
            self._failures.raise_next()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def __repr__(self) -> str:
        return f"<FakeTrainingClient {self.model_id}>"


class FakeServiceClient:
    """A service client whose clients are made at once, or fail as they were told to.

    `created` lists `(path, with_optimizer)` of each client made, `clients` the clients,
    `metadata` what they were to carry as `user_metadata`.
    """

    def __init__(self) -> None:
        self.created: list[tuple[str, bool]] = []
        self.clients: list[FakeTrainingClient] = []
        self.metadata: list[Mapping[str, str]] = []
        # They lie where the official client has its own, so that a monitor finds them.
        self._api_key = "tml-fake"
        self._base_url = "https://tinker.invalid"
        self._failures = _Failures()

    def fail(self, error: BaseException, times: int = 1) -> None:
        """Have the next `times` creations raise `error`."""
        self._failures.add(error, times)

    def create_training_client_from_state(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> FakeTrainingClient:
        """Make a client from a checkpoint's weights."""
        return self._create(path, user_metadata, with_optimizer=False)

    def create_training_client_from_state_with_optimizer(
        self, path: str, user_metadata: Mapping[str, str] | None = None
    ) -> FakeTrainingClient:
        """Make a client from a checkpoint's weights and optimizer state."""
        return self._create(path, user_metadata, with_optimizer=True)

    def _create(
        self, path: str, user_metadata: Mapping[str, str] | None, *, with_optimizer: bool
    ) -> FakeTrainingClient:
        self._failures.raise_next()
        number = len(self.created) + 1
        client = FakeTrainingClient(f"{_MADE}{TinkerPath.parse(path).run_id}:{number}", path)
        self.created.append((path, with_optimizer))
        self.clients.append(client)
        self.metadata.append(dict(user_metadata or {}))
        return client


class InlineExecutor(Executor):
    """An executor that runs each job at `submit`, on the caller's thread."""

    def __init__(self) -> None:
        self._closed = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the job; the future that is returned is done.

        Raises:
            RuntimeError: The executor is shut down.
        """
        if self._closed:
            raise RuntimeError("the executor is shut down")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further jobs."""
        self._closed = True
