"""Counts the requests of a run's training clients, and keeps the steps that the loop states."""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple

from ..runs.checkpoints import Cursor
from ..runs.effects import Effect
from ..runtime import forks
from ..types import Checkpoint
from .steps import Mark, Steps


class Place(NamedTuple):
    """A state of a run for which it is known where the loop stands.

    `checkpoint` holds that state, `None` at the beginning of the first run; `cursor` is what the
    loop stated, `None` where it stated nothing.
    """

    checkpoint: Checkpoint | None = None
    cursor: Cursor | None = None

    @property
    def path(self) -> str | None:
        """The checkpoint's path."""
        return None if self.checkpoint is None else self.checkpoint.tinker_path

    def is_same(self, other: Place) -> bool:
        """Whether both are of one checkpoint, with one cursor."""
        return (self.path, self.cursor) == (other.path, other.cursor)


class Ledger:
    """The submissions through a training client since the newest place that is known.

    A request counts as submitted from the moment before it is handed to the client: whether the
    server got it cannot be known.

    Threads: every method is safe from any thread.
    """

    def __init__(self, before: Ledger | None = None) -> None:
        forks.register(self)
        self._lock = threading.Lock()
        # Guarded by _lock, before that of `steps`: the newest place (`None` after a load) and where
        # it lies in the order of submissions; whether it is of the run before, which had loaded
        # another state since; the present position, and what it was before the last request, with
        # the step that was updated; by path the saves without a cursor, the places with their
        # marks, the futures of saves and how many there were; the position of the first request
        # that failed; whether the run was saved as it was restored; the segment that is open.
        self._place: Place | None = None
        self._place_mark = Mark(run_id="")
        self._now = Mark(run_id="")
        self._saves: dict[str | None, Mark] = {}
        self._places: dict[str | None, Place] = {}
        self._pending: dict[str, Any] = {}
        self._serials: dict[str, int] = {}
        self._marks: dict[str, Mark] = {}
        self._lost_at: int | None = None
        # Weak: one that is gone without having been left is not open.
        self._segment: weakref.ref[object] | None = None
        self._before: tuple[Mark, int | None] = (self._now, None)
        self._is_adopted = False
        self._is_before_load = before is not None and before.is_loaded()
        #: The steps of the segments.
        self.steps: Steps = Steps(None if before is None else before.steps.reached())

    def after_fork(self) -> None:
        """Let a forked child leave a segment."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()
        self.steps.after_fork()

    def follow(self, run_id: str, place: Place) -> None:
        """Begin with a run that is at `place`; without effect the second time.

        Before, it may have begun with a run that is not there yet, whose id is empty.
        """
        with self._lock:
            if not self._now.run_id:
                self._place, self._now = place, Mark(run_id=run_id)
                self._place_mark = self._now
                self.steps.follow(self._now)

    def has_run(self) -> bool:
        """Whether it has begun with a run that is there."""
        with self._lock:
            return bool(self._now.run_id)

    # Submissions and saves

    def submit(self, run_id: str, effect: Effect) -> Mark:
        """A request that changes the run's state is about to be submitted; return its position."""
        with self._lock:
            now = self._now
            if now.run_id != run_id:
                return now
            self._before = now, self.steps.updated()
            is_gradient = effect is Effect.GRADIENT
            if is_gradient and not now.has_gradient:
                self.steps.begin_gradient()
            updates = now.updates if is_gradient else now.updates + 1
            self._now = now = Mark(run_id, now.submissions + 1, updates, is_gradient)
            if effect is Effect.UPDATE:
                self.steps.update()
            elif effect is Effect.LOAD:
                self._place, self._place_mark = None, now
                self.steps.load()
            return now

    def take_back(self) -> None:
        """The last request was none: its arguments did not fit. The caller submits no other."""
        with self._lock:
            self._now, updated = self._before
            self.steps.take_back(updated)

    def save_begins(self, path: str) -> int:
        """A checkpoint is being saved under a path: what was known of the path is over.

        Returns the number of this save among all under the path.
        """
        with self._lock:
            self._places.pop(path, None)
            self._saves.pop(path, None)
            self._serials[path] = number = self._serials.get(path, 0) + 1
            return number

    def is_last_save(self, path: str, number: int) -> bool:
        """Whether no save under the path was begun since the one of this number."""
        with self._lock:
            return self._serials.get(path, number) == number

    def adopt(self) -> bool:
        """Whether the run is still to be saved as it was restored; it counts as done then."""
        with self._lock:
            is_due = not self._is_adopted and not self._now.submissions
            self._is_adopted = True
            return is_due

    def mark(self) -> Mark:
        """The present position."""
        with self._lock:
            return self._now

    def saved(self, mark: Mark, path: str) -> None:
        """A checkpoint without a cursor was saved at `mark`."""
        with self._lock:
            self._saves[path] = mark

    def withdraw(self, position: int) -> list[str]:
        """The request at a position failed: what was saved after it has no cursor any more."""
        with self._lock:
            self._lost_at = position if self._lost_at is None else min(position, self._lost_at)
            over = [p for p, mark in self._marks.items() if mark.submissions >= self._lost_at]
            for path in over:
                self._places.pop(path, None)
            return over

    def is_lost(self, mark: Mark) -> bool:
        """Whether a request failed that a save at `mark` should have held."""
        with self._lock:
            return self._lost_at is not None and mark.submissions >= self._lost_at

    def saving(self, path: str, future: Any) -> None:
        """A save under this path was submitted; `future` is its answer."""
        with self._lock:
            self._pending[path] = future

    def pending(self, path: str) -> Any:
        """The future of the last save under this path; `None` where there was none."""
        with self._lock:
            return self._pending.get(path)

    def unanswered(self) -> list[str]:
        """The paths of the saves that are not answered yet."""
        with self._lock:
            return [path for path, raced in self._pending.items() if not raced.future().done()]

    def lacks_gradient(self, mark: Mark, step: int) -> bool:
        """Whether a save at `mark` lacks a gradient that a loop which goes on at `step` needs."""
        return mark.has_gradient and not self.steps.is_made_again(step)

    def place(self, mark: Mark, place: Place) -> None:
        """The loop stated its cursor for the checkpoint that was saved at `mark`."""
        with self._lock:
            is_newer = mark.submissions >= self._place_mark.submissions
            self._places[place.path] = place
            if place.path is not None:
                self._marks[place.path] = mark
                self._pending.pop(place.path, None)
            if mark.run_id == self._now.run_id and is_newer:
                self._place, self._place_mark = place, mark
                self._is_before_load = False

    def places(self) -> tuple[Place, ...]:
        """The places of the live run, in the order in which they were stated."""
        with self._lock:
            return tuple(self._places.values())

    def saves(self) -> list[tuple[str | None, Mark]]:
        """The checkpoints of the live run that were saved in this process, in any order."""
        with self._lock:
            return [*self._saves.items(), *self._marks.items()]

    def place_of(self, path: str) -> Place | None:
        """What is known of a checkpoint of the live run that was saved in this process."""
        with self._lock:
            place = self._places.get(path)
            return Place() if place is None and path in self._saves else place

    def recorded(self, place: Place, run_id: str) -> None:
        """The loop stated its cursor for a checkpoint of `run_id` that it saved by other means.

        Where that save was not seen, it is of the present state only if nothing was submitted yet.
        """
        path = place.path
        with self._lock:
            mark = self._saves.get(path)
            if self._place is not None and self._place.path == path:
                mark = self._place_mark
            elif mark is None and run_id == self._now.run_id and not self._now.submissions:
                mark = self._now
        if mark is not None and not self.is_lost(mark):
            self.place(mark, place)

    def is_behind_lost(self, path: str) -> bool:
        """Whether a request failed that the last save under a path should have held."""
        with self._lock:
            mark = self._saves.get(path, self._now)
        return self.is_lost(mark)

    def update_refused(self, mark: Mark) -> None:
        """The server refused an update: the gradient is still there, unless another took it."""
        with self._lock:
            if (mark.run_id, mark.updates) == (self._now.run_id, self._now.updates):
                self._now = self._now._replace(has_gradient=True)
                self.steps.begin_gradient(is_known=False)

    # Where the loop stands

    def where(self) -> Place | None:
        """The place that the live run is at; `None` where something was submitted since."""
        with self._lock:
            return self._place if self._is_at_place_locked() else None

    def has_changed(self) -> bool:
        """Whether anything was submitted to the live run that changes its state."""
        with self._lock:
            return self._now.submissions > 0

    def is_loaded(self) -> bool:
        """Whether another state was loaded since the last place."""
        with self._lock:
            return self._place is None or self._is_before_load

    def _is_at_place_locked(self) -> bool:
        is_there = self._place_mark.submissions == self._now.submissions
        return is_there and self._place is not None and not self._place_mark.has_gradient

    # The open segment

    def enter(self, segment: object) -> None:
        """Open a segment; `RuntimeError` where another one is open."""
        with self._lock:
            self._check_free_locked()
            self._segment = weakref.ref(segment)
            self.steps.enter(self._now)

    def check_free(self) -> None:
        """Raise a `RuntimeError` where a segment is open."""
        with self._lock:
            self._check_free_locked()

    def _check_free_locked(self) -> None:
        if self._open_locked() is not None:
            raise RuntimeError(
                "a segment of this run is open in another loop of this process; two loops would "
                "train every step twice"
            )

    def leave(self, segment: object) -> None:
        """Close a segment."""
        with self._lock:
            if self._open_locked() is segment:
                self._segment = None

    def is_open(self) -> bool:
        """Whether a segment is open."""
        with self._lock:
            return self._open_locked() is not None

    def _open_locked(self) -> object | None:
        return None if self._segment is None else self._segment()


#: How many ledgers are kept by server and run.
KEPT_BY_RUN = 4096


class _Ledgers:
    """The ledgers of this process; a forked child begins without any."""

    def __init__(self) -> None:
        forks.register(self)
        self.after_fork()

    def after_fork(self) -> None:
        self.lock = threading.Lock()
        # Guarded by lock: the ledger of each training client, as long as the client lives; those of
        # clients to which there can be no weak reference; and the newest by server and run, since a
        # caller may wrap a client anew for each loop.
        self.of_clients: weakref.WeakKeyDictionary[Any, Ledger] = weakref.WeakKeyDictionary()
        self.kept: dict[int, tuple[Any, Ledger]] = {}
        self.by_run: dict[tuple[str, str], Ledger] = {}


_ledgers = _Ledgers()


def ledger_of(
    client: Any, before: Ledger | None = None, server: str | None = None, run_id: str = ""
) -> Ledger:
    """The ledger of a client, for all monitors of this process; `before`: of the run before.

    Where that run was never there in this process, its ledger goes on as that of the client. Where
    the `server` is known, it is that of the run too.
    """
    new = before if before is not None and not before.has_run() else Ledger(before)
    with _ledgers.lock:
        by_run = _ledgers.by_run
        made = by_run.pop((server, run_id), None) if server is not None else None
        made = new if made is None else made
        try:
            ledger = _ledgers.of_clients.setdefault(client, made)
        except TypeError:
            ledger = _ledgers.kept.setdefault(id(client), (client, made))[1]
        if server is not None:
            by_run[server, run_id] = ledger
            if len(by_run) > KEPT_BY_RUN:
                del by_run[next(iter(by_run))]
        return ledger
