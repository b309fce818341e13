"""The requests of a segment that have to wait, which are sent in the order of the calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...runtime.futures import copy
from .event_loops import is_on_event_loop, on_loop
from .futures import standard

if TYPE_CHECKING:
    from ..loop import Loop


class Gate(Protocol):
    """What requests wait for: that their server is back, or that their run is there.

    Safe from any thread.
    """

    def is_shut(self) -> bool:
        """Whether a request has to wait now."""

    def admit(self, seconds: float) -> None:
        """Wait until a request may be sent, so many seconds at most; raise where it may not be."""

    def is_over(self) -> bool:
        """Whether no request is sent any more."""

    def check(self) -> None:
        """Raise where the segment is to be left."""

    def note_waiting(self, are_waiting: bool) -> None:
        """Requests wait from now on, or none does any more; called under a lock of the turns."""


class _Turn(NamedTuple):
    """A request that waits: what sends it, the future of what that brings, and until when."""

    outcome: Future[Any]
    sending: Callable[[], Any]
    until: float


class Turns:
    """Sends the requests of a run one by one, when its gate admits them.

    A request waits `max_wait` seconds at most.

    Threads: every method is safe from any thread.
    """

    def __init__(self, run: Loop, gate: Gate, max_wait: float) -> None:
        self._record = run.record
        self._clock = run.clock
        self._waits = run.waits
        self._races = run.races
        self._gate = gate
        self._max_wait = max_wait
        self._lock = threading.Lock()
        # Guarded by _lock: each change of the requests that wait, which the gate is told with it.
        self._waiting: deque[_Turn] = deque()

    def are_needed(self) -> bool:
        """Whether a request has to wait now."""
        return self._gate.is_shut() or bool(self._waiting)

    def are_waiting(self) -> bool:
        """Whether requests wait."""
        return bool(self._waiting)

    def send(self, sending: Callable[[], Any]) -> Any:
        """What a call that sends a request returns, made when its turn comes.

        On an event loop a future of that comes at once.
        """
        if is_on_event_loop():
            return self.followed(self.queue(sending))
        return self.wait(sending)

    def wait(self, sending: Callable[[], Any]) -> Any:
        """The same on a plain thread, or where an event loop has to wait, too."""
        turn = self.queue(sending)
        try:
            self._waits.wait(self._record, lambda: turn.done() or self._gate.is_over(), None)
            self._gate.check()
            return turn.result()
        finally:
            turn.cancel()  # of an interrupted loop, too

    def send_async(self, method: Callable[[], Coroutine[Any, Any, Any]]) -> Awaitable[Any]:
        """What a coroutine function returns, called when its turn comes."""
        import asyncio  # noqa: PLC0415 (only a loop with an event loop needs it)

        # Not on the caller's event loop: that may be waiting for a later one.
        return _result_of(on_loop(self.queue(lambda: asyncio.run(method()))))

    def queue(self, sending: Callable[[], Any]) -> Future[Any]:
        """A future of what a call returns that is made when its turn comes."""
        turn = _Turn(Future(), sending, self._clock.monotonic() + self._max_wait)
        with self._lock:
            self._gate.note_waiting(True)
            self._waiting.append(turn)
            is_first = len(self._waiting) == 1
        if is_first:
            self._races.call(self._take_all)
        return turn.outcome

    def _take_all(self) -> None:
        """Send what waits, one by one."""
        is_last = False
        while not is_last:
            outcome, sending, until = self._waiting[0]
            try:
                self._gate.admit(max(0.0, until - self._clock.monotonic()))
            except BaseException as error:  # its caller gets it
                sending = _raising(error)
            settle: Callable[[], object] = outcome.done  # nothing, where it was cancelled
            if outcome.set_running_or_notify_cancel():
                try:
                    self._gate.check()
                    settle = partial(outcome.set_result, sending())
                except BaseException as error:  # its caller gets it
                    settle = partial(outcome.set_exception, error)
            with self._lock:
                # Not before it is sent: no later one may overtake it.
                self._waiting.popleft()
                is_last = not self._waiting
                if is_last:
                    self._gate.note_waiting(False)
            settle()
            self._waits.notify(self._record)

    def followed(self, turn: Future[Any]) -> Future[Any]:
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


def _raising(error: BaseException) -> Callable[[], Any]:
    def sending() -> Any:
        raise error

    return sending


async def _result_of(future: Awaitable[Any]) -> Any:
    return await future
