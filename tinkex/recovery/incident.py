"""One incident as values: what a recovery needs, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..config import Config
from ..policy import Policy
from ..runs.checkpoints import Cursor
from ..runs.record import Restored
from ..runtime.publisher import Reporter
from ..runtime.scheduler import Clock, Timer
from ..signals import Completed
from ..types import Checkpoint, TrainingRun
from .retry import Tally

__all__ = [
    "Attempt",
    "Attempting",
    "Blocked",
    "Change",
    "Dropped",
    "Gate",
    "GaveUp",
    "Incident",
    "Orphaned",
    "Recovered",
    "RecoveryRequest",
    "Tools",
    "Waiting",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryRequest:
    """What is to be recovered, and how.

    `run_ids` are the ids of the lineage, newest first; `known` are checkpoints beside those
    that the server lists, `recorded` their cursors, `broken` the paths that did not load.
    """

    run_id: str
    root_id: str
    service: Any
    policy: Policy
    config: Config | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    run: TrainingRun | None = None
    run_ids: tuple[str, ...] = ()
    known: tuple[Checkpoint, ...] = ()
    recorded: Mapping[str, Cursor] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    old_client: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What an incident works with."""

    rest: Any
    services: Any
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of an incident, told to whoever began it before it is published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempting(Change):
    """An attempt begins."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Change):
    """An attempt failed; the next comes in `delay` seconds."""

    error: BaseException
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked(Change):
    """The account does not work; nothing happens until it does."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(Change):
    """There is a successor. Refused where the answer is false: then it is an orphan."""

    attempt: int
    restored: Restored
    broken: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(Change):
    """No attempt is left."""

    attempt: int
    error: BaseException
    history: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped(Change):
    """Whoever began the incident ended it. Told to those who joined it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphaned(Change):
    """An attempt that was given up brought a client after all."""

    successor_id: str


#: What holds incidents back: the account of one monitor's runs.
Gate = tuple[Reporter, Config | None]


class Incident:
    """The state of one incident.

    `run` is the run as a poll saw it; where none did, an attempt asks for it.

    Threads: owned by the executor. `run`, `attempt`, `tally`, `broken`, `history` and
    `with_optimizer` are touched only by whoever ended the current attempt; the rest is guarded
    by the executor's lock.
    """

    def __init__(
        self,
        request: RecoveryRequest,
        tools: Tools,
        reporter: Reporter,
        tell: Callable[[Change], bool],
        *,
        can_pause: bool,
    ) -> None:
        self.request = request
        self.run = request.run
        self.tools = tools
        self.reporter = reporter
        self.tells = [tell]
        self.can_pause = can_pause
        self.future: Future[Completed] = Future()
        self.future.set_running_or_notify_cancel()
        self.began = tools.clock.monotonic()
        self.attempt = 0
        self.with_optimizer = request.policy.restore_optimizer
        self.tally = Tally(
            seed=request.run_id, can_pause=can_pause, with_optimizer=self.with_optimizer
        )
        self.broken: set[str] = set()
        self.history: list[str] = []
        self.current: Attempt | None = None
        self.timer: Timer | None = None
        self.settled = False
        self.probing = False

    @property
    def gate(self) -> Gate:
        """The account that the incident belongs to."""
        return self.reporter, self.request.config

    def tell(self, change: Change) -> bool:
        """Tell all who want to know; true where one of them takes it."""
        taken = [tell(change) for tell in self.tells]
        return any(taken)

    def publish(self, kind: Any, **fields: Any) -> Any:
        """Publish an event about the corrupted run."""
        request = self.request
        return self.reporter.publish(
            request.root_id, kind, request.run_id, request.metadata, **fields
        )


class Attempt:
    """One attempt of an incident; guarded by the executor's lock like the incident."""

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.number = incident.attempt
        self.service: Any = incident.request.service
        self.checkpoint: Checkpoint | None = None
        self.rungs_left = 0
        self.loading = False
        self.thread: int | None = None
        self.job: Future[Restored] | None = None
        self.timer: Timer | None = None

    @property
    def run_id(self) -> str:
        """The corrupted run."""
        return self.incident.request.run_id

    @property
    def is_current(self) -> bool:
        """Whether its result is still wanted."""
        return self.incident.current is self and not self.incident.settled
