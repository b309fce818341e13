"""Calls functions: on a thread of their own, where Ctrl-C does not cut them, or only once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(function: Callable[[], T]) -> T:
    """Call a function on a thread of its own, and return its result.

    Ctrl-C only reaches the main thread: it ends the wait, and the call goes on. Nor can the call
    run out of stack where its caller is deep. The thread is not one of a pool, which may be full.
    Where none can start, it is called here.
    """
    done: Future[T] = Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # it is raised where the call was made
            done.set_exception(error)

    thread = threading.Thread(target=call, name="tinkex-call", daemon=True)
    try:
        thread.start()
    except RecursionError:  # here it would only come further
        raise
    except RuntimeError:
        return function()
    thread.join()
    return done.result(0)


def aside(function: Callable[[], object]) -> None:
    """Call a function that may hang, on a thread of its own; where none can start, here.

    What it raises is logged.
    """

    def call() -> None:
        try:
            function()
        except BaseException:  # an exit in foreign code, too
            logger.exception("a call of foreign code failed")

    try:
        threading.Thread(target=call, name="tinkex-call", daemon=True).start()
    except RuntimeError:
        call()


def once(function: Callable[P, object]) -> Callable[P, None]:
    """A function for foreign code, which may call it twice: only the first call does anything."""
    left = [function]

    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            only = left.pop()
        except IndexError:
            return
        only(*args, **kwargs)

    return call
