"""All that is known of one monitored run, and of the generations before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from ..config import Config
from ..signals import Cause
from ..types import Checkpoint
from .checkpoints import Cursor, by_path, cursor_of
from .state import Generation, RunState
from .status import Kept, RunStatus, as_checkpoint


class Origin(NamedTuple):
    """Where a run comes from that was opened: its generation, those before it, and what it carries.

    `past` are those of other processes, the first one first, and `made_from` is the path of the
    checkpoint that it was itself made from.
    """

    past: tuple[Generation, ...]
    made_from: str | None
    generation: int
    carried: tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class History:
    """What is kept of a run that was recovered or has a training loop.

    `past` are the generations before the live one, `source` the checkpoint that the live one
    was restored from and `with_optimizer` how; `cursors` and `known` are what was recorded of
    checkpoints by path, `broken` the paths that did not load, `orphans` the ids left behind per
    generation, `incidents` when the budget's incidents began, `cause` what began the present
    one, and `error` what the training loop met; `has_resume_step`: the loop knows the step of
    checkpoints for which none is recorded; `is_left`: the process that trained the run has ended;
    `carried` is in the metadata of each run that is made; `stuck` says how many incidents in a row
    began when no checkpoint had a higher step than `stuck_at`.
    """

    past: tuple[Generation, ...] = ()
    source: Checkpoint | None = None
    with_optimizer: bool = True
    cursors: dict[str, Cursor] = field(default_factory=dict)
    known: dict[str, Checkpoint] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    orphans: dict[str, tuple[str, ...]] = field(default_factory=dict)
    incidents: tuple[float, ...] = ()
    cause: Cause | None = None
    error: str | None = None
    has_resume_step: bool = False
    is_left: bool = False
    carried: tuple[tuple[str, str], ...] = ()
    stuck: int = 0
    stuck_at: int | None = None

    def cursor(self, checkpoint: Checkpoint | None) -> Cursor | None:
        """Where the loop stood when a checkpoint was saved, where that is known."""
        return None if checkpoint is None else cursor_of(checkpoint, self.cursors)


#: The history of a run that has none. Never written to.
NO_HISTORY = History()


@dataclass(slots=True, eq=False, kw_only=True)
class Record:
    """One monitored run.

    `handle` is the `MonitoredRun` that callers hold, made by `make_handle`; `is_dead`: it was
    stopped during an incident or after giving up, and never gets a new client; `saved` is the
    newest checkpoint, or what is kept of its row, since most are never looked at, and `fingerprint`
    that of its row where it was the last that a change came from; `attempts` tells
    the last incident's failed ones. Of the polls: `failed_at` is when one last failed and `told_at`
    when that was last published, `misses` how often in a row the run could not be found, and
    `poll_after` the earliest next poll of a run that is missing, in monotonic seconds.
    `started` is `started_at`, and `warned_at` when `unprotected` was last published, in monotonic
    seconds: the clock on the wall may be set.

    Guarded by `lock`, for memory only, and changed by `tinkex.runs.apply` alone. Other records may
    share it, so no thread holds those of two at a time.
    """

    lock: threading.Lock
    run_id: str
    service: Any
    config: Config | None
    metadata: Mapping[str, Any]
    client: Any
    started_at: datetime
    started: float
    make_handle: InitVar[Callable[[Record], object]]
    root_id: str = field(init=False)
    handle: object = field(init=False)
    state: RunState = RunState.HEALTHY
    is_dead: bool = False
    generation: int = 0
    own_history: History | None = None
    saved: Checkpoint | Kept | None = None
    fingerprint: int | None = None
    last_poll: datetime | None = None
    next_attempt: datetime | None = None
    error: BaseException | None = None
    attempts: tuple[str, ...] = ()
    failed_at: float | None = None
    told_at: float | None = None
    misses: int = 0
    poll_after: float = 0.0
    warned_at: float | None = None

    def __post_init__(self, make_handle: Callable[[Record], object]) -> None:
        self.root_id = self.run_id
        self.handle = make_handle(self)

    @property
    def history(self) -> History:
        """The run's history, to be read; an empty one where it has none."""
        return self.own_history or NO_HISTORY

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Every id of the lineage, the live one first."""
        past = self.history.past
        return (self.run_id, *[each.run_id for each in reversed(past)]) if past else (self.run_id,)

    @property
    def last_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is known."""
        return as_checkpoint(self.saved)

    def known_checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints of the lineage that were recorded or that a poll saw."""
        last = self.last_checkpoint
        # The server's word counts: it also knows when a checkpoint expires.
        seen = () if last is None else (last,)
        return tuple(by_path((*self.history.known.values(), *seen)).values())

    def lineage(self) -> tuple[Generation, ...]:
        """All generations, the live one last."""
        history = self.history
        cursor = history.cursor(history.source)
        live = Generation(
            run_id=self.run_id,
            checkpoint=history.source.tinker_path if history.source else None,
            step=cursor.step if cursor else None,
            started_at=self.started_at,
        )
        return tuple(
            replace(generation, orphans=history.orphans.get(generation.run_id, ()))
            for generation in (*history.past, live)
        )

    def forks(self) -> tuple[tuple[str, str], ...]:
        """For each generation before the live one its run's id, and what the next was made from."""
        lineage = self.lineage() if self.history.past else ()
        return tuple(
            (before.run_id, after.checkpoint)
            for before, after in pairwise(lineage)
            if after.checkpoint is not None
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
            last_checkpoint=self.saved,
            next_attempt=self.next_attempt,
            recoveries=self.generation,
            metadata=self.metadata,
        )
