"""`Segment` and `Segments`: a training loop's steps between two recoveries."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

from ..arguments import checked_whole
from ..errors import ResumePointUnknownError
from ..runs.changes import LoopBegan
from ..runs.effects import Effect
from ..types import Checkpoint
from .client import SegmentClient
from .futures import RacedFuture, on_loop
from .ledger import Ledger, Place
from .loop import Loop, Outlook, ResumePoint
from .requests import Requests, Sent, came_from_superseded, is_all
from .saving import Saving, checked_cursor

logger = logging.getLogger(__name__)


class Segment:
    """The stretch of a training loop between two recoveries; a context manager, `async` too.

    An error of the server that leaves the `with` block begins a recovery and is kept in the
    incident; every other exception leaves it unchanged.

    Threads: use it from one thread.
    """

    def __init__(
        self,
        run: Loop,
        outlook: Outlook,
        ledger: Ledger,
        *,
        start_step: int,
        data: Any,
        max_wait: float,
    ) -> None:
        self._run = run
        self._outlook = outlook
        self._ledger = ledger
        self._steps = ledger.steps
        self._max_wait = max_wait
        self._place = ledger.where()
        self._requests = Requests(run, outlook.run_id, ledger)
        self._client = SegmentClient(outlook.client, self._requests)
        #: The first step of this segment.
        self.start_step = start_step
        #: What was recorded with the cursor that `start_step` belongs to; `None` at the beginning.
        self.data = data
        #: What the segment goes on from; `None` where the run was not recovered before it.
        self.resume: ResumePoint | None = None
        self.entered = False
        self.finished = False
        #: Whether the loop has to go on with a next segment.
        self.is_lost = False
        #: Whether that cannot be asked for: its iterator is gone.
        self.is_last = False

    @property
    def client(self) -> Any:
        """The training client of this segment.

        It is used like the SDK's own. Its requests, and their futures, raise
        `SegmentSupersededError` once the run is known to be corrupted or replaced.
        """
        return self._client

    def steps(self, total: int) -> Iterator[int]:
        """Go through the steps up to `total - 1`.

        `total` counts all steps of the training, so over several epochs too; called again
        within a segment, it goes on where it was.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
        """
        checked_whole("total", total)
        for step in range(self._steps.next_step(self.start_step, self._ledger.mark()), total):
            self._requests.check()
            self._steps.hand_out(step, self._ledger.mark())
            yield step
            self._steps.pass_step(step)

    def result(self, future: Any, timeout: float | None = None) -> Any:
        """Wait for a future of another origin as one of `client` is waited for.

        Args:
            future: Something with `result()`; anything else is returned as it is.
            timeout: Seconds; `None`: no bound.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
            TimeoutError: It took longer than `timeout`.
            Exception: What the future raises.
        """
        self._requests.check()
        if type(future) is not RacedFuture:
            future = self._requests.wrap(future, Sent(Effect.NONE, is_foreign=True))
        return future.result(timeout) if type(future) is RacedFuture else future

    def save_state(self, name: str, *, step: int, data: Any = None, **options: Any) -> Checkpoint:
        """Save through the client, wait, and record where the loop stands.

        Where the server fails, it is tried again as often as the policy's `max_attempts` says.

        Args:
            name: The checkpoint's name.
            step: The next step that was not yet submitted: what is saved holds every request
                that was submitted before this call.
            data: Any JSON value, for the position in the data.
            **options: Passed on to the client's `save_state`.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
            ValueError: An `optim_step` was submitted within that step already.
            Exception: What the client raises.
        """
        self._requests.check_begun()
        return self._saving(name, step, data, options).wait()

    def save_state_async(
        self, name: str, *, step: int, data: Any = None, **options: Any
    ) -> Awaitable[Checkpoint]:
        """Save as `save_state` does, on an event loop: submitted at the call, then awaited.

        Behind coroutines of `client` that were made before and are not begun yet it is submitted
        when it is begun itself, with nothing else in between.

        Raises:
            RuntimeError: More was submitted in between.
        """
        saving = self._saving(name, step, data, options)
        if not (ahead := self._requests.not_begun()):
            saving.begin()
        return self._awaited(saving, ahead)

    async def _awaited(self, saving: Saving, ahead: int) -> Checkpoint:
        if ahead:
            saving.begin_behind(ahead)
        checkpoint: Checkpoint = await on_loop(self._run.races.call(saving.wait))
        return checkpoint

    def _saving(self, name: str, step: int, data: Any, options: dict[str, Any]) -> Saving:
        cursor = checked_cursor(step, data)
        self._requests.check()
        self._steps.check(step)
        self._requests.warn_of_others()
        about = self._run, self._outlook, self._ledger, self._requests
        return Saving(*about, name=name, cursor=cursor, options=options)

    def __enter__(self) -> Segment:
        if self.entered:
            raise RuntimeError("a segment is entered once; the next one comes from the `for`")
        self._requests.check_home()
        if self._ledger.where() != self._place:
            raise RuntimeError("the run was trained since this segment was made; take a new one")
        try:
            self._ledger.enter(self)
            self.entered, self.is_lost = True, False
            if self._run.outages is not None:
                watched = self._run.outages.watch(
                    self._run.record, self._outlook.run_id, self._outlook.client, self._ledger
                )
                self._requests.watch(watched, self._max_wait)
        except BaseException:  # an interrupt: no `with` leaves what was not entered
            self._ledger.leave(self)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._ledger.leave(self)
        superseded = self._run.is_superseded(self._outlook.run_id)
        spoiled, is_servers = self._requests.spoiled, self._requests.is_servers
        self._requests.is_closed = True
        self._requests.warn_of_others()
        failed = superseded or spoiled is not None or (error is not None and is_servers(error))
        self._steps.note_reached(failed=failed)
        if error is None:
            self._end(superseded=superseded)
            return False
        if not isinstance(error, Exception):
            return False
        if superseded or spoiled is not None:
            if not is_all(error, lambda each: came_from_superseded(each) or is_servers(each)):
                return False
            self.is_lost = superseded or self._report(spoiled or error)
        elif is_all(error, is_servers):
            self.is_lost = self._report(error)
        if self.is_lost and self.is_last:
            self.tell_lost()
        return self.is_lost

    async def __aenter__(self) -> Segment:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        # A second cancellation must not keep it from its end.
        ended = self._run.races.call(partial(self.__exit__, kind, error, traceback))
        import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

        return bool(await asyncio.shield(on_loop(ended)))

    def _end(self, *, superseded: bool) -> None:
        """The block ended without an exception."""
        spoiled = self._requests.spoiled
        if spoiled is not None and not superseded:
            # The loop passed over an error of the server.
            superseded = self._report(spoiled)
            if not superseded:
                raise spoiled
        if self._requests.passed_over is not None and not superseded:
            raise self._requests.passed_over
        # What a corrupted run was trained last is in no checkpoint: not finished then.
        self.finished = not superseded
        self.is_lost = superseded
        if self.finished and self._ledger.where() is None:
            logger.warning(
                "run %s: the training ended with requests that no checkpoint holds; "
                "save at the end with segment.save_state(name, step=...)",
                self._outlook.run_id,
            )

    def tell_lost(self) -> None:
        """The next segment is never asked for."""
        logger.error(
            "run %s: the training loop was left while its run is corrupted or replaced; what it "
            "was trained last is in no checkpoint: go on with segments()",
            self._outlook.run_id,
        )

    def _report(self, error: BaseException) -> bool:
        """Have the run looked at; true where the loop goes on with a next segment."""
        return self._run.report(self._outlook.run_id, error, self._requests.effects_of(error))


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
            outlook = self._run.outlook(self._max_wait)
            self._ledger = ledger = self._run.ledger(self._ledger)
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
        about = self._run, outlook, ledger
        segment = Segment(*about, start_step=step, data=data, max_wait=self._max_wait)
        if outlook.source is not None and place.checkpoint is not None:
            ended_at = ledger.steps.ended_at if place.checkpoint is outlook.source else step
            segment.resume = ResumePoint(
                checkpoint=place.checkpoint,
                step=step,
                data=data,
                steps_lost=None if ended_at is None else max(0, ended_at - step),
                optimizer_restored=outlook.with_optimizer,
            )
        return segment
