"""Data of one sweep: the requests still to send, and its counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from ..arguments import NO_METADATA
from ..config import Config
from ..runs.record import Record
from ..signals import Swept
from .listing import Listing


@dataclass(slots=True, eq=False)
class Sweep:
    """The state of one sweep, guarded by the sweeper's lock."""

    began: float
    ended: bool = False
    polls: deque[Poll] = field(default_factory=deque)
    listings: list[Listing] = field(default_factory=list)
    runs: int = 0
    requests: int = 0
    errors: int = 0

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

    def event(self, time: datetime, now: float) -> Swept:
        """What the sweep came to when it ended, at the monotonic second `now`."""
        return Swept(
            run_id=None,
            metadata=NO_METADATA,
            time=time,
            runs=self.runs,
            requests=self.requests,
            duration=now - self.began,
            errors=self.errors,
        )


@dataclass(slots=True, eq=False)
class Poll:
    """One run to ask for; `run_id` is the generation that the sweep meant."""

    sweep: Sweep
    record: Record
    run_id: str
    began: float = 0.0

    @property
    def config(self) -> Config | None:
        """The account it asks."""
        return self.record.config


@dataclass(slots=True, eq=False)
class Page:
    """One page to ask for."""

    sweep: Sweep
    listing: Listing
    number: int
    began: float = 0.0

    @property
    def config(self) -> Config | None:
        """The account it asks."""
        return self.listing.config
