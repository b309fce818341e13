"""All that is known of one monitored run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..config import Config
from ..errors import ApiResponseError
from ..types import Checkpoint
from .checkpoints import Cursor, by_path, cursor_of
from .state import Generation, RunState
from .status import RunStatus

__all__ = ["ROW_FIELDS", "Record", "Restored", "Story"]

#: The fields of a checkpoint's row that are kept for a healthy run.
ROW_FIELDS = ("tinker_path", "time", "size_bytes", "public", "expires_at", "user_metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a successful attempt brings."""

    checkpoint: Checkpoint
    client: Any
    successor_id: str
    with_optimizer: bool


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

    def known_checkpoints(self) -> tuple[Checkpoint, ...]:
        """The checkpoints of the lineage that were recorded or that a poll saw."""
        recorded = self.story.known.values() if self.story else ()
        # The server's word counts: it also knows when a checkpoint expires.
        seen = () if self.last_checkpoint is None else (self.last_checkpoint,)
        return tuple(by_path((*recorded, *seen)).values())

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
