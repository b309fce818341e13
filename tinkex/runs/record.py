"""All that is known of one monitored run, and of the generations before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from ..config import Config
from ..errors import MonitorStoppedError, RecoveryError, RecoveryExhaustedError, RunHeldError
from ..signals import Cause, Fenced
from ..types import Checkpoint
from .checkpoints import Cursor, by_path, cursor_of, newest_of
from .state import Generation, RunState
from .status import Kept, RunStatus, as_checkpoint, snapshot


class Origin(NamedTuple):
    """Where a run comes from that was opened: its generation, those before it, and what it carries.

    `past` are those of other processes, the first one first, and `made_from` is the path of the
    checkpoint that it was itself made from. `kept` is what a journal knows of it.
    """

    past: tuple[Generation, ...]
    made_from: str | None
    generation: int
    carried: tuple[tuple[str, str], ...]
    kept: History | None = None


@dataclass(slots=True, eq=False)
class History:
    """What is kept of a run that was recovered or has a training loop.

    `past` are the generations before the live one, `source` the checkpoint that the live one
    was restored from and `with_optimizer` how; `cursors` and `known` are what was recorded of
    checkpoints by path, `broken` the paths that did not load, `orphans` the ids left behind per
    generation, `incidents` when the budget's incidents began, `cause` what began the present
    one, and `error` what the training loop met; `has_resume_step`: the loop knows the step of
    checkpoints for which none is recorded; `is_left`: the process that trained the run has ended;
    `is_kept`: what a journal knew of it is in here; `carried` is in the metadata of each run that
    is made; `fenced` tells who has taken the run over; `stuck` says how many incidents in a row
    began when no checkpoint had a higher step than `stuck_at`; `saved_last` is the path of the last
    checkpoint that was saved or recorded here, and when by our own clock.
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
    is_kept: bool = False
    carried: tuple[tuple[str, str], ...] = ()
    fenced: Fenced | None = None
    stuck: int = 0
    stuck_at: int | None = None
    saved_last: tuple[str, datetime] | None = None

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

    Guarded by `lock`, for memory only, and changed by `tinkex.runs.apply` and `rows` alone. Other
    records may share it, so no thread holds those of two at a time.
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

    def ended(self, now: datetime, attempts: int) -> Generation:
        """The live generation as it is replaced, after so many attempts."""
        cause, error = self.history.cause, self.history.error
        live = self.lineage()[-1]
        return replace(live, ended_at=now, cause=cause, error=error, attempts=attempts)

    def forks(self) -> tuple[tuple[str, str], ...]:
        """For each generation before the live one its run's id, and what the next was made from."""
        lineage = self.lineage() if self.history.past else ()
        return tuple(
            (before.run_id, after.checkpoint)
            for before, after in pairwise(lineage)
            if after.checkpoint is not None
        )

    def is_superseded(self, run_id: str) -> bool:
        """Whether a generation is known to be corrupted or replaced."""
        is_over = self.state in (RunState.EXHAUSTED, RunState.FOLLOWING) or self.is_dead
        return self.state.is_pending or is_over or self.run_id != run_id

    def over(self) -> RecoveryError | None:
        """Why the run cannot be trained any more, where it has ended."""
        if self.state is RunState.STOPPED:
            return MonitorStoppedError(f"run {self.run_id!r} is not monitored any more")
        if self.state is RunState.FOLLOWING:
            return self.held()
        if self.state is not RunState.EXHAUSTED:
            return None
        past, error = self.history.past, self.history.error
        story = [f"run {each.run_id}: {each.error or each.cause}; recovered" for each in past]
        if error is not None:
            story.append(f"run {self.run_id}: {error}")
        told = (*story, *self.attempts)
        given_up = RecoveryExhaustedError(self.run_id, len(self.attempts), self.error, told)
        given_up.__cause__ = self.error
        return given_up

    @property
    def is_held(self) -> bool:
        """Whether another owner has the run, and has not gone on with another one."""
        by = self.history.fenced
        is_followed = self.state is RunState.FOLLOWING
        return is_followed and by is not None and by.successor_id == self.run_id

    def held(self) -> RunHeldError:
        """What a run that is only followed raises."""
        by = self.history.fenced
        if by is not None and self.is_held:
            return RunHeldError(self.run_id, f"another owner has it: {by.owner or 'unknown'}")
        who = "another owner" if by is None or by.owner is None else f"the owner {by.owner}"
        with_run = "" if by is None else f" with run {by.successor_id!r}"
        return RunHeldError(self.run_id, f"{who} has taken it over{with_run}")

    def status(self, now: datetime) -> RunStatus:
        """A snapshot, taken now."""
        saved: Checkpoint | Kept | None = self.saved
        step = saved_at = None
        if self.own_history is not None and self.own_history.known:
            saved, step, saved_at = self._newest(self.own_history)
        return snapshot(
            run_id=self.run_id,
            root_id=self.root_id,
            state=self.state,
            generation=self.generation,
            time=now,
            last_poll=self.last_poll,
            last_error=self.error,
            last_checkpoint=saved,
            step=step,
            saved_at=saved_at,
            next_attempt=self.next_attempt,
            recoveries=self.generation,
            metadata=self.metadata,
        )

    def _newest(self, history: History) -> tuple[Checkpoint | None, int | None, datetime | None]:
        """The newest checkpoint that is known, its step, and when it was saved, where known."""
        live, seen = f"tinker://{self.run_id}/", self.last_checkpoint
        paths = (path for path in reversed(history.known) if path.startswith(live))
        saved = next(paths, None)
        found = [] if saved is None else [history.known[saved]]
        found += [] if seen is None else [seen]
        if not found:
            return None, None, None
        newest, cursor = newest_of(found, history.cursors, self.run_ids)
        path, at = history.saved_last or (None, None)
        is_last = newest.tinker_path == path
        return newest, cursor.step if cursor else None, at if is_last else None
