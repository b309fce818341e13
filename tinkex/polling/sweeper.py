"""Runs sweeps: sends the requests on poll threads, with a time limit for each."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter
from typing import Any

from ..config import Config
from ..errors import ApiTimeoutError, patience
from ..ports import RestPort
from ..runs.record import Record
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock, Timer
from ..signals import Swept
from .detection import Detection
from .listing import AccountView, Listing, is_of_account, refuses_listing
from .sweep import Page, Poll, Sweep

logger = logging.getLogger(__name__)

#: A request that has taken longer than this, in seconds, does not hold a sweep's end any more.
STRAGGLER = 1.0

#: How many threads may hang in a foreign rest module beside those that still poll.
MAX_HUNG = 64


class Sweeper:
    """Makes sweeps, one at a time.

    At most `workers` requests are in flight; 0 polls on the thread that begins a sweep. A poll
    may take `bound` seconds. The thread that ends a sweep calls `on_end`; `notify` gets the record
    of each run whose poll outside a sweep is done.

    Threads: safe from any thread; polls run on `tinkex-poll_N`.
    """

    def __init__(
        self,
        rest: RestPort,
        clock: Clock,
        *,
        workers: int,
        bound: float,
        detection: Detection,
        on_end: Callable[[Swept], None],
        notify: Callable[[Record], None],
    ) -> None:
        self._rest = rest
        self._clock = clock
        self._workers = workers
        self._bound = bound
        self._detection = detection
        self._on_end = on_end
        self._notify = notify
        self._pool = DaemonPool(workers + MAX_HUNG, "tinkex-poll") if workers else None
        self._lock = threading.Lock()
        # Guarded by _lock: what was learnt of the accounts, the sweep under way, single polls
        # beside it, the requests in flight, those that were given up but whose threads still
        # hang, how many threads are at work, and the timer that looks after them.
        self._views: defaultdict[Config | None, AccountView] = defaultdict(AccountView)
        self._sweep: Sweep | None = None
        self._single: deque[Poll] = deque()
        self._in_flight: set[Poll | Page] = set()
        self._given_up: set[Poll | Page] = set()
        self._at_work = 0
        self._is_watching = False
        self._watch_timer: Timer | None = None
        self._thread: int | None = None
        self._closed = False

    # Commands

    def begin(self, records: Iterable[Record]) -> None:
        """Begin a sweep; without effect while one is under way."""
        accounts: dict[Config | None, list[Record]] = {}
        for config, group in groupby(records, key=attrgetter("config")):
            accounts.setdefault(config, []).extend(group)
        sweep = Sweep(self._clock.monotonic())
        with self._lock:
            if self._closed or self._sweep is not None:
                return
            self._sweep = sweep
            for config, runs in accounts.items():
                self._plan_locked(sweep, config, runs)
        self._work()
        self._end_if_done(sweep)

    def poll(self, record: Record) -> Callable[[], bool]:
        """Poll one run now, outside any sweep; what is returned tells whether that is done."""
        poll = Poll(Sweep(self._clock.monotonic(), ended=True), record, record.run_id)
        with self._lock:
            self._single.append(poll)
        self._work()
        return lambda: self._closed or not (poll in self._single or poll in self._in_flight)

    def close(self) -> None:
        """Begin no more polls and bring no more results."""
        with self._lock:
            self._closed = True
            self._in_flight.clear()
            self._single.clear()
            timer = self._watch_timer
        if timer is not None:
            timer.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self, timeout: float) -> None:
        """Wait for the poll threads after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    # Queries

    @property
    def is_sweeping(self) -> bool:
        """Whether a sweep is under way."""
        return self._sweep is not None and not self._closed

    def is_own_thread(self) -> bool:
        """Whether the caller runs on the thread of a sweep, and so cannot wait for its end."""
        return self._thread == threading.get_ident()

    # The plan

    def _plan_locked(self, sweep: Sweep, config: Config | None, records: list[Record]) -> None:
        view, now = self._views[config], sweep.began
        if now < view.slow_until:
            return
        under_way = (*self._in_flight, *self._given_up)
        hanging = {p.record for p in under_way if isinstance(p, Poll)}
        due = [r for r in records if r.poll_after <= now and r not in hanging]
        sweep.runs += len(due)
        # A page that hangs must not be followed by more of them, and hides no run.
        hangs = any(isinstance(p, Page) and p.config == config for p in under_way)
        if self._rest.can_list and not hangs and view.should_list(len(due), self._workers, now):
            sweep.listings.append(Listing(view, config, due))
        else:
            # Those that failed last time come last: they are the ones that may hang.
            due.sort(key=lambda record: record.failed_at is not None)
            sweep.polls.extend(Poll(sweep, record, record.run_id) for record in due)

    def _next(self) -> Poll | Page | None:
        with self._lock:
            while not self._closed:
                request: Poll | Page | None = None
                if self._single:
                    request = self._single.popleft()
                elif self._sweep is not None:
                    request = self._sweep.take()
                if request is None:
                    break
                now = self._clock.monotonic()
                if isinstance(request, Poll) and now < self._views[request.config].slow_until:
                    continue  # the server asked for patience; the next sweep asks for this run
                request.began = now
                request.sweep.requests += 1
                self._in_flight.add(request)
                return request
            self._at_work -= 1
            return None

    # Requests

    def _work(self) -> None:
        """Have what is planned asked for, on as many threads as there may be."""
        if self._pool is None:
            self._thread, before = threading.get_ident(), self._thread
            with self._lock:
                self._at_work += 1
            try:
                self._drain()
            finally:
                self._thread = before
            return
        with self._lock:
            planned = len(self._single)
            if self._sweep is not None:
                planned += len(self._sweep.polls) + self._workers * len(self._sweep.listings)
            # Threads that hang in a foreign rest module beyond the bound are not counted on.
            free = self._workers - (self._at_work - len(self._given_up))
            more = 0 if self._closed else max(0, min(planned, free))
            self._at_work += more
            watch = more > 0 and not self._is_watching
            self._is_watching = self._is_watching or watch
        for _ in range(more):
            try:
                self._pool.submit(self._drain)
            except RuntimeError as error:
                self._not_at_work(error)
        if watch:
            self._watch_later()

    def _not_at_work(self, error: RuntimeError) -> None:
        """No thread could be had; without any the sweep ends, and the next one tries again."""
        with self._lock:
            self._at_work -= 1
            sweep = None if self._at_work or self._closed else self._sweep
            if sweep is not None:
                sweep.drop()
        if sweep is not None:
            logger.error("a sweep could not be made: %s", error)
            self._end_if_done(sweep)

    def _drain(self) -> None:
        while (request := self._next()) is not None:
            is_single = request.sweep.ended
            try:
                if isinstance(request, Page):
                    self._ask_page(request)
                else:
                    self._ask_run(request)
            except Exception as error:
                logger.exception("an answer could not be dealt with")
                with self._lock:
                    self._remove_locked(request, error)
                    if isinstance(request, Page):
                        now = self._clock.monotonic()
                        request.listing.failed(error, refused=False, whole=False, now=now)
            except BaseException:  # an interrupt of a caller that polls on its own thread
                with self._lock:
                    self._at_work -= 1
                    self._remove_locked(request, None)
                    request.sweep.drop()
                self._end_if_done(request.sweep)
                raise
            self._end_if_done(request.sweep)
            if isinstance(request, Poll) and is_single:
                self._notify(request.record)

    def _ask_run(self, poll: Poll) -> None:
        run, error = self._asked(self._rest.run, poll.config, poll.run_id)
        with self._lock:
            is_wanted = poll in self._in_flight and not self._closed
            self._remove_locked(poll, error)
        if is_wanted and error is None:
            self._detection.seen(poll.record, poll.run_id, run)
        elif is_wanted and error is not None:
            self._detection.failed(poll.record, poll.run_id, error, poll.began)

    def _asked(self, ask: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
        """The answer or the error: as a value, so that what follows is not raised from it."""
        try:
            return ask(*args), None
        except BaseException as error:
            # An exit in foreign code must not end a thread of ours; other threads may end.
            if self._pool is None and not isinstance(error, Exception):
                raise
            return None, error

    def _ask_page(self, page: Page) -> None:
        listing = page.listing
        size = listing.view.page_size
        answer, error = self._asked(self._rest.page, page.config, page.number * size, size)
        rows, total = answer or ((), None)
        found = [(record, i, row) for i, row in rows if (record := listing.unseen.get(i))]
        misfits = [] if error is not None else self._detection.seen_rows(page.config, found)
        seen = [run_id for _, run_id, _ in found if run_id not in misfits]
        with self._lock:
            now = self._clock.monotonic()
            self._remove_locked(page, error)
            if error is None:
                listing.landed(page.number, len(rows), total, seen, now)
            else:
                refused, whole = refuses_listing(error), is_of_account(error)
                listing.failed(error, refused=refused, whole=whole, now=now)
            left = self._left_over_locked(page)
        if listing.error is not None:
            self._detection.all_failed(left, listing.error, page.began)
        elif self._pool is not None and (left or listing.has_next):
            self._work()

    def _remove_locked(self, request: Poll | Page, error: BaseException | None) -> None:
        self._given_up.discard(request)
        self._in_flight.discard(request)
        if error is not None:
            request.sweep.errors += 1
            seconds = patience(error)
            if seconds is not None:
                self._views[request.config].slow_until = self._clock.monotonic() + seconds

    def _left_over_locked(self, page: Page) -> list[Record]:
        """The runs that a listing did not show, once it is through; each is asked for."""
        if page.sweep.ended:
            page.listing.end()
        if not page.listing.is_through or self._closed:
            return []
        left = page.listing.left_over()
        if page.listing.error is None:
            polls = self._single if page.sweep.ended else page.sweep.polls
            polls.extend(Poll(page.sweep, record, record.run_id) for record in left)
        return left

    # The end

    def _end_if_done(self, sweep: Sweep) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if sweep.ended or sweep.polls or any(each.has_next for each in sweep.listings):
                return
            if any(r.sweep is sweep and now - r.began < STRAGGLER for r in self._in_flight):
                return
            sweep.ended = True
            self._sweep = None
            event = None if self._closed else sweep.event(self._clock.utc(), now)
        if event is not None:
            self._on_end(event)

    def _watch(self) -> None:
        """End a sweep that only stragglers hold, and give up requests beyond their bound."""
        now = self._clock.monotonic()
        with self._lock:
            sweep = self._sweep
            # Our own rest client ends its calls by itself; a second more is for its answer.
            late = [r for r in self._in_flight if now - r.began > self._bound + STRAGGLER]
            self._in_flight.difference_update(late)
            self._given_up.update(late)
            again = self._is_watching = not self._closed and bool(sweep or self._in_flight)
        for request in late:
            request.sweep.errors += 1
            if isinstance(request, Poll):
                error = ApiTimeoutError(f"run {request.run_id}: no answer in {self._bound:g} s")
                self._detection.failed(request.record, request.run_id, error)
                self._notify(request.record)
        if sweep is not None:
            self._end_if_done(sweep)
        if late:
            self._work()
        if again:
            self._watch_later()

    def _watch_later(self) -> None:
        timer = self._clock.call_later(STRAGGLER, self._watch)
        with self._lock:
            self._watch_timer = timer
            is_stale = self._closed
        if is_stale:
            timer.cancel()
