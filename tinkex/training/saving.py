"""Saves a checkpoint with a cursor: once, or again where the server failed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ..arguments import checked_whole
from ..errors import ApiStatusError, SegmentSupersededError, status_of
from ..recovery.error_kinds import Verdict, is_unread, judge
from ..recovery.retry import delay_of
from ..runs.changes import SaveBegan, Saved, SaveUnsent, Withdrawn
from ..runs.checkpoints import MOST_STEPS, Cursor, cursor_of
from ..runs.effects import Effect
from ..service import saved_path, takes_option
from ..types import Checkpoint
from .ledger import Ledger, Place
from .loop import Loop
from .outlook import Outlook
from .submitting.futures import RacedFuture
from .submitting.requests import Requests, Sent

logger = logging.getLogger(__name__)


class Saving:
    """One save of a segment, which holds all that was submitted before it was made.

    Threads: use it from one thread.
    """

    def __init__(
        self,
        run: Loop,
        outlook: Outlook,
        ledger: Ledger,
        requests: Requests,
        *,
        name: str,
        cursor: Cursor,
        options: dict[str, Any],
    ) -> None:
        self._run = run
        self._outlook = outlook
        self._ledger = ledger
        self._requests = requests
        self._name = name
        self._path = f"tinker://{outlook.run_id}/weights/{name}"
        self._cursor = cursor
        self._options = options
        self._mark = ledger.mark()
        self._is_partial = ledger.lacks_gradient(self._mark, cursor.step)
        self._answer: Any = None
        self._serial = 0
        self._save = outlook.client.save_state
        self._written: Mapping[str, str] | None = None
        self._noted: Checkpoint | None = None  # by the answer, before whoever waits for it sees it

    def begin(self) -> None:
        """Submit it now, unless it has to wait for another save of its name, or to look first."""
        is_known = self._ledger.place_of(self._path) or self._run.has_seen(self._path)
        if not self._waits_for() and not (is_known and self._is_refused):
            self._answer = self._sent()

    def begin_behind(self, submissions: int) -> None:
        """Submit it as what follows so many requests that change the state."""
        now = self._ledger.mark()
        self._requests.check_begun()
        if now.submissions != submissions:
            raise RuntimeError(
                f"run {self._outlook.run_id}: other requests were submitted before the save "
                f"{self._name!r} was; await it before them"
            )
        self._mark = now
        self._is_partial = self._ledger.lacks_gradient(now, self._cursor.step)
        self.begin()

    def wait(self) -> Checkpoint:
        """Save, and return the checkpoint.

        Raises the last error, or `SegmentSupersededError`.
        """
        if self._answer is None:
            self._run.settle()
        saved = self._made()
        self._run.settle()
        return saved

    def _made(self) -> Checkpoint:
        pending = self._waits_for()
        if self._answer is None and pending is not None:
            # An interrupt may have left it without an answer; a second one would be refused.
            with suppress(Exception):
                pending.result()
            self._requests.check()
        if self._answer is None and self._is_refused:
            known = self._ledger.place_of(self._path)
            seen = self._listed() if known is None and self._run.has_seen(self._path) else None
            if seen is not None and self._is_same(seen):
                return self._saved(self._path)
            if known is not None or seen is not None:
                return self._again(known or Place())
        if self._answer is None and self._ledger.mark() != self._mark:
            raise RuntimeError(
                f"run {self._outlook.run_id}: requests were submitted while the checkpoint "
                f"{self._name!r} waited for another save of its name; give each save a name of its "
                "own, or overwrite=True"
            )
        number = 0
        while True:
            number += 1
            try:
                return self._once()
            except SegmentSupersededError:
                raise
            except Exception as error:
                if status_of(error) == 409 and self._is_same(self._listed()):
                    return self._saved(self._path)
                if not self._may_try_again(error, number):
                    raise
                failed = error
                policy, run_id = self._run.confirmation.policy, self._outlook.run_id
                delay = delay_of(policy, number, error, seed=run_id)
            self._run.pause(run_id, delay)
            self._run.look()
            self._requests.check()
            if self._is_same(self._listed()):
                return self._saved(self._path)  # only its answer was lost
            if self._ledger.mark() != self._mark:
                raise failed

    def end(self) -> Checkpoint:
        """Wait as `wait` does, and look whether another owner has taken the run over meanwhile."""
        return self._run.saved(self.wait, is_sent=True)

    def _once(self) -> Checkpoint:
        answer = self._sent() if self._answer is None else self._answer
        self._answer = None
        result = answer.result() if type(answer) is RacedFuture else answer
        saved = self._noted or self._saved(saved_path(result))
        if self._options.get("overwrite"):
            self._run.races.call(partial(self._note_time, saved))  # the list may be slow
        return saved

    def _note_time(self, saved: Checkpoint) -> None:
        """Note the server's time of the checkpoint: other means may save its name once more."""
        listed, place = self._listed(), self._ledger.place_of(self._path)
        is_last = self._ledger.is_last_save(self._path, self._serial)
        if listed is not None and is_last and place is not None:
            timed = replace(saved, time=listed.time)
            self._run.note(Saved(checkpoint=timed, cursor=self._cursor))

    def _sent(self) -> Any:
        if self._is_partial:
            logger.warning(
                "run %s: the checkpoint %r is saved between the gradient of an earlier step and "
                "its optim_step; it does not hold that gradient, so the loop never goes on from it",
                self._outlook.run_id,
                self._name,
            )
        elif takes_option(self._save, "user_metadata"):
            given = self._options.get("user_metadata") or {}
            self._written = {**given, **self._cursor.to_metadata()}
            self._options["user_metadata"] = self._written
        self._note_begun()
        self._serial = self._ledger.save_begins(self._path)
        answer = self._requests.send(Effect.SAVE, self._save, self._name, **self._options)
        if not callable(getattr(answer, "result", None)):
            return answer
        # The answer counts also where the loop does not wait for it any more.
        raced = self._requests.race(answer, Sent(Effect.SAVE), on_result=self._answered)
        self._ledger.saving(self._path, raced)
        return raced

    def _answered(self, result: Any) -> None:
        self._noted = self._saved(saved_path(result))

    def _note_begun(self) -> None:
        """Note that it begins; raises where it must not be sent, and what was known holds."""
        run, path = self._run, self._path
        with run.record.lock:
            history = run.record.history
            known, cursor = dict(history.known), history.cursors.get(path)
        run.note(SaveBegan(path=path))
        if self._ledger.place_of(path) or run.has_seen(path):
            try:
                # Else a later process might take what is saved now for what was saved before.
                run.settle(is_needed=True)
            except BaseException:
                run.note(SaveUnsent(path=path, known=known, cursor=cursor))
                raise

    def _saved(self, path: str) -> Checkpoint:
        if self._ledger.is_lost(self._mark):
            # A request before it failed: its weights are not those of its step.
            self._run.note(Withdrawn(path=path))
            return Checkpoint.from_path(path)
        if not self._ledger.is_last_save(self._path, self._serial):
            # Its name is being saved again: which of them the server has is not known.
            return Checkpoint.from_path(path)
        if self._is_partial:
            self._ledger.saved(self._mark, path)
            return Checkpoint.from_path(path)
        saved = self._run.save(path, self._cursor, self._written)
        self._ledger.place(self._mark, Place(checkpoint=saved, cursor=self._cursor))
        return saved

    def _waits_for(self) -> Any:
        """The unanswered save of the same name that it has to wait for, if there is one."""
        return None if self._options.get("overwrite") else self._ledger.pending(self._path)

    @property
    def _is_refused(self) -> bool:
        """Whether a name that is taken is refused: the SDK would ask again for minutes."""
        return takes_option(self._save, "overwrite") and not self._options.get("overwrite")

    def _again(self, known: Place) -> Checkpoint:
        """What was saved under this name before, if it is the same."""
        is_same = self._ledger.where() == known and known.cursor == self._cursor
        if known.checkpoint is not None and is_same:
            return known.checkpoint
        step = "another state" if known.cursor is None else f"step {known.cursor.step}"
        detail = f"the name {self._name!r} is taken by {step}; give another, or overwrite=True"
        raise ApiStatusError.of(409, detail, where=f"saving {self._outlook.run_id}")

    def _may_try_again(self, error: Exception, number: int) -> bool:
        run_id, policy = self._outlook.run_id, self._run.confirmation.policy
        verdict = judge(error, run_id, (Effect.SAVE,))
        # What was submitted meanwhile, by another thread, must not get into this checkpoint.
        is_same = self._ledger.mark() == self._mark and not is_unread(error)
        return verdict is Verdict.FAILED and is_same and number < policy.max_attempts

    def _listed(self) -> Checkpoint | None:
        """What the server has under this name, where it can be asked."""
        with suppress(Exception):
            return self._run.find_checkpoint(self._outlook.run_id, self._path)
        return None

    def _is_same(self, found: Checkpoint | None) -> bool:
        """Whether an earlier try has saved it after all, though its answer was lost."""
        is_whole = found is not None and found.size_bytes != 0
        return found is not None and is_whole and cursor_of(found, {}) == self._cursor


def checked_cursor(step: object, data: Any) -> Cursor:
    """A cursor with a copy of its data: what is done to the original later must not move it.

    A `TypeError` or `ValueError` if the step is no step, or the data no JSON value.
    """
    checked = checked_whole("step", step)
    if checked > MOST_STEPS:
        raise ValueError(f"step must be {MOST_STEPS} or less, not {checked}")
    try:
        written = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise type(error)(f"data must be a JSON value: {error}") from None
    if not _has_text_keys(data):
        raise TypeError("data must be a JSON value: it would come back with texts as its keys")
    return Cursor(step=checked, data=json.loads(written))


def _has_text_keys(value: Any) -> bool:
    """Whether the keys of all mappings in a value are texts, as JSON has them."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and _has_text_keys(list(value.values()))
    return not isinstance(value, list | tuple) or all(map(_has_text_keys, value))
