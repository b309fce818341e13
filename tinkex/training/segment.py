"""`Segment`: a training loop's steps between two recoveries."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from ..arguments import checked_whole
from ..runs.checkpoints import Cursor
from ..runs.effects import Effect
from ..types import Checkpoint
from .ledger import Ledger
from .loop import Loop
from .outlook import Outlook, ResumePoint
from .saving import Saving, checked_cursor
from .submitting.event_loops import on_loop
from .submitting.first_use import FirstUse
from .submitting.futures import RacedFuture
from .submitting.requests import Sent, came_from_superseded, is_all

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
        resume: ResumePoint | None,
        max_wait: float,
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._steps = ledger.steps
        self._first = FirstUse(run, outlook, ledger, max_wait)
        self._requests = self._first.requests
        #: The first step of this segment.
        self.start_step = start_step
        #: What was recorded with the cursor that `start_step` belongs to; `None` at the beginning.
        self.data = data
        self._resume = resume
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
        `SegmentSupersededError` once the run is known to be corrupted or replaced. A run that
        another process left is restored when it is used first.
        """
        return self._first.client

    @property
    def resume(self) -> ResumePoint | None:
        """What the segment goes on from; `None` where the run was not recovered before it."""
        with_optimizer = self._first.outlook.with_optimizer
        return self._resume and replace(self._resume, optimizer_restored=with_optimizer)

    def steps(self, total: int) -> Iterator[int]:
        """Go through the steps up to `total - 1`.

        `total` counts all steps of the training, so over several epochs too; called again
        within a segment, it goes on where it was.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
        """
        checked_whole("total", total)
        steps, ledger, has_calls = self._steps, self._ledger, self._first.has_calls
        first = steps.next_step(self.start_step, ledger.mark(), are_waiting=has_calls())
        for step in range(first, total):
            self._requests.check()
            steps.hand_out(step, ledger.mark(), are_waiting=has_calls())
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
        self._first.wait()
        if type(future) is not RacedFuture:
            self._requests.check()
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
        about = name, checked_cursor(step, data), options
        self._first.wait()
        return self._run.saved(lambda: self._saving(*about).wait())

    def save_state_async(
        self, name: str, *, step: int, data: Any = None, **options: Any
    ) -> Awaitable[Checkpoint]:
        """Save as `save_state` does, on an event loop: submitted at the call, then awaited.

        Behind coroutines of `client` that were made before and are not begun yet it is submitted
        when it is begun itself, with nothing else in between.

        Raises:
            RuntimeError: More was submitted in between.
        """
        about = name, checked_cursor(step, data), options
        ahead = self._requests.not_begun()
        behind = self._first.asked() + ahead if ahead else None
        if self._first.keeps_calls():
            begin = partial(self._begun, *about, behind)
            return self._kept(begin, None if ahead else self._first.keep(begin))
        self._first.wait()
        saving = self._saving(*about)
        if behind is None:
            saving.begin()
        return self._awaited(saving, behind)

    async def _awaited(self, saving: Saving, behind: int | None) -> Checkpoint:
        if behind is not None:
            saving.begin_behind(behind)
        checkpoint: Checkpoint = await on_loop(self._run.races.call(saving.end))
        return checkpoint

    async def _kept(self, begin: Callable[[], Saving], kept: Future[Saving] | None) -> Checkpoint:
        if kept is None and self._first.is_due():
            kept = self._first.keep(begin)
        return await self._awaited(begin() if kept is None else await on_loop(kept), None)

    def _begun(
        self, name: str, cursor: Cursor, options: dict[str, Any], behind: int | None
    ) -> Saving:
        saving = self._saving(name, cursor, options)
        if behind is None:
            saving.begin()
        else:
            saving.begin_behind(behind)
        return saving

    def _saving(self, name: str, cursor: Cursor, options: dict[str, Any]) -> Saving:
        self._requests.check()
        self._steps.check(cursor.step)
        self._requests.warn_of_others()
        about = self._run, self._first.outlook, self._ledger, self._requests
        return Saving(*about, name=name, cursor=cursor, options=options)

    def __enter__(self) -> Segment:
        if self.entered:
            raise RuntimeError("a segment is entered once; the next one comes from the `for`")
        self._requests.check_home()
        if self._ledger.where() != self._first.place:
            raise RuntimeError("the run was trained since this segment was made; take a new one")
        try:
            self._ledger.enter(self)
            self.entered, self.is_lost = True, False
            self._first.watch()
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
        superseded, is_left = self._requests.is_superseded(), self._requests.is_left
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
        elif not is_left and is_all(error, is_servers):
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
        if self.finished and (self._ledger.where() is None or self._first.has_calls()):
            logger.warning(
                "run %s: the training ended with requests that no checkpoint holds; "
                "save at the end with segment.save_state(name, step=...)",
                self._requests.run_id,
            )

    def tell_lost(self) -> None:
        """Log that the loop ended although its run is lost: it never asked for the next segment."""
        logger.error(
            "run %s: the training loop was left while its run is corrupted or replaced; what it "
            "was trained last is in no checkpoint: go on with segments()",
            self._requests.run_id,
        )

    def _report(self, error: BaseException) -> bool:
        """Have the run looked at; true where the loop goes on with a next segment."""
        return self._run.report(self._requests.run_id, error, self._requests.effects_of(error))
