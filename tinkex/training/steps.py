"""Which steps a training loop was handed out, and what was submitted within them."""

from __future__ import annotations

import threading
from typing import NamedTuple


class Mark(NamedTuple):
    """A position in a run's submissions: how many, how many updates, whether a gradient is left."""

    run_id: str
    submissions: int = 0
    updates: int = 0
    has_gradient: bool = False


class Steps:
    """The steps of a run's segments.

    Threads: every method is safe from any thread.
    """

    def __init__(self, ended_at: int | None) -> None:
        #: The next step when the run before ended, where it is known.
        self.ended_at = ended_at
        self._lock = threading.Lock()
        # Guarded by _lock: the step handed out last, the position then, the last step that was
        # passed, and the last within which an update was submitted, unless steps are handed out
        # ahead (`_is_judged`); the next step as a save stated it, and when the last segment was
        # left; the position when the segment was entered, and whether it was told that nothing
        # was submitted since; the step of the oldest gradient that no update followed.
        self._handed: int | None = None
        self._handed_at = Mark(run_id="")
        self._passed: int | None = None
        self._updated: int | None = None
        self._is_judged = True
        self._stated = 0
        self._reached: int | None = None
        self._entered_at = Mark(run_id="")
        self._is_told = False
        self._gradient_of: int | None = None

    def after_fork(self) -> None:
        """Let a forked child go on."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()

    def follow(self, now: Mark) -> None:
        """The run is there to which nothing was submitted yet."""
        with self._lock:
            self._handed_at = self._entered_at = now

    def enter(self, now: Mark) -> None:
        """A segment is entered."""
        with self._lock:
            self._handed = self._updated = self._passed = None
            self._is_judged, self._stated, self._entered_at = True, 0, now
            self._is_told = False

    def hand_out(self, step: int, now: Mark, *, are_waiting: bool) -> None:
        """The loop is given a step; `are_waiting`: of those before, requests are not sent yet."""
        with self._lock:
            is_ahead = self._handed is not None and (self._handed_at == now or are_waiting)
            self._is_judged = self._is_judged and not is_ahead
            self._handed, self._handed_at = step, now

    def pass_step(self, step: int) -> None:
        """The loop asked for what follows a step."""
        with self._lock:
            self._passed = step

    def begin_gradient(self, *, is_known: bool = True) -> None:
        """A gradient is left, the first since an update; whether its step is known."""
        with self._lock:
            self._gradient_of = self._handed if self._is_judged and is_known else None

    def is_made_again(self, step: int) -> bool:
        """Whether a loop that goes on at `step` makes the gradient again that is left."""
        with self._lock:
            return self._gradient_of is not None and step <= self._gradient_of

    def updated(self) -> int | None:
        """The last step within which an update was submitted."""
        with self._lock:
            return self._updated

    def update(self) -> None:
        """An update is submitted."""
        with self._lock:
            self._updated = self._handed

    def load(self) -> None:
        """Another state is loaded: the next step may be one that was trained."""
        with self._lock:
            self._updated = None

    def take_back(self, updated: int | None) -> None:
        """The last update was none; `updated` is what there was before."""
        with self._lock:
            self._updated = updated

    def next_step(self, first: int, now: Mark, *, are_waiting: bool) -> int:
        """The step to hand out next; one that was left by `break` before anything, once more.

        Raises `RuntimeError` where one was left in its middle.
        """
        with self._lock:
            if self._handed is None:
                return first
            if self._passed == self._handed:
                return self._handed + 1
            if self._handed_at == now and not are_waiting:
                return self._handed
            if now.updates > self._handed_at.updates and not now.has_gradient:
                return self._handed + 1
            raise RuntimeError(
                f"steps() was left within step {self._handed}, after requests and before an "
                "optim_step: which step is next is not known; leave the `with segment:` block, so "
                "that the run goes back to its last save"
            )

    def are_without_requests(self, now: Mark) -> bool:
        """Whether steps were passed in this segment and nothing submitted in it; told once."""
        with self._lock:
            are = self._passed is not None and self._entered_at == now and not self._is_told
            self._is_told = self._is_told or are
            return are

    def check(self, step: int) -> None:
        """Raise a `ValueError` where `step` was trained, so that it cannot be the next one."""
        with self._lock:
            if self._is_judged and self._updated is not None and step <= self._updated:
                raise ValueError(
                    f"step={step} cannot be the next step: an optim_step was submitted after step "
                    f"{self._updated} was begun; give step={self._updated + 1}"
                )
            self._stated = step

    def note_reached(self, *, failed: bool) -> None:
        """Note how far the loop is; `failed`: its last step did, and the server is why."""
        with self._lock:
            if self._handed is not None and self._is_judged:
                reached = self._handed + (self._updated == self._handed and not failed)
                self._reached = max(reached, self._stated)

    def reached(self) -> int | None:
        """The next step when the last segment was left, or when the run before ended."""
        with self._lock:
            return self.ended_at if self._reached is None else self._reached
