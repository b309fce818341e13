"""What was submitted through a run's training clients, and where the loop said that it stands."""

from __future__ import annotations

import threading
import weakref
from enum import StrEnum
from typing import Any, NamedTuple

from ..types import Checkpoint
from .checkpoints import Cursor


class Effect(StrEnum):
    """What a request does to the state of its training client.

    `GRADIENT` adds to the gradient, `UPDATE` applies it, `LOAD` replaces the whole state, `SAVE`
    saves that as a training checkpoint, `NONE` leaves it as it is.
    """

    GRADIENT = "gradient"
    UPDATE = "update"
    LOAD = "load"
    SAVE = "save"
    NONE = "none"

    @property
    def is_change(self) -> bool:
        """Whether the state is another one afterwards."""
        return self in (Effect.GRADIENT, Effect.UPDATE, Effect.LOAD)


#: The effect of a training client's method, by the beginning of its name; the first that fits.
_BY_PREFIX = {
    "forward_backward": Effect.GRADIENT,
    "optim_step": Effect.UPDATE,
    "load_state": Effect.LOAD,
    "save_state": Effect.SAVE,
    **dict.fromkeys(("forward", "save_weights", "sample", "compute_logprobs"), Effect.NONE),
}


def effect_of(method: str) -> Effect:
    """The effect of a training client's method, by its name; one that is not known may do all."""
    known = (effect for prefix, effect in _BY_PREFIX.items() if method.startswith(prefix))
    return next(known, Effect.GRADIENT)


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


class Mark(NamedTuple):
    """A position in a run's submissions: how many, how many updates, whether a gradient is left."""

    run_id: str
    submissions: int = 0
    updates: int = 0
    has_gradient: bool = False


class Ledger:
    """The submissions through a training client since the newest place that is known.

    A request counts as submitted from the moment before it is handed to the client: whether the
    server got it cannot be known.

    Threads: every method is safe from any thread.
    """

    def __init__(self, before: Ledger | None = None) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock: the newest place (`None` after a load) and where it lies in the order
        # of submissions; the present position, and what it was before the last request; by path
        # the saves without a cursor, the places with their marks, and the futures of saves; the
        # position of the first request that failed; the segment that is open; the step handed out
        # last, the position then, the last step that was passed, and the last within which an
        # update was submitted, unless steps are handed out ahead (`_is_judged`); the next step as
        # a save stated it, when the last segment was left, and when the run before ended.
        self._place: Place | None = None
        self._place_mark = Mark(run_id="")
        self._now = Mark(run_id="")
        self._saves: dict[str | None, Mark] = {}
        self._places: dict[str | None, Place] = {}
        self._pending: dict[str, Any] = {}
        self._marks: dict[str, Mark] = {}
        self._lost_at: int | None = None
        # Weak: one that is gone without having been left is not open.
        self._segment: weakref.ref[object] | None = None
        self._handed: int | None = None
        self._handed_at = 0
        self._updated: int | None = None
        self._before: tuple[Mark, int | None] = (self._now, None)
        self._is_judged = True
        self._stated = 0
        self._reached: int | None = None
        self._ended_at = None if before is None else before.reached()
        self._passed: int | None = None

    def follow(self, run_id: str, place: Place) -> None:
        """Begin with a run that is at `place`; without effect the second time."""
        with self._lock:
            if not self._now.run_id:
                self._place, self._now = place, Mark(run_id=run_id)
                self._place_mark = self._now

    # Submissions and saves

    def submit(self, run_id: str, effect: Effect) -> Mark:
        """A request that changes the run's state is about to be submitted; return its position."""
        with self._lock:
            now = self._now
            if now.run_id != run_id:
                return now
            self._before = now, self._updated
            is_gradient = effect is Effect.GRADIENT
            updates = now.updates if is_gradient else now.updates + 1
            self._now = now = Mark(run_id, now.submissions + 1, updates, is_gradient)
            if effect is Effect.UPDATE:
                self._updated = self._handed
            elif effect is Effect.LOAD:
                self._place, self._place_mark = None, now
            return now

    def take_back(self) -> None:
        """The last request was none: its arguments did not fit. The caller submits no other."""
        with self._lock:
            self._now, self._updated = self._before

    def save_begins(self, path: str) -> None:
        """A checkpoint is being saved under a path: what was known of the path is over."""
        with self._lock:
            self._places.pop(path, None)
            self._saves.pop(path, None)

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
            return [*self._pending]

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
        if mark is not None:
            self.place(mark, place)

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
            return self._place is None

    def _is_at_place_locked(self) -> bool:
        is_there = self._place_mark.submissions == self._now.submissions
        return is_there and self._place is not None and not self._place_mark.has_gradient

    # Segments and their steps

    def enter(self, segment: object) -> None:
        """Open a segment; `RuntimeError` where another one is open."""
        with self._lock:
            self._check_free_locked()
            self._segment = weakref.ref(segment)
            self._handed = self._updated = self._passed = None
            self._is_judged, self._stated = True, 0

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

    def note_reached(self, *, failed: bool) -> None:
        """Note how far the loop is; `failed`: its last step did, and the server is why."""
        with self._lock:
            if self._handed is not None and self._is_judged:
                reached = self._handed + (self._updated == self._handed and not failed)
                self._reached = max(reached, self._stated)

    def hand_out(self, step: int) -> None:
        """The loop is given a step."""
        with self._lock:
            is_ahead = self._handed is not None and self._handed_at == self._now.submissions
            self._is_judged = self._is_judged and not is_ahead
            self._handed, self._handed_at = step, self._now.submissions

    def pass_step(self, step: int) -> None:
        """The loop asked for what follows a step."""
        with self._lock:
            self._passed = step

    def next_step(self, first: int) -> int:
        """The step to hand out next; one that was left by `break` before anything, once more."""
        with self._lock:
            if self._handed is None:
                return first
            is_done = self._passed == self._handed or self._handed_at != self._now.submissions
            return self._handed + is_done

    def reached(self) -> int | None:
        """The next step when the last segment was left, or when the run before ended."""
        with self._lock:
            return self._ended_at if self._reached is None else self._reached

    def check_step(self, step: int) -> None:
        """Raise a `ValueError` where `step` was trained, so that it cannot be the next one."""
        with self._lock:
            if self._is_judged and self._updated is not None and step <= self._updated:
                raise ValueError(
                    f"step={step} cannot be the next step: an optim_step was submitted after step "
                    f"{self._updated} was begun; give step={self._updated + 1}"
                )
            self._stated = step

    def ended_at(self) -> int | None:
        """The next step of the loop when the run before the live one ended, where known."""
        with self._lock:
            return self._ended_at


_lock = threading.Lock()
# Guarded by _lock: the ledger of each training client of this process, as long as the client
# lives; and those of clients to which there can be no weak reference.
_ledgers: weakref.WeakKeyDictionary[Any, Ledger] = weakref.WeakKeyDictionary()
_kept: dict[int, tuple[Any, Ledger]] = {}


def ledger_of(client: Any, before: Ledger | None = None) -> Ledger:
    """The ledger of a client, for all monitors of this process; `before`: of the run before."""
    with _lock:
        try:
            return _ledgers.setdefault(client, Ledger(before))
        except TypeError:
            return _kept.setdefault(id(client), (client, Ledger(before)))[1]
