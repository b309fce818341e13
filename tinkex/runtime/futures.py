"""Futures that callers get: their done-callbacks, foreign code, run on threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from .delivery import Delivery
from .jobs import Job, identity_of, name_of

T = TypeVar("T")


def done_callbacks(*, inline: bool) -> Delivery:
    """What calls the done-callbacks of futures, each future's in order.

    It is never closed, since they are promised to be called; its threads end by themselves.
    """
    return Delivery(inline=inline, on_idle=lambda: None, name="tinkex-done")


class OwnFuture(Future[T]):
    """A standard future, begun already; the thread that ends it waits for nothing.

    What waits for its result does not wait for done-callbacks. Those that were added before it was
    done are called through `callbacks`, later ones at once by who adds them.
    """

    def __init__(self, callbacks: Delivery) -> None:
        super().__init__()
        self._callbacks = callbacks
        self.set_running_or_notify_cancel()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have a function called with the future when it is done."""
        if self.done():
            super().add_done_callback(fn)
            return
        job = Job(partial(fn, self), f"done-callback {name_of(fn)}", identity_of(fn))
        self.then(lambda _: self._hand_over(job))

    def then(self, fn: Callable[[Future[T]], object]) -> None:
        """As `add_done_callback`, for a function of ours: on the thread that ends the future."""
        super().add_done_callback(fn)

    def plain(self) -> Future[T]:
        """A future that comes to the same, without a thread for what is called then."""
        following: Future[T] = Future()
        self.then(lambda _: copy(self, following))
        return following

    def _hand_over(self, job: Job) -> None:
        self._callbacks.queue(self, (lambda: (job,),))
        self._callbacks.flush()


def copy(source: Future[Any], target: Future[Any], *, errors: bool = True) -> None:
    """Have a future come to what another has come to, where it has come to nothing yet."""
    try:
        error = source.exception()
    except CancelledError as cancelled:
        error = cancelled
    with suppress(Exception):  # it is done already
        if error is None:
            target.set_result(source.result())
        elif errors:
            target.set_exception(error)
