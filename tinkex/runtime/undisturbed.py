"""Calls a function on a thread of its own: so that Ctrl-C does not cut it, or since it may hang."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


def undisturbed(function: Callable[[], T]) -> T:
    """Call a function, from the main thread on one of its own, and return its result.

    Ctrl-C only reaches the main thread: it ends the wait, and the call goes on. The thread is not
    one of a pool, which may be full. Where none can start, it is called here.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    done: Future[T] = Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # it is raised where the call was made
            done.set_exception(error)

    thread = threading.Thread(target=call, name="tinkex-call", daemon=True)
    try:
        thread.start()
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
