"""Wait for a future of the official SDK; give up when its run is replaced."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..errors import SegmentSupersededError
from .loop import Loop

__all__ = ["wait_for_result"]


def wait_for_result(
    future: Any,
    timeout: float | None,
    loop: Loop,
    is_superseded: Callable[[], bool],
    run_id: str,
) -> Any:
    """Return a future's result, or raise a `SegmentSupersededError` as soon as it must be."""
    if not callable(getattr(future, "result", None)):
        return future
    done = _standard(future) or loop.call(future.result)
    done.add_done_callback(lambda _: loop.notify())
    if not loop.wait(lambda: done.done() or is_superseded(), timeout):
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
