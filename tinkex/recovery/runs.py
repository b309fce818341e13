"""The lock-guarded map of monitored runs: by any id of their lineage, each change in one place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..config import Config
from ..errors import ApiResponseError, MonitorStoppedError
from ..types import Checkpoint
from .checkpoints import Cursor, cursor_of
from .incident import Restored
from .state import Generation, RunState, check_transition
from .status import RunStatus

__all__ = ["Record", "RunMap", "StateChange"]


#: The fields of a checkpoint's row that are kept for a healthy run.
ROW_FIELDS = ("tinker_path", "time", "size_bytes", "public", "expires_at", "user_metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A run went from one state to another."""

    run_id: str
    root_id: str
    before: RunState
    after: RunState


class Story:
    """What only runs with a history have.

    `past` are the generations before the live one, `source` what that was restored from and
    `with_optimizer` how; `cursors` and `known` are what was recorded of checkpoints by path,
    `broken` the paths that did not load, `orphans` the ids left behind per generation,
    `incidents` when the budget's incidents began, `cause` what began the present one;
    `reached` is the next step of the training loop, `unfinished` whether a step was broken
    off so that nobody knows whether it was submitted, and `ended_at` the next step when the
    generation before ended.
    """

    __slots__ = (
        "broken",
        "cause",
        "cursors",
        "ended_at",
        "incidents",
        "known",
        "orphans",
        "past",
        "reached",
        "source",
        "unfinished",
        "with_optimizer",
    )

    def __init__(self) -> None:
        self.past: tuple[Generation, ...] = ()
        self.source: Checkpoint | None = None
        self.with_optimizer = True
        self.cursors: dict[str, Cursor] = {}
        self.known: dict[str, Checkpoint] = {}
        self.broken: frozenset[str] = frozenset()
        self.orphans: dict[str, tuple[str, ...]] = {}
        self.incidents: tuple[float, ...] = ()
        self.cause: BaseException | None = None
        self.reached: int | None = None
        self.unfinished = False
        self.ended_at: int | None = None

    def begin_anew(self) -> None:
        """Give the lineage its budget back, and every checkpoint another chance."""
        self.incidents = ()
        self.broken = frozenset()

    def cursor(self, checkpoint: Checkpoint) -> Cursor | None:
        """Where the loop stood when a checkpoint was saved, as far as anybody noted it."""
        return cursor_of(checkpoint, self.cursors)

    def next_generation(
        self, ended: Generation, restored: Restored, broken: frozenset[str]
    ) -> None:
        """Turn the page: the live generation has ended, its successor is restored."""
        self.past = (*self.past, ended)
        self.broken |= broken
        self.source = restored.checkpoint
        self.with_optimizer = restored.with_optimizer
        self.known[restored.checkpoint.tinker_path] = restored.checkpoint
        self.cause = None
        self.ended_at = self.ended_at if self.reached is None else self.reached
        self.reached = None
        self.unfinished = False


class Record:
    """One monitored run: all that is known of it. Guarded by the lock of its `RunMap`."""

    __slots__ = (
        "attempts",
        "client",
        "config",
        "error",
        "failed_at",
        "generation",
        "handle",
        "is_dead",
        "last_poll",
        "metadata",
        "misses",
        "next_attempt",
        "poll_after",
        "root_id",
        "run_id",
        "saved",
        "service",
        "started_at",
        "state",
        "story",
        "told_at",
        "warned_at",
    )

    def __init__(
        self,
        run_id: str,
        *,
        service: Any,
        config: Config | None,
        metadata: Mapping[str, Any],
        client: Any,
        now: datetime,
    ) -> None:
        self.run_id = run_id
        self.root_id = run_id
        self.service = service
        self.config = config
        self.metadata = metadata
        self.client = client
        self.started_at = now
        self.state = RunState.HEALTHY
        #: Stopped while its run was corrupted: nobody brings another client.
        self.is_dead = False
        self.generation = 0
        self.handle: Any = None
        self.story: Story | None = None
        #: The newest checkpoint, or the fields of its row: most are never looked at.
        self.saved: Checkpoint | tuple[Any, ...] | None = None
        self.last_poll: datetime | None = None
        self.next_attempt: datetime | None = None
        self.error: BaseException | None = None
        self.attempts: tuple[str, ...] = ()
        # Of the polls: when one last failed, when that was last published, how often in a row
        # the run could not be found, and the earliest next poll of a run that is missing.
        self.failed_at: float | None = None
        self.told_at: float | None = None
        self.misses = 0
        self.poll_after = 0.0
        self.warned_at: datetime | None = None

    @property
    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, as far as is known."""
        if isinstance(self.saved, tuple):
            return _as_checkpoint(self.saved)
        return self.saved

    def remember(self) -> Story:
        """The run's story, begun at the first need."""
        if self.story is None:
            self.story = Story()
        return self.story

    def reset_polls(self) -> None:
        """Forget all failed polls: they say nothing of a new generation."""
        self.failed_at = self.told_at = None
        self.misses = 0
        self.poll_after = 0.0

    def lineage(self) -> tuple[Generation, ...]:
        """All generations, the live one last."""
        story = self.story or Story()
        cursor = story.cursor(story.source) if story.source else None
        live = Generation(
            run_id=self.run_id,
            checkpoint=story.source.tinker_path if story.source else None,
            step=cursor.step if cursor else None,
            started_at=self.started_at,
        )
        return tuple(
            replace(generation, orphans=story.orphans.get(generation.run_id, ()))
            for generation in (*story.past, live)
        )

    def status(self) -> RunStatus:
        """A snapshot."""
        return RunStatus(
            run_id=self.run_id,
            root_id=self.root_id,
            state=self.state,
            generation=self.generation,
            last_poll=self.last_poll,
            last_error=self.error,
            last_checkpoint=self.last_checkpoint,
            next_attempt=self.next_attempt,
            recoveries=self.generation,
            metadata=self.metadata,
        )


def _as_checkpoint(row: tuple[Any, ...]) -> Checkpoint | None:
    """The checkpoint of a row; of one that does not fit only the path is believed."""
    try:
        return Checkpoint.from_json(dict(zip(ROW_FIELDS, row, strict=True)))
    except ApiResponseError:
        with suppress(ValueError):
            return Checkpoint.from_path(row[0])
    return None


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
