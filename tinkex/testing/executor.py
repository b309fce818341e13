"""`InlineExecutor`, which runs each job at once on the caller's thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """An executor that runs each job at `submit`, on the caller's thread."""

    def __init__(self) -> None:
        self._closed = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the job; the future is done. `RuntimeError` if the executor is shut down."""
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
