"""Data of one sweep: when it began, whom it tells of its end, and the accounts it waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from ..arguments import NO_METADATA
from ..signals import Swept
from .account import Account


@dataclass(slots=True, eq=False)
class Sweep:
    """The state of one sweep, guarded by the sweeper's lock."""

    began: float
    on_end: Callable[[Swept], None]
    runs: int = 0
    waits_for: set[Account] = field(default_factory=set)

    def event(self, time: datetime, now: float, *, requests: int, errors: int) -> Swept:
        """What the sweep came to when it ended, at the monotonic second `now`."""
        return Swept(
            run_id=None,
            metadata=NO_METADATA,
            time=time,
            runs=self.runs,
            requests=requests,
            duration=now - self.began,
            errors=errors,
        )
