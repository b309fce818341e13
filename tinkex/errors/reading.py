"""Reads errors of any origin: their causes, words and facts, whatever their own code does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: The longest wait that a server can ask for with `Retry-After`, in seconds.
LONGEST_PATIENCE = 300.0


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and every error in its chain or groups, each once; causes first."""
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        each = following.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            following += (each.__context__, each.__cause__)
            if isinstance(each, BaseExceptionGroup):
                following += each.exceptions


@contextmanager
def apart_from_outer() -> Iterator[None]:
    """Do not chain errors raised in the block to one that this thread already handles."""
    outer = sys.exc_info()[1]
    try:
        yield
    except BaseException as error:  # raised again
        for each in list(causes(error)):
            if outer is not None and each.__context__ is outer:
                each.__context__ = None
        raise


def heed(raised: BaseException) -> None:
    """Raise again what foreign code raised where it may be Ctrl-C, else let it go.

    All else is that code's error, also an exit or the cancellation of a task: it is no wish of the
    caller's to end anything.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and isinstance(raised, KeyboardInterrupt):
        raise raised


def in_words(error: BaseException) -> str:
    """The error's message, or its class name if the message is empty or cannot be read."""
    try:
        return str(error) or type(error).__name__
    except BaseException as raised:  # the error's own code may raise an exit
        heed(raised)
    return type(error).__name__


def fact(error: BaseException, name: str) -> Any:
    """An attribute of an error; `None` where it has none or reading it raises."""
    try:
        return getattr(error, name, None)
    except BaseException as raised:  # the error's own code may raise an exit
        heed(raised)
    return None


def patience(error: BaseException) -> float | None:
    """The seconds that the server asked to wait, at most `LONGEST_PATIENCE`; `None` if none."""
    seconds = fact(error, "retry_after")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        return None
    return float(min(seconds, LONGEST_PATIENCE))


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error of tinkex (`status`) or the official SDK (`status_code`)."""
    for name in ("status", "status_code"):
        status = fact(error, name)
        if isinstance(status, int) and not isinstance(status, bool):
            return status
    return None


def without_frames(error: BaseException) -> None:
    """Let go of the stack frames that an error and its causes hold, with all that is in them."""
    for each in causes(error):
        each.__traceback__ = None
