"""Calls that an interrupt of the main thread cannot leave half done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

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
