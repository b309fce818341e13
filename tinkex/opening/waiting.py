"""Waits until the other owners of a lineage have ended, as far as the server shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from ..errors import RunHeldError
from ..lineage.lineages import Lineage
from ..lineage.metadata import OWNER, SILENT_FOR, text_of
from ..parts import Parts
from ..types import TrainingRun

logger = logging.getLogger(__name__)

#: Seconds between two looks whether another owner lives.
LOOK_EVERY = 10.0

#: The most seconds of silence that a run may ask for.
MOST_SILENCE = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How an owner is told from one that has ended; the times are seconds."""

    takeover: bool
    silent_for: float
    held_wait: float

    def __post_init__(self) -> None:
        if not isinstance(self.takeover, bool):
            # A text such as "false" would count as true, and two owners would train.
            raise TypeError(f"takeover must be True or False, not {self.takeover!r}")
        for name in ("silent_for", "held_wait"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise TypeError(f"{name} must be a number of seconds, not {given!r}")
            if not 0 <= given <= MOST_SILENCE:
                raise ValueError(f"{name} must be 0 to {MOST_SILENCE:g} seconds, not {given}")


class Silence:
    """Waits for the silence of the owners of a lineage; `about` is what it is called."""

    def __init__(self, parts: Parts, config: Hashable, about: str, claim: Claim) -> None:
        self._parts = parts
        self._config = config
        self._about = about
        self._claim = claim

    def await_in(
        self, line: Lineage, ended: Collection[str | None], read: Callable[[], Lineage | None]
    ) -> Lineage:
        """Wait until all who may train a lineage have ended; return it as it is then.

        `ended` are owners that have; `read` reads the lineage anew. What its owners did meanwhile
        counts: one that made another generation is waited for again.

        Raises `RunHeldError` where one lives, or where nothing shows that it does not.
        """
        others = _others(line, ended)
        if self._claim.takeover:
            return line
        began = self._parts.clock.monotonic()
        silent: set[str] = set()
        while any(each.training_run_id not in silent for each in others):
            silent = self._silent(others, began)
            line = read() or line
            others = _others(line, ended)
        return line

    def _silent(self, others: list[TrainingRun], began: float) -> set[str]:
        """Wait until none of these runs has had a request for long; give their ids."""
        clock, told = self._parts.clock, [_seconds(text_of(each, SILENT_FOR)) for each in others]
        silent_for = max(self._claim.silent_for, *told)
        logger.warning("run %s: waiting for %g s of silence of its owner", self._about, silent_for)
        since = clock.monotonic()
        seen = {each.training_run_id: each.last_request_time for each in others}
        while (silence := clock.monotonic() - since) < silent_for:
            moments = [each for each in seen.values() if each is not None]
            if len(moments) < len(seen):
                advice = "nothing shows whether its owner lives; takeover=True takes it over"
                raise RunHeldError(self._about, advice)
            if since > began and clock.monotonic() - began >= self._claim.held_wait:
                problem = f"it is trained elsewhere: its last request came at {max(moments)}"
                raise RunHeldError(self._about, problem)
            self._parts.waits.wait(self, lambda: False, min(LOOK_EVERY, silent_for - silence))
            rest = self._parts.rest
            now = {each: rest.run(self._config, each).last_request_time for each in seen}
            if now != seen:
                seen, since = now, clock.monotonic()
        return set(seen)


def _others(line: Lineage, ended: Collection[str | None]) -> list[TrainingRun]:
    return [each for each in line.latest if text_of(each, OWNER) not in ended]


def _seconds(told: str | None) -> float:
    try:
        return min(max(float(told or 0), 0.0), MOST_SILENCE)
    except ValueError:
        return 0.0
