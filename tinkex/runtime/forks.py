"""Renews locks in a forked child, and tells whether an object is of this process or its parent."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from ..errors import MonitorStoppedError


class Renewed(Protocol):
    """What has locks that are taken in a forked child, too."""

    def after_fork(self) -> None:
        """Make them anew, in a child that has one thread. What they guard may be half changed."""


_renewed: WeakSet[Renewed] = WeakSet()


def register(owner: Renewed) -> None:
    """Have `owner.after_fork()` called in each child that is forked while it lives."""
    _renewed.add(owner)


def _renew() -> None:
    for owner in list(_renewed):
        owner.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class Home:
    """The process in which something was made, and whose threads carry it on."""

    __slots__ = ("_process",)

    def __init__(self) -> None:
        self._process = os.getpid()

    def is_left(self) -> bool:
        """Whether this is a child that was forked since."""
        return self._process != os.getpid()

    def check(self) -> None:
        """Raise a `MonitorStoppedError` in a forked child."""
        if self.is_left():
            raise MonitorStoppedError(
                f"this process ({os.getpid()}) was forked from the one of the monitor "
                f"({self._process}), where the monitor goes on; here it is stopped, and clients of "
                "its runs cannot be used: make a new monitor and new clients"
            )
