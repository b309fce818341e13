"""Rows of a list of runs, read without making an object of each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..runs.record import ROW_FIELDS, Record
from ..runs.state import RunState

__all__ = ["brings_no_news"]


def brings_no_news(record: Record, run_id: str, row: Any, warn_before: datetime) -> bool:
    """Whether a row says of a healthy run that it still is; its newest checkpoint is noted.

    Args:
        record: The run.
        run_id: The generation that was asked for.
        row: The API's JSON object.
        warn_before: A run that was begun before and has no checkpoint is news.
    """
    if type(row) is not dict or row.get("corrupted") is not False:
        return False
    if record.state is not RunState.HEALTHY or record.run_id != run_id:
        return False
    last = row.get("last_checkpoint")
    saved = record.saved
    if last is None:
        return saved is not None or record.started_at > warn_before
    if type(last) is not dict or last.get("expires_at") is not None:
        return False
    path = last.get("tinker_path")
    if type(saved) is tuple and saved[0] == path and saved[4] is None:
        return True
    if type(path) is not str or type(last.get("time")) is not str:
        return False
    record.saved = tuple(map(last.get, ROW_FIELDS))
    return True
