"""The requests of a segment that wait while their server is down, in the order of the calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, NamedTuple, NoReturn

from ...runtime.futures import copy
from ...runtime.scheduler import Clock
from ...runtime.waits import Waits
from ..futures import Races, is_superseded, on_loop, standard
from .evidence import Watched


class _Turn(NamedTuple):
    """A request that waits: what sends it, the future of what that brings, and until when."""

    outcome: Future[Any]
    sending: Callable[[], Any]
    until: float


class Turns:
    """Sends the requests of a watched run when the outage of its server is settled.

    `check` raises where the segment is to be left; a request waits `max_wait` seconds at most.

    Threads: every method is safe from any thread.
    """

    def __init__(
        self,
        watched: Watched,
        check: Callable[[], None],
        *,
        clock: Clock,
        waits: Waits,
        races: Races,
        max_wait: float,
    ) -> None:
        self._watched = watched
        self._check = check
        self._clock = clock
        self._waits = waits
        self._races = races
        self._max_wait = max_wait
        self._lock = threading.Lock()
        # Guarded by _lock: each change of the requests that wait, and of `are_waiting` with them.
        self._waiting: deque[_Turn] = deque()

    def are_needed(self) -> bool:
        """Whether a request has to wait now."""
        return self._watched.is_held or bool(self._waiting)

    def send(self, sending: Callable[[], Any]) -> Any:
        """What a call that sends a request returns, made when its turn comes.

        On an event loop a future of that comes at once.
        """
        turn = self._queue(sending)
        if _is_on_event_loop():
            return self._followed(turn)
        try:
            self._waits.wait(self._watched.record, lambda: turn.done() or self._is_over(), None)
            self._check()
            return turn.result()
        finally:
            turn.cancel()  # of an interrupted loop, too

    def send_async(self, method: Callable[[], Coroutine[Any, Any, Any]]) -> Awaitable[Any]:
        """What a coroutine function returns, called when its turn comes."""
        import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

        # Not on the caller's event loop: that may be waiting for a later one.
        return _result_of(on_loop(self._queue(lambda: asyncio.run(method()))))

    def _is_over(self) -> bool:
        record = self._watched.record
        return is_superseded(record, self._watched.run_id) or self._races.is_unknown(record)

    def _queue(self, sending: Callable[[], Any]) -> Future[Any]:
        turn = _Turn(Future(), sending, self._clock.monotonic() + self._max_wait)
        with self._lock:
            self._watched.are_waiting = True
            self._waiting.append(turn)
            is_first = len(self._waiting) == 1
        if is_first:
            self._races.call(self._take_all)
        return turn.outcome

    def _take_all(self) -> None:
        """Send what waits, one by one, when the outage is settled."""
        record, is_last = self._watched.record, False
        while not is_last:
            outcome, sending, until = self._waiting[0]
            left = max(0.0, until - self._clock.monotonic())
            settled = self._waits.wait(
                record, lambda: not self._watched.is_held or self._is_over(), left
            )
            if outcome.set_running_or_notify_cancel():
                try:
                    self._check()
                    outcome.set_result((sending if settled else self._gave_up)())
                except BaseException as error:  # its caller gets it
                    outcome.set_exception(error)
                self._waits.notify(record)
            with self._lock:
                # Not before it is sent: no later one may overtake it.
                self._waiting.popleft()
                is_last = not self._waiting
                if is_last:
                    self._watched.are_waiting = False

    def _gave_up(self) -> NoReturn:
        run_id = self._watched.run_id
        raise TimeoutError(f"run {run_id}: its server was down for {self._max_wait:g} s")

    def _followed(self, turn: Future[Any]) -> Future[Any]:
        """A future of what the request comes to that is sent when its turn comes."""
        outcome: Future[Any] = Future()
        outcome.set_running_or_notify_cancel()

        def take(done: Future[Any]) -> None:
            if (error := done.exception()) is not None:
                outcome.set_exception(error)
            elif not callable(getattr(done.result(), "result", None)):
                outcome.set_result(done.result())
            else:
                answer = done.result()
                source = standard(answer) or self._races.call(answer.result)
                source.add_done_callback(lambda came: copy(came, outcome))

        turn.add_done_callback(take)
        return outcome


async def _result_of(future: Awaitable[Any]) -> Any:
    return await future


def _is_on_event_loop() -> bool:
    import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
