"""A loop's wait for a client: ended in time, told of in the log, and shown to who watches."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..display.progress import Progress
from ..display.words import age, duration, short_id
from ..runs.record import Record
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits

logger = logging.getLogger(__name__)

#: Seconds between two lines of the log while a loop waits.
LINE_EVERY = 60.0

#: Seconds between two looks of who watches.
SHOWN_EVERY = 1.0


def wait_for(
    record: Record,
    waits: Waits,
    clock: Clock,
    is_over: Callable[[], bool],
    timeout: float | None,
) -> None:
    """Wait until `is_over()` holds for a run; `TimeoutError` after `timeout` seconds."""
    began = clock.monotonic()
    until = float("inf") if timeout is None else began + timeout
    line_at, progress = began + LINE_EVERY, Progress()
    # A scheduler of the caller's that waits itself may find that nothing will end the wait.
    is_endless = timeout is None and clock.sleep() is not None

    def pause() -> float | None:
        now = clock.monotonic()
        shown_at = now + SHOWN_EVERY if progress.is_seen else line_at
        return None if is_endless else max(0.0, min(until, line_at, shown_at) - now)

    try:
        while not waits.wait(record, is_over, pause()):
            now = clock.monotonic()
            if now >= until:
                raise TimeoutError(f"run {record.run_id!r} is {record.state} after {timeout:g} s")
            if now >= line_at:
                line_at = now + LINE_EVERY
                logger.warning("run %s: its loop waits, %s", record.run_id, record.state)
            progress.show(_words(record, clock, duration(now - began)))
        waited = duration(clock.monotonic() - began)
        progress.end(f"run {short_id(record.run_id)}: {record.state} after {waited}")
    finally:
        progress.close()


def _words(record: Record, clock: Clock, waited: str) -> str:
    state, attempt = record.state, record.next_attempt
    later = "" if attempt is None else f", next attempt {age(attempt, clock.utc())}"
    return f"run {short_id(record.run_id)}: {state} for {waited}{later}"
