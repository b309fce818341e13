"""Holds the requests of a watched run while its server is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..outages.evidence import Watched

if TYPE_CHECKING:
    from .requests import Requests


class ServerIsBack:
    """Shut while an outage of a watched run's server is not settled.

    Threads: every method is safe from any thread.
    """

    def __init__(self, requests: Requests, watched: Watched, max_wait: float) -> None:
        self.check = requests.check
        self.is_over = requests.is_over
        self._wait = requests.run.waits.wait
        self._watched = watched
        self._max_wait = max_wait

    def is_shut(self) -> bool:
        """Whether a request has to wait now."""
        return self._watched.is_held

    def admit(self, seconds: float) -> None:
        """Wait until the outage is settled, or the segment is over."""
        watched = self._watched

        def is_settled() -> bool:
            return not watched.is_held or self.is_over()

        if not self._wait(watched.record, is_settled, seconds):
            run_id, allowed = watched.run_id, self._max_wait
            raise TimeoutError(f"run {run_id}: its server was down for {allowed:g} s")

    def note_waiting(self, are_waiting: bool) -> None:
        """Requests wait from now on, or none does any more."""
        self._watched.are_waiting = are_waiting
