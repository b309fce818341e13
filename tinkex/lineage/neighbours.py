"""Finds out that another process of this machine has a run open: looks at the lineage's lock."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ..config import Config
from ..config.credentials import secrets_of, without_secrets
from ..errors import heed
from ..ports import RestPort
from ..runs.record import Record
from ..runs.state import RunState, generation_in
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock
from .fence import AT_ONCE, LOOK_EVERY
from .lineages import families_in, list_all
from .metadata import GENERATION, NAME, OWNER, ROOT, text_in, text_of
from .owners import holder_of, is_any_held, is_own, lineage_key
from .verdict import Successor

logger = logging.getLogger(__name__)


class _Place(NamedTuple):
    """Where a run belongs, as its metadata tells the account `config`."""

    run_id: str
    config: Config | None
    lineage: str
    root: str
    owner: str | None
    generation: int


class Neighbours:
    """Has the runs of a monitor followed that another process of this machine has open.

    Those that were opened here are not looked at: their lock is ours. `on_held(record, run_id,
    successor)` is told of a run that another process has, or has gone on with, `on_free(record)` of
    one whose process has ended, and has left it as it was. `is_off`: a journal's lease decides.

    Threads: every method is safe from any thread. Only `look` waits, for files, and for the server
    where a process has anything open. What polls bring is looked at on `tinkex-neighbours_N`;
    `inline`: at once.
    """

    def __init__(
        self,
        rest: RestPort,
        clock: Clock,
        *,
        on_held: Callable[[Record, str, Successor], object],
        on_free: Callable[[Record], object],
        is_off: bool,
        inline: bool,
    ) -> None:
        self._rest = rest
        self._clock = clock
        self._on_held = on_held
        self._on_free = on_free
        self._is_off = is_off
        self._pool = None if inline else DaemonPool(AT_ONCE, "tinkex-neighbours")
        self._lock = threading.Lock()
        # Guarded by _lock: where runs belong that may have another owner; those that are about to
        # be looked at; when all were last looked at.
        self._places: dict[Record, _Place] = {}
        self._under_way: set[Record] = set()
        self._looked = -math.inf

    def close(self) -> None:
        """Look at nothing any more that polls bring."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self, timeout: float) -> None:
        """Wait for the threads after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    # Polls

    def sweep_begins(self) -> None:
        """Look at all runs with another owner, where the last time is long ago."""
        now = self._clock.elapsed()
        with self._lock:
            if now - self._looked < LOOK_EVERY:
                return
            self._looked = now
            for each in [each for each in self._places if each.state is RunState.STOPPED]:
                del self._places[each]
            due = list(self._places)
        self._look_soon(due)

    def polled(self, record: Record, run_id: str, told: Mapping[str, Any]) -> None:
        """A poll has brought the metadata of a run: one that has another owner is looked at."""
        is_followed = record.state is RunState.FOLLOWING
        if (OWNER in told or is_followed) and self._may_be_held(record):
            is_known = self._known(record) is not None
            if not is_known:
                self._note(record, run_id, told)
            if is_followed or not is_known:
                self._look_soon((record,))

    def _look_soon(self, records: Collection[Record]) -> None:
        with self._lock:
            found = [each for each in records if each not in self._under_way]
            self._under_way.update(found)
        if self._pool is None or not found:
            self._look_at(found)
            return
        try:
            self._pool.submit(self._look_at, found)
        except RuntimeError:  # closed just now, or no thread to be had: an attempt looks again
            self._ended(found)

    def _look_at(self, records: Collection[Record]) -> None:
        try:
            for each in records:
                self.look(each)
        finally:
            self._ended(records)

    def _ended(self, records: Collection[Record]) -> None:
        with self._lock:
            self._under_way.difference_update(records)

    # One look

    def look(self, record: Record, *, is_to_be_made_anew: bool = False) -> None:
        """Look now: a run that another process has open is followed from then on.

        Where it `is_to_be_made_anew`, so is one of an owner that has ended and has gone on with
        another run: its lineage must not be forked. Raises what the server's list raises then.
        """
        place = self._place_of(record) if self._may_be_held(record) else None
        if place is None:
            return
        holder = holder_of(place.lineage)
        if holder is not None and holder.has(place.owner, place.generation):
            self._on_held(record, place.run_id, Successor(place.run_id, holder.who, is_tie=False))
        elif record.is_held:
            self._let_go(record, place)
        elif is_to_be_made_anew and place.owner is not None and self._rest.can_list:
            successor = None if is_own(place.owner) else self._successor_of(place)
            if successor is not None:
                self._on_held(record, place.run_id, successor)

    def _may_be_held(self, record: Record) -> bool:
        has_ended = record.state in (RunState.EXHAUSTED, RunState.STOPPED)
        return not has_ended and not self._is_off and OWNER not in dict(record.history.carried)

    def _place_of(self, record: Record) -> _Place | None:
        """Where a run belongs; the server is asked where that is not known, if it may matter."""
        known = self._known(record)
        if known is not None or not is_any_held():
            return known
        try:
            run = self._rest.run(record.config, record.run_id)
        except BaseException as error:  # an exit in foreign code, too
            heed(error)
            self._tell(record, error)
            return None
        return self._note(record, run.training_run_id, run.user_metadata or {})

    def _known(self, record: Record) -> _Place | None:
        with self._lock:
            place = self._places.get(record)
        is_live = place is not None and place[:2] == (record.run_id, record.config)
        return place if is_live else None

    def _note(self, record: Record, run_id: str, told: Mapping[str, Any]) -> _Place:
        name, root, owner = (text_in(told, key) for key in (NAME, ROOT, OWNER))
        root, config = root or run_id, record.config
        number = generation_in(told.get(GENERATION)) or 0
        key = lineage_key(config, name, root)
        place = _Place(run_id, config, key, root, owner, number)
        with self._lock:
            self._places[record] = place
        return place

    def _let_go(self, record: Record, place: _Place) -> None:
        """The process that had a run has ended: it is ours, unless that one went on with it."""
        try:
            successor = self._successor_of(place) if self._rest.can_list else None
        except BaseException as error:  # an exit in foreign code, too
            heed(error)
            self._tell(record, error)  # the next poll looks again
            return
        if successor is None:
            self._on_free(record)
        else:
            self._on_held(record, place.run_id, successor)

    def _successor_of(self, place: _Place) -> Successor | None:
        rows = list_all(self._rest, place.config)
        for line in families_in(self._rest, place.config, rows, name=None, root=place.root):
            own = next((each for each in line.runs if each.training_run_id == place.run_id), None)
            newest = line.newest
            if own and newest and line.number_of(newest) > line.number_of(own):
                owner = text_of(newest, OWNER)
                return Successor(newest.training_run_id, owner, is_tie=False)
        return None

    def _tell(self, record: Record, error: BaseException) -> None:
        shown = without_secrets(error, secrets_of(record.service, record.config))
        words = "run %s: whether another process has it open cannot be seen (%s)"
        logger.info(words, record.run_id, shown)
