"""`Segment` and `Segments`: a training loop's steps between two recoveries."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..arguments import checked_whole
from ..errors import ResumePointUnknownError, SegmentSupersededError, causes
from ..runs.changes import Reached, SaveBegan
from ..runs.checkpoints import Cursor
from ..service import is_sdk_error, saved_path, takes_option
from ..types import Checkpoint
from .loop import Loop, Outlook
from .progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """What a segment goes on from.

    `step` is the next step and `data` what was recorded with it; `steps_lost` says how many
    steps have to be run again (`None`: unknown), `optimizer_restored` whether the optimizer's
    state came back with the weights.
    """

    checkpoint: Checkpoint
    step: int
    data: Any
    steps_lost: int | None
    optimizer_restored: bool


class Segment:
    """The stretch of a training loop between two recoveries; a context manager.

    An error of the server that leaves the `with` block begins a recovery and is kept in the
    incident; every other exception leaves it unchanged.

    Threads: use it from one thread.
    """

    def __init__(
        self, run: Loop, outlook: Outlook, start_step: int, resume: ResumePoint | None
    ) -> None:
        self._run = run
        self._outlook = outlook
        self._progress = Progress(start_step)
        self._from_server: list[BaseException] = []
        #: The first step of this segment.
        self.start_step = start_step
        #: What the segment goes on from; `None` where the run was not recovered before it.
        self.resume = resume
        self.entered = False
        self.finished = False

    @property
    def client(self) -> Any:
        """The one training client of this segment.

        Raises:
            SegmentSupersededError: Its run is known to be corrupted or replaced.
        """
        self._check()
        self._progress.touch()
        return self._outlook.client

    def steps(self, total: int) -> Iterator[int]:
        """Go through the steps up to `total - 1`, and note how far the loop is.

        `total` counts all steps of the training, so over several epochs too; called again
        within a segment, it goes on where it was.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
        """
        checked_whole("total", total)
        self._progress.leave()
        for step in range(self._progress.step, total):
            self._check()
            self._progress.begin(step)
            self._note()
            yield step
            self._progress.complete()
            self._note()

    def result(self, future: Any, timeout: float | None = None) -> Any:
        """Wait for a future, of the official SDK or any other, and return its result.

        The SDK itself retries for minutes or for ever; this gives up as soon as the run is
        known to be corrupted or replaced.

        Args:
            future: Something with `result()`; anything else is returned as it is.
            timeout: Seconds; `None`: no bound.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
            TimeoutError: It took longer than `timeout`.
            Exception: What the future raises.
        """
        self._check()
        try:
            return self._run.result(future, timeout, self._outlook.run_id)
        except SegmentSupersededError:
            raise
        except Exception as error:
            self._from_server.append(error)
            raise

    def save_state(self, name: str, *, step: int, data: Any = None, **options: Any) -> Checkpoint:
        """Save through the client, wait, and record where the loop stands.

        Args:
            name: The checkpoint's name.
            step: The next step that was not yet submitted: what is saved holds every request
                that was submitted before this call.
            data: Any JSON value, for the position in the data.
            **options: Passed on to the client's `save_state`.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
            Exception: What the client raises.
        """
        cursor = checked_cursor(step, data)
        self._check()
        save = self._outlook.client.save_state
        written: Mapping[str, str] | None = None
        if takes_option(save, "user_metadata"):
            written = {**(options.get("user_metadata") or {}), **cursor.to_metadata()}
            options["user_metadata"] = written
        if step > self._progress.step:
            self._progress.submitted(step)
            self._note()
        # The answer may be lost with the run, and the checkpoint be there all the same.
        path = f"tinker://{self._outlook.run_id}/weights/{name}"
        self._run.note(SaveBegan(path=path, cursor=cursor))
        try:
            saved = save(name, **options)
        except Exception as error:
            self._from_server.append(error)
            raise
        return self._run.save(saved_path(self.result(saved)), cursor, written)

    def __enter__(self) -> Segment:
        if self.entered:
            raise RuntimeError("a segment is entered once; the next one comes from the `for`")
        self.entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            # What a corrupted run was trained last is in no checkpoint: not finished then.
            self.finished = not self._is_superseded()
            self._progress.leave()
            self._note()
            return False
        kept = {id(each) for each in self._from_server}
        # Whether it came through this segment's calls.
        is_its_own = any(id(each) in kept for each in causes(error))
        is_from_server = is_its_own or is_sdk_error(error)
        superseded = self._is_superseded()
        self._progress.break_off(failed=is_from_server or superseded)
        self._note()
        if not isinstance(error, Exception):
            return False
        if superseded and _came_from_superseded(error):
            return True
        return is_from_server and self._run.report(
            self._outlook.run_id, error, is_its_own=is_its_own
        )

    def _note(self) -> None:
        step, unfinished = self._progress.step, self._progress.is_uncertain
        self._run.note(Reached(run_id=self._outlook.run_id, step=step, unfinished=unfinished))

    def _is_superseded(self) -> bool:
        return self._run.is_superseded(self._outlook.run_id)

    def _check(self) -> None:
        if self._is_superseded():
            raise SegmentSupersededError(self._outlook.run_id)


def _came_from_superseded(error: BaseException) -> bool:
    """Whether it is that error, or was raised from it; not a bug that met it on the way."""
    following: BaseException | None = error
    while following is not None and not isinstance(following, SegmentSupersededError):
        following = following.__cause__
    return following is not None


class Segments:
    """The iterator that `MonitoredRun.segments` returns."""

    def __init__(
        self,
        run: Loop,
        start_step: int,
        resume_step: int | Callable[[Checkpoint], int] | None,
        max_wait: float,
    ) -> None:
        self._run = run
        self._start_step = checked_whole("start_step", start_step)
        if resume_step is not None and not callable(resume_step):
            checked_whole("resume_step", resume_step)
        if isinstance(max_wait, bool) or not isinstance(max_wait, int | float):
            raise TypeError(f"max_wait must be a number of seconds, not {max_wait!r}")
        if not max_wait >= 0:
            raise ValueError(f"max_wait must be 0 or more seconds, not {max_wait}")
        self._resume_step = resume_step
        self._max_wait = max_wait
        self._current: Segment | None = None

    def __iter__(self) -> Segments:
        return self

    def __next__(self) -> Segment:
        before = self._current
        if before is not None and before.finished:
            raise StopIteration
        if before is not None and not before.entered:
            raise RuntimeError("the segment before was not entered; use `with segment:`")
        self._current = self._begin(self._run.outlook(self._max_wait))
        return self._current

    def _begin(self, outlook: Outlook) -> Segment:
        resume = self._resume_point(outlook)
        if outlook.reached is not None:
            return Segment(self._run, outlook, self._where_it_was(outlook), resume)
        if outlook.source is None:
            return Segment(self._run, outlook, self._start_step, None)
        if resume is None:
            raise ResumePointUnknownError(outlook.run_id, outlook.source.tinker_path)
        return Segment(self._run, outlook, resume.step, resume)

    def _where_it_was(self, outlook: Outlook) -> int:
        """The next step of a loop that ran on this generation before."""
        step = outlook.reached or 0
        if not outlook.unfinished:
            return step
        if isinstance(self._resume_step, int) and self._resume_step in (step, step + 1):
            return self._resume_step
        path = outlook.source.tinker_path if outlook.source else None
        raise ResumePointUnknownError(outlook.run_id, path, step)

    def _resume_point(self, outlook: Outlook) -> ResumePoint | None:
        source = outlook.source
        if source is None:
            return None
        data = None
        if outlook.cursor is not None:
            step, data = outlook.cursor.step, copy.deepcopy(outlook.cursor.data)
        elif callable(self._resume_step):
            step = checked_whole("resume_step", self._resume_step(source))
        elif self._resume_step is not None:
            step = self._resume_step
        else:
            return None
        ended_at = outlook.ended_at
        return ResumePoint(
            checkpoint=source,
            step=step,
            data=data,
            steps_lost=None if ended_at is None else max(0, ended_at - step),
            optimizer_restored=outlook.with_optimizer,
        )


def checked_cursor(step: object, data: Any) -> Cursor:
    """A cursor with a copy of its data: what is done to the original later must not move it.

    A `TypeError` or `ValueError` if the step is no step, or the data no JSON value.
    """
    checked = checked_whole("step", step)
    try:
        written = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise type(error)(f"data must be a JSON value: {error}") from None
    return Cursor(step=checked, data=json.loads(written))
