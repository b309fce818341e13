"""The lock-guarded map of monitored runs, each found by any id of its lineage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..config import Config
from ..errors import MonitorStoppedError
from ..policy import Policy
from ..runtime.publisher import Publisher
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from .apply import Moment, Result, Row, apply, apply_rows
from .changes import Change, Stopped, Updated
from .record import Record
from .state import RunState
from .status import RunStatus


class RunMap:
    """The runs of a monitor, and the way in which each of them changes.

    When a run's state or client changes, `on_move` is called with its record, and `waits` are
    woken.

    Threads: every method is safe from any thread and waits for nothing. To read more than one
    field of a record, hold `lock`, for memory only.
    """

    def __init__(
        self,
        policy: Policy,
        clock: Clock,
        publisher: Publisher,
        waits: Waits,
        on_move: Callable[[Record], object] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._publisher = publisher
        self._waits = waits
        self._on_move = on_move
        #: For a change that does not look at the time.
        self._any_time = self._moment()
        self.lock = threading.Lock()
        # Guarded by lock, with the fields of all records: _is_closed; _records, by every id of
        # every lineage; _configs, one config to stand for all that are equal, since each call
        # of monitor_run may bring its own. The publisher's lock may be taken within.
        self._is_closed = False
        self._records: dict[str, Record] = {}
        self._configs: dict[Config | None, Config | None] = {}

    # Changes

    def apply(self, record: Record, change: Change) -> Result:
        """Apply a change and return what it gives rise to, `None` where it was refused.

        That is queued in the same step, so that no later change can have its own delivered
        before.
        """
        # To read the clock would be a fifth of what it takes to stop a run.
        moment = self._any_time if type(change) is Stopped else self._moment()
        with self.lock:
            state, client = record.state, record.client
            notices = apply(record, change, moment)
            if notices is None:
                return None
            if record.state is not RunState.STOPPED:
                self._records[record.run_id] = record
            elif not self._is_closed:
                for run_id in record.run_ids:
                    if self._records.get(run_id) is record:
                        del self._records[run_id]
            is_moved = record.state is not state or record.client is not client
            if notices:
                self._publisher.queue(record.root_id, notices)
        if notices:
            self._publisher.flush()
        if is_moved:
            self._on_move(record)
            self._waits.notify()
        return notices

    def apply_rows(self, rows: list[Row]) -> list[Row]:
        """Apply the rows of healthy runs that bring no news; return those that do."""
        now = self._clock.utc()
        with self.lock:
            return apply_rows(rows, now, self._policy)

    def register(
        self,
        run_id: str,
        *,
        service: Any,
        config: Config | None,
        metadata: Mapping[str, Any],
        client: Any,
        make_handle: Callable[[Record], object],
    ) -> Record:
        """Add a run, or update the one that goes by this id.

        Raises `MonitorStoppedError` where the map is closed.
        """
        trained = None if client is None else _run_of(client, run_id)
        moment = self._moment()
        with self.lock:
            if self._is_closed:
                raise MonitorStoppedError("this monitor was stopped; make a new one")
            config = self._configs.setdefault(config, config)
            record = self.find(run_id)
            if record is None:
                record = Record(
                    run_id=run_id,
                    service=service,
                    config=config,
                    metadata=metadata,
                    client=client,
                    started_at=moment.utc,
                    make_handle=make_handle,
                )
                self._records[run_id] = record
                return record
            live = client if trained == record.run_id else None
            update = Updated(service=service, config=config, metadata=metadata, client=live)
            apply(record, update, moment)
        self._waits.notify()
        return record

    def close(self) -> None:
        """Stop all runs, which can still be looked at, and take no more."""
        with self.lock:
            self._is_closed = True
            for record in self.records():
                apply(record, Stopped(), self._any_time)
        self._waits.notify()

    def _moment(self) -> Moment:
        return Moment(self._clock.utc(), self._clock.monotonic(), self._policy)

    # Queries

    def find(self, run_id: str) -> Record | None:
        """The record of a run by any id of its lineage; one look, so no lock is needed."""
        return self._records.get(run_id)

    def records(self) -> list[Record]:
        """Each run once; the caller holds the lock."""
        return [record for run_id, record in self._records.items() if run_id == record.root_id]

    def status(self, record: Record) -> RunStatus:
        """A snapshot of one run."""
        with self.lock:
            return record.status()

    def polled(self) -> list[Record]:
        """The runs that sweeps ask for."""
        with self.lock:
            records = self.records()
            # Nearly all are healthy, and to look a state up takes longer than all the rest.
            return [r for r in records if r.state is RunState.HEALTHY or r.state.is_polled]

    def of_account(self, config: Config | None) -> tuple[str, ...]:
        """The ids of an account's runs."""
        with self.lock:
            return tuple(r.run_id for r in self.records() if r.config == config)

    def __len__(self) -> int:
        return len(self._records)


def _run_of(client: Any, run_id: str) -> Any:
    """The run that a client trains; one that is only the future of a client is not asked."""
    if callable(getattr(client, "result", None)):
        return run_id
    return getattr(client, "model_id", run_id)
