"""The requests of a segment: what was submitted, the futures that it gets, what they raised."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ..errors import SegmentSupersededError, causes
from ..recovery.error_kinds import Verdict, judge
from ..runs.changes import SaveBegan, Withdrawn
from ..runs.ledger import Effect, Ledger, Mark
from ..service import is_sdk_error, saved_path
from .futures import RacedFuture, Told, nothing
from .loop import Loop

#: How many errors of a segment's requests are remembered, to know them again.
ERRORS_KEPT = 64


class Requests:
    """Takes the requests of a segment before they are submitted, and their answers.

    Threads: every method is safe from any thread; answers come on the threads of the SDK.
    """

    def __init__(self, run: Loop, run_id: str, ledger: Ledger) -> None:
        self._run = run
        self._run_id = run_id
        self._ledger = ledger
        # What requests raised, with their effect; a deque may be appended to from any thread.
        self._errors: deque[tuple[BaseException, Effect]] = deque(maxlen=ERRORS_KEPT)
        #: The first error that leaves the state of the run unknown: it ends the segment.
        self.spoiled: BaseException | None = None
        #: The first error of a request that changes the state, for which nothing is recovered.
        self.passed_over: BaseException | None = None
        #: Whether the segment was left: then its client trains no more.
        self.is_closed = False

    def check(self) -> None:
        """Raise a `SegmentSupersededError` where the segment is to be left."""
        if self.spoiled is not None or self._run.is_superseded(self._run_id):
            raise SegmentSupersededError(self._run_id) from self.spoiled

    def submit(self, effect: Effect, name: object = None) -> Mark | None:
        """A request is about to be submitted; return the position of a save of that name."""
        self.check()
        if self.is_closed and effect is not Effect.NONE:
            raise SegmentSupersededError(self._run_id)
        if effect.is_change:
            self._ledger.submit(self._run_id, effect)
        if effect is not Effect.SAVE:
            return self._ledger.mark()
        path = f"tinker://{self._run_id}/weights/{name}"
        self._run.note(SaveBegan(path=path))
        self._ledger.save_begins(path)
        return self._ledger.mark()

    def send(self, effect: Effect, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client.

        An interrupt within it may have taken the request's turn in the SDK's order of requests,
        without sending it: then no later one is ever sent, and the client cannot go on in place.
        """
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, TypeError) or _fits(method, args, kwargs):
                self.failed(error, effect)
            elif effect.is_change:
                self._ledger.take_back()
            raise
        except BaseException:  # an interrupt, which may have taken the turn
            self._ledger.submit(self._run_id, Effect.GRADIENT)
            raise

    def wrap(self, answer: Any, effect: Effect, mark: Mark | None = None) -> Any:
        """What the loop gets of a request: of a future one that ends with its run."""
        if callable(getattr(answer, "result", None)):
            return self.race(answer, effect, mark, partial(self._saved, effect, mark))
        if inspect.isawaitable(answer):
            return self._awaited(answer, effect, mark)
        self._saved(effect, mark, answer)
        return answer

    def race(
        self, future: Any, effect: Effect, mark: Mark | None = None, on_result: Told = nothing
    ) -> RacedFuture:
        """Wrap a future; its error is noted, and its result told."""
        failed = partial(self.failed, effect=effect, mark=mark)
        return self._run.race(self._run_id, future, on_result=on_result, on_error=failed)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a method that may block; give up when the run is superseded."""
        return self._run.race(self._run_id, self._run.races.call(function)).result()

    async def _awaited(self, answer: Awaitable[Any], effect: Effect, mark: Mark | None) -> Any:
        # Cancelling the caller's task must not cancel the request.
        raced = self.race(self._run.races.of_awaitable(answer), effect, mark)
        return self.wrap(await raced, effect, mark)

    def _saved(self, effect: Effect, mark: Mark | None, answer: Any) -> None:
        is_over = not callable(getattr(answer, "result", None))
        if effect is Effect.SAVE and mark is not None and is_over:
            self._ledger.saved(mark, saved_path(answer))

    def failed(self, error: BaseException, effect: Effect, mark: Mark | None = None) -> None:
        """A request raised an error; `mark` is its position."""
        self._errors.append((error, effect))
        if effect.is_change and self.spoiled is None:
            verdict = judge(error, self._run_id, is_its_own=True, is_change=True)
            if self._run.confirmation.would_recover(verdict):
                self.spoiled = error
                lost = (mark or self._ledger.mark()).submissions
                for path in self._ledger.withdraw(lost):
                    self._run.note(Withdrawn(path=path))
            elif verdict is not Verdict.MISTAKE and is_sdk_error(error):
                self.passed_over = self.passed_over or error

    def effects_of(self, error: BaseException) -> list[Effect]:
        """The effects of the requests that raised the error, or one of its causes."""
        kept = {id(each): effect for each, effect in self._errors}
        return [kept[id(each)] for each in causes(error) if id(each) in kept]

    def is_servers(self, error: BaseException) -> bool:
        """Whether an error is the server's: a request's, or one of the SDK."""
        return bool(self.effects_of(error)) or is_sdk_error(error)


def _fits(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a method takes these arguments."""
    try:
        inspect.signature(method).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True
