"""Futures that end as soon as their run is known to be corrupted or replaced."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import MonitorStoppedError, SegmentSupersededError
from ...runs.effects import Effect
from ...runs.record import Record
from ...runs.state import RunState
from ...runtime.daemon_pool import DaemonPool
from ...runtime.delivery import Delivery
from ...runtime.futures import OwnFuture
from ...runtime.waits import Waits
from .event_loops import on_loop

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

#: Is told what a request came to.
Told = Callable[[Any], object]

#: A future that is to end, and the error with which it ends.
_Ended = tuple["RacedFuture", Exception]


def nothing(_: Any) -> None:
    """Where nothing is to be told."""


def stopped_in_outage(run_id: str) -> MonitorStoppedError:
    """The error of what waits when a run is stopped in an outage, and of all later requests."""
    return MonitorStoppedError(
        f"run {run_id}: its monitoring was stopped while its server was down, so it is not known "
        "whether its weights are what they were; restore its last checkpoint"
    )


class Races:
    """The futures of one monitor's runs that are not done, and what ends them early.

    Threads: every method is safe from any thread. Calls that block run on those of `pool`, the
    done-callbacks of futures through `callbacks`.
    """

    def __init__(self, waits: Waits, pool: DaemonPool | None, callbacks: Delivery) -> None:
        self._waits = waits
        self._pool = pool
        self._callbacks = callbacks
        self._lock = threading.Lock()
        # Guarded by _lock: the futures that are not done, of each run; and of runs whose results
        # are held back, those that came.
        self._open: dict[Record, set[RacedFuture]] = {}
        self._held: dict[Record, list[tuple[RacedFuture, Future[Any]]]] = {}

    def race(
        self, record: Record, run_id: str, future: Any, on_result: Told, on_error: Told
    ) -> RacedFuture:
        """Wrap a future, which is one of `run_id`; calls that block go to a thread of ours.

        `on_result` or `on_error` is called with what it came to, before anything that waits for
        it sees that.
        """
        done: OwnFuture[Any] = OwnFuture(self._callbacks)
        raced = RacedFuture(future, run_id, self._waits, done, (on_result, on_error))
        source = standard(future) or self.call(future.result)
        with self._lock:
            self._open.setdefault(record, set()).add(raced)
        # Not before it is registered: it may be done already.
        source.add_done_callback(lambda done: self._came(record, raced, done))
        _end_all(self._over(record, (raced,)))
        return raced

    def stand_in(self, run_id: str, future: Future[Any]) -> RacedFuture:
        """Stand for one of a request that is sent later, whose `future` ends in time by itself."""
        done: OwnFuture[Any] = OwnFuture(self._callbacks)
        standing = RacedFuture(future, run_id, self._waits, done, (nothing, nothing))
        future.add_done_callback(standing.settle)
        return standing

    @property
    def is_inline(self) -> bool:
        """Whether there are no threads: what may block does so on the caller's."""
        return self._pool is None

    def hold(self, record: Record) -> None:
        """Hold back the results of a run, until `release`; errors come at once."""
        with self._lock:
            self._held.setdefault(record, [])
        self.moved(record)  # it may have been stopped just now

    def release(self, record: Record) -> bool:
        """Let the results of a run come; not those of a run that `is_unknown`: then `False`.

        Where the run is superseded they count for nothing.
        """
        with self._lock:
            if self.is_unknown(record):
                return False
            held = self._held.pop(record, [])
        for raced, source in held:
            if record.is_superseded(raced.run_id):
                self._forget(record, raced)
            else:
                self._came(record, raced, source)
        return True

    def is_unknown(self, record: Record) -> bool:
        """Whether a run was stopped while it was held: what became of its weights is not known."""
        return record in self._held and record.state is RunState.STOPPED

    def are_unanswered(self, record: Record) -> bool:
        """Whether a request that changes or saves the run's state has no answer yet."""
        with self._lock:
            return any(each.effect is not Effect.NONE for each in self._open.get(record, ()))

    def unanswered(self, record: Record, run_id: str) -> list[RacedFuture]:
        """The futures of a generation that are not done."""
        with self._lock:
            return [each for each in self._open.get(record, ()) if each.run_id == run_id]

    def let_save(self, record: Record, timeout: float) -> None:
        """Wait until the saves of a run that are under way have ended, at most so many seconds."""
        with self._lock:
            found = [each for each in self._open.get(record, ()) if each.effect is Effect.SAVE]
        for each in found:
            with suppress(Exception):  # as it ends it says nothing here
                each.exception(timeout)

    def undisturbed(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on a thread of ours, where there are any, and return its result.

        An interrupt of the caller, which only reaches the main thread, cannot leave it half done.
        """
        return self.call(partial(function, *args)).result()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Call a function that may block, on a thread of ours where there are any."""
        self._waits.home.check()
        if self._pool is not None:
            try:
                return self._pool.submit(function)
            except RecursionError:  # here it would only come further
                raise
            except RuntimeError:  # closed with the monitor: then here
                pass
        done: Future[Any] = Future()
        try:
            done.set_result(function())
        except Exception as error:
            done.set_exception(error)
        return done

    def moved(self, record: Record) -> None:
        """The run's state or client is another one now."""
        if record not in self._open:
            return  # and what is begun from here on looks at the state itself
        with self._lock:
            over = self._over(record, self._open.get(record, ()))
        _end_all(over)

    def close(self) -> None:
        """End the futures of runs that get no client any more: the monitor has stopped."""
        with self._lock:
            over = [each for item in self._open.items() for each in self._over(*item)]
        _end_all(over)

    def _over(self, record: Record, futures: Iterable[RacedFuture]) -> list[_Ended]:
        """Those of a run's futures that are to end now, and with which error."""
        if self.is_unknown(record):
            return [(each, stopped_in_outage(each.run_id)) for each in futures]
        over = (each for each in futures if record.is_superseded(each.run_id))
        return [(each, SegmentSupersededError(each.run_id)) for each in over]

    def _came(self, record: Record, raced: RacedFuture, source: Future[Any]) -> None:
        if record in self._held and self._is_held_back(record, raced, source):
            return
        self._forget(record, raced)
        raced.settle(source)

    def _is_held_back(self, record: Record, raced: RacedFuture, source: Future[Any]) -> bool:
        is_error = source.cancelled() or source.exception() is not None
        with self._lock:
            held = None if is_error else self._held.get(record)
            if held is not None:
                held.append((raced, source))
            return held is not None

    def _forget(self, record: Record, raced: RacedFuture) -> None:
        with self._lock:
            waiting = self._open.get(record, set())
            waiting.discard(raced)
            if not waiting:
                self._open.pop(record, None)


def _end_all(ended: list[_Ended]) -> None:
    for each, error in ended:
        each.end(error)


class RacedFuture:
    """A future of a training client, used like the SDK's own.

    It has what the SDK's future has, and is done at the latest when its run is known to be
    corrupted or replaced: then it raises `SegmentSupersededError`. Cancelling it does not cancel
    the request.
    """

    def __init__(
        self, future: Any, run_id: str, waits: Waits, done: OwnFuture[Any], told: tuple[Told, Told]
    ) -> None:
        self._future = future
        self.run_id = run_id
        #: What the request does to the state of its run.
        self.effect = Effect.NONE
        #: Where it stands in the order of all that were submitted; `None` where it has no place.
        self.place: int | None = None
        self._waits = waits
        self._on_result, self._on_error = told
        self._done = done

    @property  # type: ignore[misc]  # so that `isinstance` holds for the SDK's class
    def __class__(self) -> type:
        return type(self._future)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, at most `timeout` seconds, and return it.

        Raises:
            SegmentSupersededError: The run is known to be corrupted or replaced.
            TimeoutError: It took longer than `timeout`.
            Exception: What the request raises.
        """
        self._wait(timeout)
        return self._done.result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `result` does, and return the error, if there is one."""
        self._wait(timeout)
        return self._done.exception(0)

    def _wait(self, timeout: float | None) -> None:
        if not self._waits.done(self._done, timeout):
            raise TimeoutError(f"run {self.run_id}: no result within {timeout:g} s")

    def future(self) -> Future[Any]:
        """The `concurrent.futures.Future` for this request."""
        return self._done

    async def result_async(self, timeout: float | None = None) -> Any:
        """Wait as `result` does, on an event loop."""
        import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

        async with asyncio.timeout(timeout):
            return await on_loop(self._done)

    async def coroutine(self) -> Any:
        """The future as a coroutine."""
        return await self

    def __await__(self) -> Generator[Any, None, Any]:
        return on_loop(self._done).__await__()

    def __getattr__(self, name: str) -> Any:
        if name == "_future":  # not made yet: an unpickled or copied one
            raise AttributeError(name)
        own = getattr(self._future, name)
        # A `concurrent.futures.Future` waits in more ways: those of ours end in time.
        return getattr(self._done, name) if isinstance(self._future, Future) else own

    def __repr__(self) -> str:
        return f"<RacedFuture of run {self.run_id}: {self._future!r}>"

    def settle(self, source: Future[Any]) -> None:
        """Take over what the request came to."""
        try:
            result = source.result()
        except CancelledError as error:
            self.end(error)
        except BaseException as error:  # whatever the request raised is its outcome
            self._tell(self._on_error, error)
            self.end(error)
        else:
            self._tell(self._on_result, result)
            self._set(lambda: self._done.set_result(result))

    def _tell(self, told: Told, outcome: Any) -> None:
        # What they hold is not needed any more.
        self._on_result = self._on_error = nothing
        try:
            told(outcome)
        except Exception:
            logger.exception("run %s: what a request came to could not be noted", self.run_id)

    def end(self, error: BaseException) -> None:
        """Have it raise an error, where it is not done yet."""
        self._set(lambda: self._done.set_exception(error))

    def _set(self, settle: Callable[[], None]) -> None:
        with suppress(Exception):  # done already, by the other of the two
            settle()


def standard(future: Any) -> Future[Any] | None:
    """The `concurrent.futures.Future` itself or inside; newer versions of the SDK give one."""
    inside = getattr(future, "future", None)
    found = inside() if callable(inside) and not isinstance(future, Future) else future
    return found if isinstance(found, Future) else None
