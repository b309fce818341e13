"""A thread pool on named daemon threads: a hung job cannot keep the interpreter from exiting."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonPool(Executor):
    """A `concurrent.futures.Executor` like `ThreadPoolExecutor`, but on daemon threads.

    The standard pool's threads are joined when the interpreter exits, so a call that never
    returns would keep a script alive for ever. A thread is made when it is first needed.

    Threads: every method is safe from any thread.
    """

    def __init__(self, max_workers: int, name: str) -> None:
        self._max_workers = max_workers
        self._name = name
        # Taken by itself: an interrupt in the condition's own `with` can leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Guarded by _lock:
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: list[threading.Thread] = []
        self._working: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `function` on a thread; `RuntimeError` if closed, or if none is free or can start.

        Those at work may hang: no job is left to them while there may be more threads.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name}: the pool is shut down")
            self._jobs.append((future, lambda: function(*args, **kwargs)))
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif len(self._threads) < self._max_workers:
                name = f"{self._name}_{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._jobs.pop()
                    raise
                self._threads.append(thread)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; the threads end when theirs are done."""
        with self._lock:
            self._closed = True
            dropped = list(self._jobs) if cancel_futures else []
            if cancel_futures:
                self._jobs.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()
        if wait:
            self.join(None)

    def join(self, timeout: float | None) -> None:
        """Wait for the threads of a pool that is shut down, at most `timeout` seconds in all."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            # Those at work last: they may hang, and must not use up the others' time.
            threads = sorted(self._threads, key=self._working.__contains__)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, function = job
            if not future.set_running_or_notify_cancel():
                continue
            result: Any = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # as the standard pools do: it is the job's outcome
                error = raised
            # Outside the except block: no error raised from here on comes from this one.
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del job, future, function, result, error

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            self._working.discard(threading.current_thread())
            self._idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._idle -= 1
            self._working.add(threading.current_thread())
            return self._jobs.popleft() if self._jobs else None
