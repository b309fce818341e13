"""Tells whether a row of a list of runs brings news of its run, without parsing the row."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from .record import Record
from .state import RunState
from .status import ROW_FIELDS

# Looked up once: an attribute of an enumeration takes longer than all the rest of a row.
_HEALTHY: Final = RunState.HEALTHY

#: Stands for a row that has to be looked at as a whole.
NEWS: Final = ("news",)


def quiet_row(record: Record, run_id: str, row: Any, warn_before: datetime) -> Any:
    """What a healthy run's record keeps as `saved` where the row says nothing new, else `NEWS`.

    `run_id` is the generation that was asked for; a run that was begun before `warn_before`
    and has no checkpoint is news.
    """
    if type(row) is not dict or row.get("corrupted") is not False:
        return NEWS
    if record.state is not _HEALTHY or record.run_id != run_id:
        return NEWS
    last = row.get("last_checkpoint")
    saved = record.saved
    if last is None:
        return saved if saved is not None or record.started_at > warn_before else NEWS
    if type(last) is not dict or last.get("expires_at") is not None:
        return NEWS
    path = last.get("tinker_path")
    if type(saved) is tuple and saved[0] == path and saved[4] is None:
        return saved
    if type(path) is not str or type(last.get("time")) is not str:
        return NEWS
    return tuple(map(last.get, ROW_FIELDS))
