"""Calls callers' functions, in order for each run, on the signal threads; parks one that hangs."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial

from .jobs import Group, Job, Lane, Parked, identity_of, jobs_of, name_of, telling

logger = logging.getLogger(__name__)

#: How many lanes may be delivered at the same time.
LANES_AT_ONCE = 32

#: The seconds after which a call that has not returned is parked.
PATIENCE = 10.0

#: For how many seconds a thread stays that has nothing to call: to start one takes longer than most
#: calls.
LINGER = 1.0

#: How many calls wait for a parked function at most; the oldest give way.
BACKLOG = 1000

#: How many parked functions may hang at the same time; from there on calls hold up their lanes.
MOST_PARKED = 2048


class Delivery:
    """Calls functions: those of one lane one after the other, other lanes meanwhile.

    A call that takes longer than `PATIENCE` is parked: its lane goes on without it, on another
    thread. What comes for the same function waits until all its parked calls have returned, and
    is then called in order; so is, each on a thread of its own, what is left of the same group,
    which may hang as well. So there are at most `LANES_AT_ONCE` threads for lanes, and beside them
    those of parked functions: for each, the calls that were under way when it was parked.

    `inline`: call them on the thread that flushes, all in one lane, and make no thread; there a
    `KeyboardInterrupt` reaches the caller, and what is left goes out with the next flush.
    `on_idle` is called each time that a lane is empty.

    Threads: every method is safe from any thread. `queue` only touches memory, `flush` never
    waits and never raises unless `inline`. Whatever a function raises is logged.
    """

    def __init__(
        self, *, inline: bool, on_idle: Callable[[], None], name: str = "tinkex-signals"
    ) -> None:
        self._inline = inline
        self._on_idle = on_idle
        self._name = name
        self._caught = Exception if inline else BaseException
        self._numbers = itertools.count()
        # Taken by itself: an interrupt in the condition's own `with` can leave it locked.
        self._lock = threading.Lock()
        self._called = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        # Guarded by _lock: _lanes by key, each of them in _waiting, where no thread has taken it
        # yet, or in _taken; _parked, functions by key, and _unstaffed, those of them that need a
        # thread; _free, the threads that are in no parked call; _threads, all that are alive;
        # _is_watched; _closed. Other locks may be held around it.
        self._lanes: dict[object, Lane] = {}
        self._waiting: deque[Lane] = deque()
        self._taken: set[Lane] = set()
        self._parked: dict[Hashable, Parked] = {}
        self._unstaffed: deque[Parked] = deque()
        self._free = 0
        self._threads: set[threading.Thread] = set()
        self._is_watched = False
        self._closed = False

    def queue(self, key: object, groups: Iterable[Group]) -> None:
        """Have groups of jobs called after all that was queued for the lane `key` before."""
        key = None if self._inline else key
        added = tuple(groups)
        with self._lock:
            if self._closed or not added:
                return
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane(key)
                self._waiting.append(lane)
            lane.groups.extend(added)

    def flush(self) -> None:
        """Start to call what is queued. The caller holds no lock."""
        if not self._inline:
            self._staff()
            return
        try:
            while self._waiting and (lane := self._take()) is not None:
                self._deliver(lane)
                self._on_idle()
        except BaseException:  # an interrupt of the caller: what is left is delivered later
            with self._lock:
                for lane in [each for each in self._taken if each.thread == threading.get_ident()]:
                    self._give_back_locked(lane)
            self._on_idle()
            raise

    def post(self, key: object, function: Callable[[], object]) -> None:
        """Queue one function and flush."""
        self.queue(key, (lambda: (Job(function, name_of(function), identity_of(function)),),))
        self.flush()

    def is_idle(self) -> bool:
        """Whether nothing is left to deliver but what waits for the calling thread itself."""
        own = threading.get_ident()
        with self._lock:
            return all(lane.thread == own for lane in self._lanes.values()) and all(
                not parked.threads - {own} and (parked.threads or not parked.jobs)
                for parked in self._parked.values()
            )

    def close(self) -> None:
        """Deliver nothing more, ever; a function that is running ends by itself."""
        with self._lock:
            self._closed = True
            while self._waiting:
                del self._lanes[self._waiting.popleft().key]
            for lane in self._lanes.values():
                lane.groups.clear()
                lane.jobs.clear()
            self._called.notify_all()
            self._ended.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the threads of a closed delivery, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._lock:
            in_calls = {lane.thread for lane in self._taken}
            in_calls.update(*(parked.threads for parked in self._parked.values()))
            # Those in calls last: they may hang, and must not use up the others' time.
            threads = sorted(self._threads, key=lambda thread: thread.ident in in_calls)
        for thread in filter(threading.Thread.is_alive, threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # Threads

    def _staff(self) -> None:
        """Start the threads that are needed; where none can start, the next flush tries again."""
        while self._waiting or self._unstaffed:
            undo: list[Callable[[], object]] = []
            try:
                if (work := self._wanted(undo)) is None:
                    return
                name = f"{self._name}_{next(self._numbers)}"
                run = threading.Thread(target=self._run, args=(work, undo), name=name, daemon=True)
                with self._lock:
                    self._threads.add(run)
                    undo.append(partial(self._threads.discard, run))
                run.start()
            except BaseException as error:  # no thread, or an interrupt, which goes on
                with self._lock:
                    while undo:  # it has not begun, and will not
                        undo.pop()()
                if isinstance(error, RuntimeError):
                    return
                raise

    def _wanted(self, undo: list[Callable[[], object]]) -> Callable[[], object] | None:
        """What one more thread is to do; `undo` gets what undoes that with the lock held."""
        with self._lock:
            if self._closed:
                return None
            if not self._is_watched:
                undo.append(partial(setattr, self, "_is_watched", False))
                self._is_watched = True
                return self._watch
            if self._unstaffed:
                undo.append(partial(self._unstaffed.append, parked := self._unstaffed.popleft()))
                return partial(self._work_off, parked)
            spare = self._free - len(self._taken)
            if len(self._waiting) <= spare or self._free >= LANES_AT_ONCE:
                self._called.notify(len(self._waiting))
                return None
            undo.append(lambda: setattr(self, "_free", self._free - 1))
            self._free += 1
            return self._work

    def _run(self, work: Callable[[], object], undo: list[Callable[[], object]]) -> None:
        with self._lock:
            if not undo:
                return
            undo.clear()
        try:
            work()
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _work(self) -> None:
        while (lane := self._take()) is not None:
            parked = self._deliver(lane)
            self._on_idle()
            if parked is not None:
                # Another thread is in this one's place.
                self._work_off(parked)
                return

    def _watch(self) -> None:
        """Look after the calls that are under way, as long as there may be any."""
        while True:
            with self._lock:
                if self._closed or not (self._free or self._waiting or self._parked):
                    self._is_watched = False
                    break
                self._ended.wait(PATIENCE / 4)
            self._park_late()
            self._staff()
        self._drop_parked()

    # Lanes

    def _take(self) -> Lane | None:
        with self._lock:
            if not (self._waiting or self._inline):
                self._called.wait_for(lambda: self._waiting or self._closed, LINGER)
            if not self._waiting:
                self._free -= 1
                return None
            lane = self._waiting.popleft()
            lane.thread = threading.get_ident()
            self._taken.add(lane)
            return lane

    def _deliver(self, lane: Lane) -> Parked | None:
        """Call what is queued for a lane; return what the last call was parked as, if it was."""
        while (job := self._next(lane)) is not None:
            self._call(job)
            with self._lock:
                if lane.job is not job:
                    return self._parked[job.key]
                lane.job = None
        return None

    def _next(self, lane: Lane) -> Job | None:
        while True:
            with self._lock:
                while lane.jobs:
                    job = lane.jobs.popleft()
                    if job.key not in self._parked:
                        lane.job, lane.since = job, time.monotonic()
                        return job
                    self._park_locked(job)
                if not lane.groups:
                    # In the step that looks, so that what is queued from now on waits anew.
                    del self._lanes[lane.key]
                    self._taken.discard(lane)
                    return None
                group = lane.groups.popleft()
            jobs = jobs_of(group, logger, self._caught)
            with self._lock:
                if not self._closed:
                    lane.jobs.extend(jobs)

    def _give_back_locked(self, lane: Lane) -> None:
        self._taken.discard(lane)
        lane.thread = lane.job = None
        if self._closed:
            self._lanes.pop(lane.key, None)
        elif lane.key in self._lanes:
            self._waiting.append(lane)

    def _call(self, job: Job) -> None:
        try:
            job.function()
        except BaseException as error:  # an exit or a cancellation is this function's affair only
            if self._inline and isinstance(error, KeyboardInterrupt):
                raise
            with suppress(self._caught):  # handlers of the log are foreign, too
                logger.exception("%s failed", job.name)

    # Parked functions

    def _park_locked(self, job: Job) -> Parked:
        """Have a job called apart from its lane, after those of the same function."""
        parked = self._parked.get(job.key)
        if parked is None:
            parked = self._parked[job.key] = Parked(job.key, job.name)
            self._unstaffed.append(parked)
        if len(parked.jobs) >= BACKLOG:
            parked.jobs.popleft()
            parked.lost += 1
        parked.jobs.append(job)
        return parked

    def _park_late(self) -> None:
        """Park the calls that take too long, and tell of each function once."""
        before = time.monotonic() - PATIENCE
        with self._lock:
            for lane in [each for each in self._taken if each.since <= before]:
                if lane.job and lane.thread and len(self._parked) < MOST_PARKED:
                    job, known = lane.job, self._parked.get(lane.job.key)
                    parked = known or Parked(job.key, job.name)
                    self._parked[job.key] = parked
                    parked.threads.add(lane.thread)
                    parked.since = lane.since
                    self._free -= 1
                    while lane.jobs:
                        self._park_locked(lane.jobs.popleft())
                    self._give_back_locked(lane)
            found = self._parked.values()
            late = [p for p in found if p.threads and p.since <= before and not p.is_told]
            for parked in late:
                parked.is_told = True
        told = "%s has not returned for %g s; it is not called again before it does"
        self.queue(telling, [telling(logger, told, parked.name, PATIENCE) for parked in late])

    def _drop_parked(self) -> None:
        """Let go of what waits for hung functions: of a million calls that takes a second."""
        with self._lock:
            left = tuple(self._parked.values()) if self._closed else ()
        for parked in left:
            with self._lock:
                dropped, parked.jobs = parked.jobs, deque()
            del dropped  # without the lock: what it holds may be foreign

    def _work_off(self, parked: Parked) -> None:
        """Call what waits for a parked function, unless another call of it is under way."""
        while (job := self._next_parked(parked)) is not None:
            self._call(job)
        if not parked.threads and parked.lost:
            told = "%s: %d calls were left out while it hung"
            self.queue(telling, [telling(logger, told, parked.name, parked.lost)])
            self.flush()
        self._on_idle()

    def _next_parked(self, parked: Parked) -> Job | None:
        own = threading.get_ident()
        with self._lock:
            parked.threads.discard(own)
            if parked.threads:
                return None
            if self._closed or not parked.jobs:
                if self._parked.get(parked.key) is parked:
                    del self._parked[parked.key]
                return None
            parked.threads.add(own)
            parked.since = time.monotonic()
            job = parked.jobs.popleft()
            parked.name = job.name
            return job
