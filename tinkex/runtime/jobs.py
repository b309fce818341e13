"""The values of `delivery`: jobs, lanes, parked functions, and how functions are told apart."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import NamedTuple


class Job(NamedTuple):
    """A call of a caller's function: jobs of one `key` are parked together."""

    function: Callable[[], object]
    name: str
    key: Hashable


#: Makes the jobs that belong together, such as an event's receivers, when it is their turn.
Group = Callable[[], Sequence[Job]]


class Lane:
    """What is queued for one run: the groups, and the jobs left of the one that has begun.

    `thread` delivers it, `job` is what that thread is in since `since`.
    """

    __slots__ = ("groups", "job", "jobs", "key", "since", "thread")

    def __init__(self, key: object) -> None:
        self.key = key
        self.groups: deque[Group] = deque()
        self.jobs: deque[Job] = deque()
        self.thread: int | None = None
        self.job: Job | None = None
        self.since = 0.0


class Parked:
    """A function that hung, or may: its jobs wait here and go on on a thread of its own.

    `threads` are those that are in calls of it, the last of them since `since` by the `name`.
    """

    __slots__ = ("is_told", "jobs", "key", "lost", "name", "since", "threads")

    def __init__(self, key: Hashable, name: str) -> None:
        self.key, self.name = key, name
        self.jobs: deque[Job] = deque()
        self.threads: set[int] = set()
        self.since = time.monotonic()
        self.is_told = False
        self.lost = 0


def name_of(function: object) -> str:
    """What a function is called in the log; nothing of a caller's own runs for that."""
    if type(function) is partial:
        return name_of(function.func)
    if isinstance(function, FunctionType):
        return name_of(function.__dict__.get("__wrapped__")) or function.__qualname__
    if isinstance(function, MethodType):
        return name_of(function.__func__)
    return "" if function is None else type(function).__qualname__


def identity_of(function: object) -> Hashable:
    """What tells functions apart as long as they live; a bound method is made at each look."""
    if isinstance(function, MethodType):
        return id(function.__self__), id(function.__func__)
    return id(function)


def jobs_of(group: Group, logger: logging.Logger, caught: type[BaseException]) -> Sequence[Job]:
    """The jobs of a group, none where they cannot be made; `caught` may be raised by the log."""
    try:
        return group()
    except Exception:
        with suppress(caught):
            logger.exception("what was to be called could not be found")
        return ()


def telling(logger: logging.Logger, words: str, *args: object) -> Group:
    """Have an error logged by a job: the log's handlers are foreign, so they may hang or raise."""
    return lambda: (Job(partial(logger.error, words, *args), "the log", telling),)
