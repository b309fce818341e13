"""`FakeServiceClient`, its `FakeTrainingClient` objects, and the errors that fakes raise."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from ..types import Checkpoint, TinkerPath

#: The beginning of the ids of runs that a `FakeServiceClient` made.
MADE = "fake:"


class Failures:
    """Errors that the next calls raise."""

    def __init__(self) -> None:
        self._errors: deque[BaseException] = deque()

    def add(self, error: BaseException, times: int) -> None:
        """Make the next `times` calls raise `error`."""
        if not isinstance(error, BaseException):
            raise TypeError(f"an exception instance is needed, not {error!r}")
        self._errors.extend([error] * times)

    def raise_next(self) -> None:
        """Raise the next error, if there is one."""
        if self._errors:
            raise self._errors.popleft()


class FakeTrainingClient:
    """A training client that trains nothing; `model_id` is its run's id.

    `calls` lists `(method, first argument)` in order. As in the official SDK, each method
    returns a future; here it is already done.
    """

    def __init__(self, model_id: str, path: str | None = None) -> None:
        self.model_id = model_id
        self.path = path
        self.calls: list[tuple[str, Any]] = []
        self._failures = Failures()

    def fail(self, error: BaseException, times: int = 1) -> None:
        """Make the futures of the next `times` calls hold `error`."""
        self._failures.add(error, times)

    def forward_backward(self, data: Any, loss_fn: str = "cross_entropy") -> Future[Any]:
        """Pretend to compute gradients."""
        return self._answer("forward_backward", data, {"loss_fn": loss_fn})

    def optim_step(self, params: Any = None) -> Future[Any]:
        """Pretend to apply the gradients."""
        return self._answer("optim_step", params, None)

    def save_state(self, name: str, user_metadata: Mapping[str, str] | None = None) -> Future[Any]:
        """Pretend to save; the future's result is a `Checkpoint`."""
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
    """A service client that makes fake clients at once, or raises the errors given to `fail`.

    `created` lists `(path, with_optimizer)` of each client made, `clients` the clients,
    `metadata` the `user_metadata` given for each.
    """

    def __init__(self) -> None:
        self.created: list[tuple[str, bool]] = []
        self.clients: list[FakeTrainingClient] = []
        self.metadata: list[Mapping[str, str]] = []
        # The official client has attributes of these names; a monitor reads them.
        self._api_key = "tml-fake"
        self._base_url = "https://tinker.invalid"
        self._failures = Failures()

    def fail(self, error: BaseException, times: int = 1) -> None:
        """Make the next `times` creations raise `error`."""
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
        client = FakeTrainingClient(f"{MADE}{TinkerPath.parse(path).run_id}:{number}", path)
        self.created.append((path, with_optimizer))
        self.clients.append(client)
        self.metadata.append(dict(user_metadata or {}))
        return client
