"""The fast path of sweeps: rows of healthy, unchanged runs are applied without converting them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from operator import itemgetter
from typing import Any, Final, Self

from ..runtime.publisher import Notice
from ..signals import Unprotected
from ..types import Checkpoint
from ..types.reading import as_time
from .changes import Moment
from .checkpoints import newest_checkpoint, unprotected_since
from .record import Record
from .state import RunState
from .status import IDENTITY, Kept, kept

# Looked up once: an attribute of an enumeration takes longer than all the rest of a row.
_HEALTHY: Final = RunState.HEALTHY

#: The least seconds between two `unprotected` signals of a run.
WARN_EVERY = 60.0

#: A row of a list: the run it is about, the generation that was asked for, what it says, and its
#: fingerprint where it has one.
Row = tuple[Record, str, Any, int | None]

#: Stands for a row that has to be looked at as a whole.
_NEWS: Final = ("news",)


class _Fields:
    """Some fields of a JSON object, with the types that they have where they fit."""

    def __init__(self, **types: type) -> None:
        self._names = tuple(types)
        self._values = itemgetter(*types)
        self._fitting = frozenset(product(*((each, type(None)) for each in types.values())))

    def fit(self, row: dict[str, Any]) -> bool:
        """Whether all values are null, missing, or of the types that fit."""
        try:
            values = self._values(row)
        except KeyError:
            values = map(row.get, self._names)
        return tuple(map(type, values)) in self._fitting


#: The fields of a run and of a checkpoint that a sweep does not use otherwise.
_RUN = _Fields(
    base_model=str,
    model_owner=str,
    is_lora=bool,
    lora_rank=int,
    last_request_time=str,
    last_sampler_checkpoint=dict,
    user_metadata=dict,
)
_CHECKPOINT = _Fields(
    checkpoint_id=str,
    checkpoint_type=str,
    time=str,
    size_bytes=int,
    public=bool,
    user_metadata=dict,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The moments with which it is judged whether an `unprotected` event may be due at `now`.

    A run without a checkpoint that was begun after `begun` needs none yet, a checkpoint that
    expires after `expires` protects its run, and what was told after `told` is not told again.
    """

    now: datetime
    begun: float
    expires: datetime
    told: float

    @classmethod
    def at(cls, now: datetime, seconds: float, served: datetime, within: float) -> Self:
        """Those of a policy that allows a run to be unprotected for `within` seconds.

        `seconds` is the monotonic time now, `served` that of the server.
        """
        expires = served + timedelta(seconds=within)
        return cls(now, seconds - within, expires, seconds - max(within, WARN_EVERY))

    def may_warn(self, record: Record, saved: Checkpoint | Kept | None) -> bool:
        """Whether an `unprotected` event may be due for a run, with `saved` as its checkpoint."""
        if saved is None:
            is_safe = record.started > self.begun
        else:
            until = saved[1] if isinstance(saved, tuple) else saved.expires_at
            is_safe = until is None or until > self.expires
        return not is_safe and (record.warned_at is None or record.warned_at <= self.told)


def warning(record: Record, moment: Moment) -> tuple[Notice, ...]:
    """An `unprotected` event, where one is due."""
    within = moment.policy.unprotected_after
    told = record.warned_at
    if told is not None and moment.seconds - told < max(within, WARN_EVERY):
        return ()
    newest = newest_checkpoint(record.known_checkpoints())
    age = moment.seconds - record.started
    since = unprotected_since(newest, record.started_at, age, moment.served, within)
    if since is None:
        return ()
    record.warned_at = moment.seconds
    about: dict[str, Any] = {"run_id": record.run_id, "metadata": record.metadata}
    return (Unprotected(**about, time=moment.utc, since=since, checkpoint=newest),)


def known_rows(
    records: Mapping[str, Record], limits: Limits, seen: list[str]
) -> Callable[[str, int], bool]:
    """Make a function that applies a row by its fingerprint, where it brought no news before.

    It returns whether the row brings none now, and then adds the run's id to `seen`.
    """

    def is_known(run_id: str, fingerprint: int) -> bool:
        record = records.get(run_id)
        if record is None:
            return False
        with record.lock:
            # Any change since then, of its state or its id, would have made it forget the row.
            if record.fingerprint != fingerprint or limits.may_warn(record, record.saved):
                return False
            record.last_poll = limits.now
        seen.append(run_id)
        return True

    return is_known


def apply_rows(rows: Iterable[Row], limits: Limits) -> list[Row]:
    """Apply the rows of a list that bring no news, as `_quiet_row` tells; return those that do."""
    news = []
    for row in rows:
        record, run_id, sent, fingerprint = row
        with record.lock:
            saved = _quiet_row(record, run_id, sent, limits)
            if saved is not _NEWS:
                record.saved, record.last_poll = saved, limits.now
                record.fingerprint = fingerprint
                continue
        news.append(row)
    return news


def _quiet_row(record: Record, run_id: str, row: Any, limits: Limits) -> Any:
    """What a healthy run's record keeps as `saved` where the row says nothing new, else `_NEWS`.

    `run_id` is the generation that was asked for.
    """
    if type(row) is not dict or record.state is not _HEALTHY or record.run_id != run_id:
        return _NEWS
    try:
        flag, last = row["corrupted"], row["last_checkpoint"]
    except KeyError:
        flag, last = row.get("corrupted"), row.get("last_checkpoint")
    if flag is not False:
        return _NEWS
    if last is None:
        is_odd = record.last_poll is None and not _RUN.fit(row)
        return _NEWS if is_odd or limits.may_warn(record, record.saved) else record.saved
    if type(last) is not dict:
        return _NEWS
    try:
        path, time, expires = last["tinker_path"], last["time"], last["expires_at"]
    except KeyError:
        path, time, expires = map(last.get, IDENTITY)
    time, expires = "" if time is None else time, "" if expires is None else expires
    try:
        identity = "\n".join((path, time, expires))
    except TypeError:
        return _NEWS
    saved = record.saved
    if type(saved) is not tuple or saved[0] != identity:
        saved = _new(record, row, last, identity)
        if saved is _NEWS:
            return _NEWS
    return _NEWS if limits.may_warn(record, saved) else saved


def _new(record: Record, row: dict[str, Any], last: dict[str, Any], identity: str) -> Any:
    """What is kept of a checkpoint that is new, or was converted before, else `_NEWS`."""
    path, *times = identity.split("\n")
    kind = last.get("checkpoint_type")
    if len(times) != 2 or (type(kind) is str and kind != "training"):
        return _NEWS
    time, until = map(as_time, times)
    saved = record.saved
    if isinstance(saved, Checkpoint) and saved.tinker_path == path:
        is_fit = (saved.time, saved.expires_at) == (time, until)
    else:
        # What does not fit is looked at as a whole the first time, so that it is told of.
        is_fit = (
            (time is None, until is None) == (times[0] == "", times[1] == "")
            and _CHECKPOINT.fit(last)
            and (record.last_poll is not None or _RUN.fit(row))
        )
    return kept(identity, until, last) if is_fit else _NEWS
