"""What is done on event loops: futures of theirs, and coroutines that are begun at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING, Any

from ...runtime.futures import OwnFuture

if TYPE_CHECKING:
    import asyncio


def on_loop(future: Future[Any]) -> asyncio.Future[Any]:
    """A standard future as one of the calling event loop."""
    import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

    return asyncio.wrap_future(future.plain() if isinstance(future, OwnFuture) else future)


def is_on_event_loop() -> bool:
    """Whether the calling thread runs an event loop now."""
    import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def of_awaitable(awaitable: Awaitable[Any]) -> Future[Any]:
    """A future of what an awaitable comes to, which the calling event loop runs.

    A coroutine is begun at once, as where it is awaited. What is left of it is a task of its
    own: cancelling the caller's does not cancel it.
    """
    import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

    done: Future[Any] = Future()
    done.set_running_or_notify_cancel()

    def came(ended: asyncio.Future[Any]) -> None:
        if ended.cancelled():
            done.set_exception(CancelledError())
        elif (error := ended.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(ended.result())

    try:
        begun = _Begun(awaitable) if asyncio.iscoroutine(awaitable) else awaitable
    except StopIteration as ended:
        done.set_result(ended.value)
    except Exception as error:
        done.set_exception(error)
    else:
        asyncio.ensure_future(begun).add_done_callback(came)
    return done


class _Begun:
    """A coroutine whose first step is made at once; awaited, it goes on from there."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._waits_for = coroutine.send(None)

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        while True:
            step: Callable[[], Any]
            try:
                step = partial(self._coroutine.send, (yield waits_for))
            except BaseException as error:  # it is raised where the coroutine waits
                step = partial(self._coroutine.throw, error)
            try:
                waits_for = step()
            except StopIteration as ended:
                return ended.value
