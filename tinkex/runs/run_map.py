"""The lock-guarded map of monitored runs: by any id of their lineage, each change in one place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..config import Config
from ..errors import MonitorStoppedError
from .record import Record
from .state import RunState, check_transition

__all__ = ["RunMap", "StateChange"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A run went from one state to another."""

    run_id: str
    root_id: str
    before: RunState
    after: RunState


class RunMap:
    """The runs of a monitor.

    Threads: hold `lock` for everything but `find`. It is held for memory only.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_closed = False
        # Guarded by lock, with the records in it: every id of every lineage, and one config to
        # stand for all that are equal: each call of monitor_run may bring its own.
        self._records: dict[str, Record] = {}
        self._configs: dict[Config | None, Config | None] = {}

    def find(self, run_id: str) -> Record | None:
        """The record of a run by any id of its lineage; one look, so no lock is needed."""
        return self._records.get(run_id)

    def add(self, record: Record) -> None:
        """Have the record found under its live id as well."""
        self._records[record.run_id] = record

    def register(
        self,
        run_id: str,
        *,
        service: Any,
        config: Config | None,
        metadata: Mapping[str, Any],
        client: Any,
        now: datetime,
        make_handle: Callable[[Record], Any],
    ) -> Record:
        """Add a run, or update the one that goes by this id; takes the lock itself."""
        trained = None if client is None else _run_of(client, run_id)
        with self.lock:
            if self.is_closed:
                raise MonitorStoppedError("this monitor was stopped; make a new one")
            config = self._configs.setdefault(config, config)
            record = self.find(run_id)
            if record is None:
                record = Record(
                    run_id,
                    service=service,
                    config=config,
                    metadata=metadata,
                    client=client,
                    now=now,
                )
                record.handle = make_handle(record)
                self.add(record)
                return record
            record.service = service
            record.config = config
            record.metadata = metadata or record.metadata
            if trained == record.run_id:
                record.client = client
            return record

    def close(self) -> None:
        """Stop all runs, and take no more; takes the lock itself."""
        with self.lock:
            self.is_closed = True
            for record in self.records():
                self.move(record, RunState.STOPPED)

    def remove(self, record: Record) -> None:
        """Forget all ids of a lineage."""
        past = record.story.past if record.story else ()
        for run_id in (record.run_id, *(generation.run_id for generation in past)):
            if self._records.get(run_id) is record:
                del self._records[run_id]

    def records(self) -> list[Record]:
        """Each run once."""
        return [record for run_id, record in self._records.items() if run_id == record.root_id]

    def __len__(self) -> int:
        return len(self._records)

    def move(self, record: Record, after: RunState) -> StateChange | None:
        """Change a run's state: the one place where that happens.

        Raises:
            RuntimeError: There is no such move.
        """
        before = record.state
        if before is after:
            return None
        check_transition(before, after)
        record.state = after
        if after is RunState.STOPPED and not before.is_polled:
            record.is_dead = True
        return StateChange(run_id=record.run_id, root_id=record.root_id, before=before, after=after)


def _run_of(client: Any, run_id: str) -> Any:
    """The run that a client trains; one that is only the future of a client is not asked."""
    if callable(getattr(client, "result", None)):
        return run_id
    return getattr(client, "model_id", run_id)
