"""The lock-guarded map of monitored runs, each found by any id of its lineage."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from ..config import Config
from ..errors import MonitorStoppedError, TinkexError
from ..policy import Policy
from ..runtime import forks
from ..runtime.publisher import Notice, Publisher
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from .apply import Result, apply, take_up
from .changes import Change, Moment, Orphaned, Seen, Stopped, TakenUp, Updated
from .record import Origin, Record
from .rows import Limits
from .state import RunState
from .status import RunStatus

#: So many configs are kept without a look at whether they are used.
MANY_CONFIGS = 64

#: How many locks the records share.
LOCKS = 256


class Keeping(Protocol):
    """What keeps the changes of runs; only `told`, for which the caller has no lock, may wait."""

    def registered(self, record: Record) -> None:
        """A run is monitored from now on."""

    def note(self, record: Record, change: Change, notices: Iterable[Notice]) -> None:
        """A change was applied to a record, whose lock is held."""

    def told(self) -> None:
        """What was noted is to be kept."""


class RunMap:
    """The runs of a monitor, and the way in which each of them changes.

    When a run's state or client changes, `on_move` is called with its record, and who waits for
    that is woken. `server_time(config, own)` tells an account's server's time, `own` where it is
    not known.

    Threads: every method is safe from any thread and waits for nothing. To read more than one
    field of a record, hold its `lock`, for memory only.
    """

    def __init__(
        self,
        policy: Policy,
        clock: Clock,
        publisher: Publisher,
        waits: Waits,
        *,
        on_move: Callable[[Record], object] = lambda _: None,
        server_time: Callable[[Config | None, datetime], datetime] = lambda _, own: own,
    ) -> None:
        #: What keeps changes beyond this process, if anything does.
        self.keeper: Keeping | None = None
        self._policy = policy
        self._clock = clock
        self._publisher = publisher
        self._waits = waits
        self._on_move = on_move
        self._server_time = server_time
        #: For a change that does not look at the time.
        self._any_time = self._moment()
        forks.register(self)
        # For the fields of a record, each has one of these for good: a change of many runs, one
        # by one, rarely meets a call that is about another one.
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))
        self._next_lock = itertools.cycle(self._locks)
        self._lock = threading.Lock()
        # Guarded by _lock, which may be taken while that of a record is held: _is_closed;
        # _records, by every id of every lineage; _configs, one config to stand for all that are
        # equal, since each call of monitor_run may bring its own, and the one that was last asked
        # for, as to hash one takes long; which record gets which lock;
        # _most_configs, how many there may be before unused ones are looked for.
        self._is_closed = False
        self._records: dict[str, Record] = {}
        self._configs: dict[Config | None, Config | None] = {}
        self._newest_config: Config | None = None
        self._most_configs = MANY_CONFIGS

    def after_fork(self) -> None:
        """Let a forked child look at the runs as they were."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()
        for lock in self._locks:
            # A thread that is not there any more may have had it, or been about to have it.
            lock._at_fork_reinit()  # type: ignore[attr-defined] # as the standard library does

    # Changes

    def apply(self, record: Record, change: Change, *, is_told: bool = True) -> Result:
        """Apply a change and return what it gives rise to, `None` where it was refused.

        That is queued in the same step, so that no later change can have its own delivered
        before. Where not `is_told`, it is delivered with what is told next.
        """
        # To read the clock would be a fifth of what it takes to stop a run.
        polled = record if type(change) is Seen else None
        moment = self._any_time if type(change) is Stopped else self._moment(polled)
        with record.lock:
            state, client, run_id = record.state, record.client, record.run_id
            # Let go of without the lock: the end of what is replaced may be foreign code.
            _replaced = record.service, record.metadata, record.error
            notices = apply(record, change, moment)
            if notices is None:
                return None
            if self.keeper is not None:  # before the ids of one that is stopped are free
                self.keeper.note(record, change, notices)
            if record.state is RunState.STOPPED or record.run_id != run_id:
                self._enter(record)
            if isinstance(change, Orphaned) and change.successor_id not in record.run_ids:
                self._leave(record, change.successor_id)
            is_moved = record.state is not state or record.client is not client
            if notices:
                self._publisher.queue(record.root_id, notices)
        if self.keeper is not None:
            self.keeper.told()
        if notices and is_told:
            self._publisher.flush()
        if is_moved:
            self._on_move(record)
            self._waits.notify(record)
        return notices

    def _enter(self, record: Record) -> None:
        """Have a record found by its new id, or one that was stopped by none."""
        with self._lock:
            if record.state is not RunState.STOPPED:
                self._records.update(dict.fromkeys(record.run_ids, record))
                return
            is_closed = self._is_closed
        if not is_closed:
            self._leave(record, *record.run_ids)

    def _leave(self, record: Record, *run_ids: str) -> None:
        """Have a record found by these ids no more."""
        with self._lock:
            for run_id in run_ids:
                if self._records.get(run_id) is record:
                    del self._records[run_id]

    def claim(self, record: Record, run_id: str) -> Record:
        """Have a run id mean this record, unless it means another; return which it means.

        It is given back with `Orphaned`. A run that is not recovered any more claims nothing.
        """
        with record.lock:
            if not record.state.is_pending:
                return record
            with self._lock:
                return self._records.setdefault(run_id, record)

    def register(
        self,
        run_id: str,
        *,
        service: Any,
        config: Config | None,
        metadata: Mapping[str, Any],
        client: Any,
        make_handle: Callable[[Record], object],
        origin: Origin | None = None,
    ) -> Record:
        """Add a run, or update the one that goes by this id.

        Raises `MonitorStoppedError` where the map is closed.
        """
        trained = None if client is None else _run_of(client, run_id)
        moment, past = self._moment(), [each.run_id for each in origin.past] if origin else []
        while True:
            with self._lock:
                if self._is_closed:
                    raise MonitorStoppedError("this monitor was stopped; make a new one")
                config = self._config_locked(config)
                record = next(filter(None, map(self.find, (run_id, *past))), None)
                if record is None:
                    record = Record(
                        lock=next(self._next_lock),
                        run_id=run_id,
                        service=service,
                        config=config,
                        metadata=metadata,
                        client=client,
                        started_at=moment.utc,
                        started=moment.seconds,
                        make_handle=make_handle,
                    )
                    self._add_locked(record, origin)
                    break
            if self._is_over(record, run_id, *past):
                continue
            if origin is not None and origin.kept is not None:
                self.apply(record, TakenUp(run_id, origin))
            live = client if trained == record.run_id else None
            update = Updated(service=service, config=config, metadata=metadata, client=live)
            if self.apply(record, update) is not None:
                self._waits.notify(record)
                break  # else it was stopped just now, so the id is free again
        if self.keeper is not None:
            self.keeper.told()
        return record

    def _is_over(self, record: Record, *run_ids: str) -> bool:
        """Whether a record is stopped; that was told then, and these ids, too, are free."""
        with record.lock:
            is_over = record.state is RunState.STOPPED
        if is_over:
            self._enter(record)
            self._leave(record, *run_ids)
        return is_over

    def _add_locked(self, record: Record, origin: Origin | None) -> None:
        """Have a new record found, by each id of its lineage."""
        if origin is not None:
            take_up(record, origin)
        for run_id in record.run_ids:
            self._records[run_id] = record
        if self.keeper is not None:
            self.keeper.registered(record)

    def _config_locked(self, config: Config | None) -> Config | None:
        """The one config that stands for all that are equal to this one."""
        if config is self._newest_config and config is not None:
            return config
        if len(self._configs) > self._most_configs:
            # Keys may have been renewed: let go of those that no run uses.
            used = {id(record.config): record.config for record in self._records.values()}
            self._configs = {each: each for each in used.values()}
            self._most_configs = 2 * len(used) + MANY_CONFIGS
        self._newest_config = self._configs.setdefault(config, config)
        return self._newest_config

    def close(self) -> None:
        """Stop all runs, which can still be looked at, and take no more."""
        with self._lock:
            self._is_closed = True
        for record in self.records():
            with record.lock:
                apply(record, Stopped(), self._any_time)
        self._waits.notify_all()

    def limits(self, config: Config | None) -> Limits:
        """With which the rows of an account are judged now."""
        utc, within = self._clock.utc(), self._policy.unprotected_after
        return Limits.at(utc, self._clock.monotonic(), self._server_time(config, utc), within)

    def _moment(self, polled: Record | None = None) -> Moment:
        utc = self._clock.utc()
        served = utc if polled is None else self._server_time(polled.config, utc)
        return Moment(utc, self._clock.monotonic(), self._policy, served)

    # Queries

    def find(self, run_id: str) -> Record | None:
        """The record of a run by any id of its lineage; one look, so no lock is needed."""
        return self._records.get(run_id)

    def records(self) -> list[Record]:
        """Each run once."""
        with self._lock:
            found = self._records.copy()
        return [record for run_id, record in found.items() if run_id == record.root_id]

    def status(self, record: Record) -> RunStatus:
        """A snapshot of one run."""
        now = self._clock.utc()
        with record.lock:
            return record.status(now)

    def status_of_all(self) -> list[RunStatus]:
        """A snapshot of each run."""
        now, found = self._clock.utc(), []
        for record in self.records():
            with record.lock:
                found.append(record.status(now))
        return found

    def over(self, run_id: str) -> TinkexError | None:
        """Why a run cannot be trained any more, where it has ended."""
        record = self.find(run_id)
        if record is None:
            return None
        with record.lock:
            return record.over()

    def polled(self) -> list[Record]:
        """The runs that sweeps ask for."""
        # Nearly all are healthy, and to look a state up takes longer than all the rest.
        healthy = RunState.HEALTHY
        return [r for r in self.records() if r.state is healthy or r.state.is_polled]

    def of_account(self, config: Config | None) -> tuple[str, ...]:
        """The ids of an account's runs."""
        return tuple(r.run_id for r in self.records() if r.config == config)

    def __len__(self) -> int:
        return len(self._records)


def _run_of(client: Any, run_id: str) -> Any:
    """The run that a client trains; one that is only the future of a client is not asked."""
    if callable(getattr(client, "result", None)):
        return run_id
    return getattr(client, "model_id", run_id)
