"""One sweep: the requests that are still to be made, and what it came to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..config import Config
from ..runs.record import Record
from .listing import Listing

__all__ = ["Page", "Poll", "Sweep", "SweepEnd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEnd:
    """What a sweep came to; `duration` in seconds."""

    runs: int
    requests: int
    errors: int
    duration: float


class Sweep:
    """The state of one sweep, guarded by the sweeper's lock."""

    __slots__ = ("began", "ended", "errors", "listings", "polls", "requests", "runs")

    def __init__(self, began: float, *, ended: bool = False) -> None:
        self.polls: deque[Poll] = deque()
        self.listings: list[Listing] = []
        self.runs = 0
        self.began = began
        self.requests = 0
        self.errors = 0
        self.ended = ended

    def take(self) -> Poll | Page | None:
        """The next request, pages first."""
        for listing in self.listings:
            if listing.has_next:
                return Page(self, listing, listing.next_page())
        return self.polls.popleft() if self.polls else None

    def drop(self) -> None:
        """Ask for nothing more."""
        self.polls.clear()
        self.listings.clear()


class Poll:
    """One run to ask for. Its `run_id` is that of the generation that the sweep meant."""

    __slots__ = ("began", "record", "run_id", "sweep")

    def __init__(self, sweep: Sweep, record: Record) -> None:
        self.sweep = sweep
        self.record = record
        self.run_id = record.run_id
        self.began = 0.0

    @property
    def config(self) -> Config | None:
        """The account it asks."""
        return self.record.config


class Page:
    """One page to ask for."""

    __slots__ = ("began", "config", "listing", "number", "sweep")

    def __init__(self, sweep: Sweep, listing: Listing, number: int) -> None:
        self.sweep = sweep
        self.listing = listing
        self.config = listing.config
        self.number = number
        self.began = 0.0
