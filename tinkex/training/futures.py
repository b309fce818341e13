"""Waiting for somebody else's future, but no longer than the run it belongs to lives."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from ..errors import SegmentSupersededError

__all__ = ["Waiter", "wait_for_result"]


class Waiter(Protocol):
    """How waits are made."""

    def wait(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for a change that makes `predicate()` true; say whether it is."""

    def notify(self) -> None:
        """Wake whoever waits."""

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Call a function that may block, apart from the caller where threads may be used."""


def wait_for_result(
    future: Any,
    timeout: float | None,
    waiter: Waiter,
    is_superseded: Callable[[], bool],
    run_id: str,
) -> Any:
    """Return a future's result, or raise a `SegmentSupersededError` as soon as it must be."""
    if not callable(getattr(future, "result", None)):
        return future
    done = _standard(future) or waiter.call(future.result)
    done.add_done_callback(lambda _: waiter.notify())
    if not waiter.wait(lambda: done.done() or is_superseded(), timeout):
        raise TimeoutError(f"run {run_id}: no result within {timeout:g} s")
    if not done.done():
        raise SegmentSupersededError(run_id)
    return done.result()


def _standard(future: Any) -> Future[Any] | None:
    """The `concurrent.futures.Future` itself or inside; newer versions of the SDK give one."""
    if isinstance(future, Future):
        return future
    inside = getattr(future, "future", None)
    made = inside() if callable(inside) else None
    return made if isinstance(made, Future) else None
