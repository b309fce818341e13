"""Whether a healthy run could be restored at all, so that its owner learns of it in time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from ..types import Checkpoint

__all__ = ["newest_checkpoint", "unprotected_since"]

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


def newest_checkpoint(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The training checkpoint that was saved last."""
    training = [each for each in checkpoints if each.checkpoint_type == "training"]
    return max(training, key=lambda each: each.time or _BEFORE_ALL, default=None)


def unprotected_since(
    newest: Checkpoint | None, started_at: datetime, now: datetime, within: float
) -> datetime | None:
    """Since when a run cannot be restored, or now where that is so soon; else `None`.

    Args:
        newest: Its newest training checkpoint.
        started_at: When it began to be monitored.
        now: Aware UTC.
        within: Seconds that a run may go without a checkpoint, or has left with an expiring one.
    """
    allowed = timedelta(seconds=within)
    if newest is None:
        return started_at if now - started_at >= allowed else None
    if newest.expires_at is None or newest.expires_at - now > allowed:
        return None
    return min(newest.expires_at, now)
