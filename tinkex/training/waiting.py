"""Waits for a client of a run, with a time limit, a log line and a progress line."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress

from ..display.progress import Progress
from ..display.words import age, duration, short_id
from ..runs.record import Record
from ..runtime.scheduler import Clock
from ..runtime.undisturbed import undisturbed
from ..runtime.waits import Waits

logger = logging.getLogger(__name__)

#: Seconds between two lines of the log while a loop waits.
LINE_EVERY = 60.0

#: Seconds after which a wait is shown, and from then on between two updates.
SHOWN_AFTER, SHOWN_EVERY = 0.1, 1.0


def wait_for(
    record: Record,
    waits: Waits,
    clock: Clock,
    is_over: Callable[[], bool],
    timeout: float | None,
) -> None:
    """Wait until `is_over()` holds for a run; `TimeoutError` after `timeout` seconds."""
    began, limit = clock.monotonic(), math.inf if timeout is None else timeout
    run_id, progress, waited = record.run_id, Progress(undisturbed), 0.0
    line_at, shown_at = LINE_EVERY, SHOWN_AFTER if progress.is_seen else math.inf
    # A scheduler of the caller's that waits itself may find that nothing will end the wait.
    is_endless = limit == math.inf and clock.sleep() is not None
    try:
        while True:
            # A clock of the caller's may stand still, or be set back, where waits go on.
            waited = max(waited, clock.monotonic() - began)
            next_at = math.inf if is_endless else min(limit, line_at, shown_at)
            pause = max(0.0, next_at - waited)
            if waits.wait(record, is_over, pause):
                break
            waited = max(waited + pause, clock.monotonic() - began)
            if waited >= limit:
                raise TimeoutError(f"run {record.run_id!r} is {record.state} after {limit:g} s")
            if waited >= line_at:
                line_at = waited + LINE_EVERY
                with suppress(Exception):  # handlers of the log are foreign
                    logger.warning("run %s: its loop waits, %s", record.run_id, record.state)
            if waited >= shown_at:
                shown_at = waited + SHOWN_EVERY
                progress.show(_words(record, clock, duration(waited)))
        waited = max(waited, clock.monotonic() - began)
        found = (
            record.state if record.run_id == run_id else f"recovered as {short_id(record.run_id)}"
        )
        progress.end(f"run {short_id(run_id)}: {found} after {duration(waited)}")
    finally:
        progress.close()


def _words(record: Record, clock: Clock, waited: str) -> str:
    state, attempt = record.state, record.next_attempt
    later = "" if attempt is None else f", next attempt {age(attempt, clock.utc())}"
    return f"run {short_id(record.run_id)}: {state} for {waited}{later}"
