"""The requests of a segment: what was submitted, the futures that it gets, what they raised."""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakSet

from ...errors import SegmentSupersededError, causes, in_words
from ...recovery.error_kinds import Verdict, is_connection_lost, is_unsent, judge
from ...runs.changes import SaveBegan, Withdrawn
from ...runs.effects import Effect
from ...service import is_sdk_error, saved_path, takes
from ..ledger import Ledger
from ..loop import Loop
from ..outages.evidence import Batch, Watched
from ..steps import Mark
from .event_loops import of_awaitable
from .futures import RacedFuture, Told, nothing, stopped_in_outage
from .gates import ServerIsBack
from .turns import Turns

logger = logging.getLogger(__name__)

#: After how many refusals of a segment that is over its loop is warned of.
REFUSALS = 20

#: How many errors of a segment's requests are remembered, to know them again.
ERRORS_KEPT = 64

#: Methods of the training client that answer with the log-probabilities of a batch.
_WITH_LOGPROBS = ("forward", "forward_async", "forward_backward", "forward_backward_async")

#: The order of all futures of requests.
_places = count()


class Sent(NamedTuple):
    """A request that is submitted: its effect, its position, and its batch where that is kept.

    `is_foreign`: its future came from elsewhere, and says nothing of the run's server.
    """

    effect: Effect
    mark: Mark | None = None
    batch: Batch | None = None
    is_foreign: bool = False


class Order:
    """A coroutine that changes the state of the run, was made, and is not begun yet."""


class Requests:
    """Takes the requests of a segment before they are submitted, and their answers.

    Where the run is watched they wait while an outage of its server is not settled.

    `is_left`: its run is not restored yet; none is submitted before that.

    Threads: every method is safe from any thread; answers come on the threads of the SDK.
    """

    def __init__(self, run: Loop, run_id: str, ledger: Ledger, *, is_left: bool = False) -> None:
        self.run = run
        self.run_id = run_id
        self.is_left = is_left
        self._ledger = ledger
        # The run as it is watched for outages, from when the segment is entered.
        self._watched: Watched | None = None
        self._turns: Turns | None = None
        # What requests raised, with their effect; a deque may be appended to from any thread.
        self._errors: deque[tuple[BaseException, Effect]] = deque(maxlen=ERRORS_KEPT)
        #: The first error that leaves the state of the run unknown: it ends the segment.
        self.spoiled: BaseException | None = None
        #: The first error of a request that changes the state, for which nothing is recovered.
        self.passed_over: BaseException | None = None
        #: Whether the segment was left: then its client trains no more.
        self.is_closed = False
        # Whether a request was interrupted in its turn: what is sent behind it may hang. The error
        # of one that was never sent, or got lost: the server waits for it.
        self._is_blocked = False
        self._unsent: BaseException | None = None
        # The place of the first request that the server may never have got.
        self._broken_at = math.inf
        self._refusals = 0
        # Those that are not begun; one whose coroutine is gone never will be. Only touched on the
        # event loop of the segment.
        self._orders: WeakSet[Order] = WeakSet()

    def begin(self, run_id: str) -> None:
        """The run is there; one with another id than this is not the segment's."""
        self.run_id = run_id
        self.is_left = False

    def watch(self, watched: Watched | None, max_wait: float) -> None:
        """The segment is entered: from now on requests wait at most `max_wait` seconds."""
        self._watched = watched
        if watched is not None:
            self._turns = Turns(self.run, ServerIsBack(self, watched, max_wait), max_wait)

    def check(self) -> None:
        """Raise where the segment is to be left.

        A `MonitorStoppedError` in a forked child, and where its run was stopped in an outage, else
        a `SegmentSupersededError`.
        """
        self.check_home()
        if self.run.races.is_unknown(self.run.record):
            raise stopped_in_outage(self.run_id)
        if self._unsent is not None and self.spoiled is None and not self.is_superseded():
            raise self._refusal()
        if self.spoiled is None and not self._is_blocked and not self.is_superseded():
            return
        self._refusals += 1
        if self._refusals == REFUSALS:
            advice = "let SegmentSupersededError leave the `with segment:` block"
            logger.warning("run %s: its loop tries again and again; %s", self.run_id, advice)
        raise SegmentSupersededError(self.run_id) from self.spoiled

    def is_superseded(self) -> bool:
        """Whether the run is known to be corrupted or replaced; before it is there, neither."""
        return not self.is_left and self.run.is_superseded(self.run_id)

    def is_over(self) -> bool:
        """Whether nothing is sent any more."""
        return self.is_superseded() or self.run.races.is_unknown(self.run.record)

    def asked(self) -> int:
        """How many requests that change the run's state were submitted."""
        return self._ledger.mark().submissions

    def check_home(self) -> None:
        """Raise a `MonitorStoppedError` in a forked child, where the client answers nothing."""
        self.run.home.check()

    def order(self, effect: Effect) -> Order:
        """A coroutine of this effect is made."""
        self.check_home()
        order = Order()
        if effect.is_change:
            self._orders.add(order)
        return order

    def begins(self, order: Order) -> None:
        """The coroutine is begun."""
        self._orders.discard(order)

    def not_begun(self) -> int:
        """How many coroutines that change the state were made and are not begun."""
        return len(self._orders)

    def check_begun(self) -> None:
        """Raise a `RuntimeError` where there are some: a save would overtake them."""
        if self._orders:
            raise RuntimeError(
                f"run {self.run_id}: coroutines of segment.client were made and are not begun; "
                "await them before a save that is to hold what they submit"
            )

    def warn_of_others(self) -> None:
        """Tell of a loop that seems to train with another reference to the client."""
        if self._ledger.steps.are_without_requests(self._ledger.mark()):
            logger.warning(
                "run %s: steps went by without a request through segment.client; those of another "
                "reference to the client are not seen, and lost or made twice after a recovery",
                self.run_id,
            )

    def submit(
        self, effect: Effect, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Sent:
        """A request is about to be submitted; return what is known of it."""
        self.check()
        if self.is_closed and effect is not Effect.NONE:
            raise SegmentSupersededError(self.run_id)
        batch, mark, watched = None, self._ledger.mark(), self._watched
        if watched is not None and method in _WITH_LOGPROBS:
            batch = watched.keep(mark.updates, args, kwargs)
        if effect.is_change:
            mark = self._ledger.submit(self.run_id, effect)
        elif effect is Effect.SAVE:
            name = args[0] if args else kwargs.get("name")
            path = f"tinker://{self.run_id}/weights/{name}"
            self.run.note(SaveBegan(path=path))
            self._ledger.save_begins(path)
        return Sent(effect, mark, batch)

    def send(self, effect: Effect, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client, when its turn comes.

        On an event loop a future of what it returns comes at once, where it has to wait.
        """
        if self._turns is None or not self._turns.are_needed():
            return self._sent(effect, method, *args, **kwargs)
        return self._turns.send(partial(self._sent, effect, method, *args, **kwargs))

    def send_async(self, method: Callable[[], Coroutine[Any, Any, Any]]) -> Awaitable[Any]:
        """What a coroutine function of the client returns, called when its turn comes."""
        if self._turns is None or not self._turns.are_needed():
            return method()
        return self._turns.send_async(method)

    def _sent(self, effect: Effect, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client.

        An interrupt within it may have taken the request's turn in the SDK's order of requests,
        without sending it: then no later one is ever sent, and the client cannot go on in place.
        """
        since = self.run.clock.monotonic()
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, TypeError) or takes(method, args, kwargs):
                self.failed(error, effect, since=since)
            elif effect.is_change:
                self._ledger.take_back()
            raise
        except BaseException:  # an interrupt, which may have taken the turn
            self._ledger.submit(self.run_id, Effect.GRADIENT)
            self._is_blocked = True
            raise

    def wrap(self, answer: Any, sent: Sent) -> Any:
        """What the loop gets of a request: of a future one that ends with its run."""
        if callable(getattr(answer, "result", None)):
            return self.race(answer, sent, partial(self._came, sent))
        if inspect.isawaitable(answer):
            return self._awaited(answer, sent)
        self._came(sent, answer)
        return answer

    def race(self, future: Any, sent: Sent, on_result: Told = nothing) -> RacedFuture:
        """Wrap a future; its error is noted, and its result told."""
        since = None if sent.is_foreign else self.run.clock.monotonic()
        place = None if sent.is_foreign else next(_places)
        failed = partial(self.failed, effect=sent.effect, mark=sent.mark, since=since, place=place)
        raced = self.run.race(self.run_id, future, on_result=on_result, on_error=failed)
        raced.effect, raced.place = sent.effect, place
        self._end_behind([raced])
        return raced

    def _end_behind(self, futures: Iterable[RacedFuture]) -> None:
        """End those that are behind a request which the server may never have got."""
        for each in futures:
            if each.place is not None and each.place > self._broken_at:
                each.end(self._refusal())

    def _refusal(self) -> Exception:
        """The error of what is behind a request that failed; where it was never sent, no server's.

        The caller may wait for it before that request's own.
        """
        if self._unsent is None or self.spoiled is not None:
            superseded = SegmentSupersededError(self.run_id)
            superseded.__cause__ = self.spoiled
            return superseded
        return RuntimeError(
            f"run {self.run_id}: a request was lost or never sent ({in_words(self._unsent)}), "
            "and none behind it is answered; leave the `with segment:` block, and begin again"
        )

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a method that may block; give up when the run is superseded."""
        return self.run.race(self.run_id, self.run.races.call(function)).result()

    async def _awaited(self, answer: Awaitable[Any], sent: Sent) -> Any:
        # Cancelling the caller's task must not cancel the request.
        return self.wrap(await self.race(of_awaitable(answer), sent), sent)

    def _came(self, sent: Sent, answer: Any) -> None:
        if callable(getattr(answer, "result", None)):
            return  # the answer itself comes later
        if self._watched is not None:
            self._watched.answered_at = self.run.clock.monotonic()
        if sent.effect is Effect.SAVE and sent.mark is not None:
            self._ledger.saved(sent.mark, saved_path(answer))
        if sent.batch is not None:
            sent.batch.answered(answer)

    def failed(
        self,
        error: BaseException,
        effect: Effect,
        mark: Mark | None = None,
        since: float | None = None,
        place: int | None = None,
    ) -> None:
        """A request raised an error; `mark` is its position.

        `since` is when it was submitted, in monotonic seconds; `None` where it came from elsewhere.
        `place` is its future's, `None` where it was refused at the call.
        """
        self._errors.append((error, effect))
        is_at_call = place is None and effect.is_change
        if is_unsent(error) and since is not None and not is_at_call:
            # It has its place in the order of requests all the same: the client cannot go on.
            self._ledger.submit(self.run_id, Effect.GRADIENT)
            self._unsent = self._unsent or error
        if effect.is_change and self.spoiled is None:
            verdict = judge(error, self.run_id, (effect,))
            if self.run.confirmation.would_recover(verdict):
                self.spoiled = error
                lost = (mark or self._ledger.mark()).submissions
                for path in self._ledger.withdraw(lost):
                    self.run.note(Withdrawn(path=path))
            else:
                if effect is Effect.UPDATE:
                    self._ledger.update_refused(mark or self._ledger.mark())
                if verdict is not Verdict.MISTAKE and is_sdk_error(error):
                    self.passed_over = self.passed_over or error
        if place is not None and (self._unsent is error or self.spoiled is error):
            self._broken_at = min(place, self._broken_at)
            self._end_behind(self.run.races.unanswered(self.run.record, self.run_id))
        outages = self.run.outages
        if outages is not None and since is not None and is_connection_lost(error):
            outages.request_failed(self.run.record, error, since)

    def effects_of(self, error: BaseException) -> list[Effect]:
        """The effects of the requests that raised the error, or one of its causes."""
        kept = {id(each): effect for each, effect in self._errors}
        return [kept[id(each)] for each in causes(error) if id(each) in kept]

    def is_servers(self, error: BaseException) -> bool:
        """Whether an error is the server's: a request's, or one of the SDK."""
        return bool(self.effects_of(error)) or is_sdk_error(error)


def is_all(error: BaseException, test: Callable[[BaseException], bool]) -> bool:
    """Whether a test holds for an error; of a group, for all that is in it."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_all(each, test) for each in error.exceptions)
    return test(error)


def came_from_superseded(error: BaseException) -> bool:
    """Whether it is that error, or was raised from it; not a bug that met it on the way."""
    following: BaseException | None = error
    while following is not None and not isinstance(following, SegmentSupersededError):
        following = following.__cause__
    return following is not None
