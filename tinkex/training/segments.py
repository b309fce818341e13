"""`Segments`: goes from one segment of a training loop to the next."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable

from ..arguments import checked_whole
from ..display.progress import show_line
from ..display.words import short_id
from ..errors import ResumePointUnknownError
from ..runs.changes import LoopBegan
from ..runtime.undisturbed import undisturbed
from ..types import Checkpoint
from .ledger import Ledger, Place
from .loop import Loop
from .outlook import Outlook, ResumePoint
from .segment import Segment
from .submitting.event_loops import on_loop


class Segments:
    """The iterator that `MonitoredRun.segments` returns; `async for` works too."""

    def __init__(
        self,
        run: Loop,
        start_step: int,
        resume_step: int | Callable[[Checkpoint], int] | None,
        max_wait: float,
    ) -> None:
        self._run = run
        self._current: Segment | None = None
        self._ledger: Ledger | None = None
        self._start_step = checked_whole("start_step", start_step)
        if resume_step is not None and not callable(resume_step):
            checked_whole("resume_step", resume_step)
        if isinstance(max_wait, bool) or not isinstance(max_wait, int | float):
            raise TypeError(f"max_wait must be a number of seconds, not {max_wait!r}")
        if not max_wait >= 0:
            raise ValueError(f"max_wait must be 0 or more seconds, not {max_wait}")
        self._resume_step = resume_step
        self._max_wait = max_wait
        run.note(LoopBegan(has_resume_step=resume_step is not None))

    def __iter__(self) -> Segments:
        return self

    def __next__(self) -> Segment:
        following = self._next()
        if following is None:
            raise StopIteration
        return following

    def __aiter__(self) -> AsyncIterator[Segment]:
        return self

    async def __anext__(self) -> Segment:
        following: Segment | None = await on_loop(self._run.races.call(self._next))
        if following is None:
            raise StopAsyncIteration
        return following

    def __del__(self) -> None:
        current = self.__dict__.get("_current")
        if current is not None:
            current.is_last = True
            if current.is_lost:
                current.tell_lost()

    def _next(self) -> Segment | None:
        before, self._current = self._current, None
        if before is not None and before.finished:
            return None
        if before is not None and not before.entered:
            raise RuntimeError("the segment before was not entered; use `with segment:`")
        self._current = self._begin()
        self._current.is_lost = before is not None and before.is_lost
        return self._current

    def _begin(self) -> Segment:
        """Begin where the run is, or at a checkpoint if it is further than the loop said."""
        while True:
            outlook = self._run.planned() or self._run.outlook(self._max_wait)
            is_there = outlook.client is not None
            found = (
                self._run.ledger(self._ledger) if is_there else self._run.ledger_of_planned(outlook)
            )
            self._ledger = ledger = found
            ledger.check_free()
            # A state that was loaded and not saved since is lost with the run it was loaded into.
            if ledger.is_loaded():
                raise ResumePointUnknownError(outlook.run_id, None, is_loaded=True)
            place = ledger.where()
            if place is not None:
                return self._segment(outlook, ledger, place)
            self._run.interrupt(outlook.run_id)

    def _segment(self, outlook: Outlook, ledger: Ledger, place: Place) -> Segment:
        data = None
        if place.cursor is not None:
            step, data = place.cursor.step, copy.deepcopy(place.cursor.data)
        elif place.checkpoint is None:
            step = self._start_step
        elif callable(self._resume_step):
            step = checked_whole("resume_step", self._resume_step(place.checkpoint))
        elif self._resume_step is not None:
            step = self._resume_step
        else:
            raise ResumePointUnknownError(outlook.run_id, place.path)
        resume = None
        if outlook.source is not None and place.checkpoint is not None:
            ended_at = ledger.steps.ended_at if place.checkpoint is outlook.source else step
            resume = ResumePoint(
                checkpoint=place.checkpoint,
                step=step,
                data=data,
                steps_lost=None if ended_at is None else max(0, ended_at - step),
                optimizer_restored=outlook.with_optimizer,
            )
            words = f"run {short_id(outlook.run_id)}: its loop goes on at {resume}"
            show_line(words, undisturbed)
        about = self._run, outlook, ledger
        return Segment(*about, start_step=step, data=data, resume=resume, max_wait=self._max_wait)
