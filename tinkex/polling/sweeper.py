"""Runs sweeps: sends the requests on poll threads, with a time limit for each."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection
from itertools import groupby
from operator import attrgetter
from typing import Any

from ..config import Config
from ..errors import ApiResponseError, ApiTimeoutError
from ..ports import RestPort, Rows
from ..runs.record import Record
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock, Timer
from ..signals import Swept
from .account import Account, Page, Poll
from .detection import Detection
from .sweep import Sweep
from .turns import Turns

logger = logging.getLogger(__name__)

#: A request that has taken longer than this, in seconds, is late: no sweep waits for it any more,
#: and another may be sent in its place.
STRAGGLER = 1.0


class Sweeper:
    """Makes sweeps, one at a time. Accounts take turns, one request each.

    At most `workers` requests are in flight beside those that are late; 0 polls on the thread that
    begins a sweep. A poll may take `bound` seconds. `notify` wakes waits. Accounts that hang share
    half of the workers, and no sweep waits for them.

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
        notify: Callable[[object], None],
    ) -> None:
        self._rest = rest
        self._clock = clock
        self._workers = workers
        self._bound = bound
        self._detection = detection
        self._notify = notify
        self._turns = Turns(workers)
        # An exit in foreign code must not end a thread of ours; other threads may end.
        self._caught = BaseException if workers else Exception
        self._can_list = rest.can_list
        #: Whether polls run on threads of their own.
        self.makes_threads = workers > 0
        self._pool = DaemonPool(self._turns.most_threads, "tinkex-poll") if workers else None
        self._lock = threading.Lock()
        # Guarded by _lock: _turns, with all accounts and requests; the sweep under way; how many
        # threads are at work, the timer that looks after them, and whether it runs.
        self._sweep: Sweep | None = None
        self._at_work = 0
        self._is_watching = False
        self._watch_timer: Timer | None = None
        self._thread: int | None = None
        self._closed = False

    # Commands

    def begin(self, records: Collection[Record], on_end: Callable[[Swept], None]) -> None:
        """Begin a sweep; the thread that ends it calls `on_end`. None while one is under way."""
        self._detection.sweep_begins(records)
        runs_of: dict[Config | None, list[Record]] = {}
        for config, group in groupby(records, key=attrgetter("config")):
            runs_of.setdefault(config, []).extend(group)
        sweep = Sweep(self._clock.monotonic(), on_end)
        with self._lock:
            if self._closed or self._sweep is not None:
                return
            self._sweep = sweep
            stuck = self._turns.plan(sweep, runs_of, can_list=self._can_list)
        for each in stuck:
            self._detection.not_polled(each, self._bound)
        self._work()
        self._end_if_done(sweep)

    def poll(self, record: Record) -> Callable[[], bool]:
        """Poll one run now, outside any sweep; what is returned tells whether that is done."""
        with self._lock:
            account = self._turns.account(record.config)
            poll = Poll(account, record, record.run_id, is_single=True)
            if self._clock.monotonic() < account.slow_until:
                poll.is_over = True  # the server asked for patience; a later sweep asks
            else:
                account.singles.append(poll)
                self._turns.line_up(account)
        self._work()
        return lambda: self._closed or poll.is_over

    def close(self) -> None:
        """Begin no more polls and bring no more results."""
        with self._lock:
            self._closed = True
            self._turns.drop()
            self._turns.give_up(math.inf)
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

    @property
    def is_at_rest(self) -> bool:
        """Whether no request is in flight, or about to be sent, but those that are late."""
        with self._lock:
            is_fresh = any(not each.is_late for each in self._turns.in_flight)
            return self._closed or not (is_fresh or self._turns.planned(1))

    def is_own_thread(self) -> bool:
        """Whether the caller runs on the thread of a sweep, and so cannot wait for its end."""
        return self._thread == threading.get_ident()

    # Requests

    def _next(self) -> Poll | Page | None:
        with self._lock:
            is_surplus = self._pool is not None and self._at_work > self._turns.threads
            request = None if is_surplus else self._turns.next(self._clock.monotonic())
            self._at_work -= request is None
            return request

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
            most = 0 if self._closed else self._turns.threads
            more = self._turns.planned(max(0, most - self._at_work))
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
                self._drop_locked()
        if sweep is not None:
            logger.error("a sweep could not be made: %s", error)
            self._end_if_done(sweep)

    def _drop_locked(self) -> None:
        self._turns.drop()
        if self._sweep is not None:
            self._sweep.waits_for.clear()

    def _drain(self) -> None:
        while (request := self._next()) is not None:
            try:
                if isinstance(request, Page):
                    self._ask_page(request)
                else:
                    self._ask_run(request)
            except self._caught as error:
                logger.exception("an answer could not be dealt with")
                if isinstance(request, Page):
                    self._page_failed(request, error)
                with self._lock:
                    self._land_locked(request, error)
            except BaseException:  # an interrupt of a caller that polls on its own thread
                with self._lock:
                    self._at_work -= 1
                    self._land_locked(request, None)
                    self._drop_locked()
                self._ended(request)
                raise
            self._ended(request)

    def _ended(self, request: Poll | Page) -> None:
        """A request has ended: so may the sweep, and the wait for a single poll."""
        sweep = self._sweep
        if sweep is not None:
            self._end_if_done(sweep)
        if request.is_late and self._pool is not None:
            self._work()  # its account may have more in flight again
        if isinstance(request, Poll) and request.is_single:
            self._notify(request.record)
        if self._sweep is None:
            self._notify(self)

    def _ask_run(self, poll: Poll) -> None:
        run, error = self._asked(poll, self._rest.run, poll.run_id)
        with self._lock:
            is_wanted = not poll.is_over
            left = poll.account.answered(poll.run_id, error)
        if is_wanted and error is None:
            self._detection.seen(poll.account.config, poll.record, poll.run_id, run)
        elif is_wanted and error is not None:
            self._detection.failed(poll.account.config, poll.record, poll.run_id, error, poll.began)
            self._detection.all_failed(poll.account.config, left, error, poll.began)
        with self._lock:
            self._land_locked(poll, error)

    def _asked(
        self, request: Poll | Page, ask: Callable[..., Any], *args: Any
    ) -> tuple[Any, BaseException | None]:
        """The answer or the error: as a value, so that what follows is not raised from it."""
        try:
            return ask(request.account.config, *args), None
        except self._caught as error:
            return None, error
        finally:
            request.is_answered = True

    def _ask_page(self, page: Page) -> None:
        answer, error = self._asked(page, self._rest.rows, *page.asked)
        if error is None:
            error = self._read(page, answer)
        if error is not None and not page.is_over:
            self._page_failed(page, error)
        with self._lock:
            self._land_locked(page, error)
        if self._pool is not None:
            self._work()

    def _read(self, page: Page, rows: Rows) -> BaseException | None:
        """Deal with a page's rows; return why they cannot be read, if so."""
        listing = page.listing
        try:
            seen = self._detection.seen_page(page.account.config, listing.unseen, rows)
        except ApiResponseError as error:
            return error
        with self._lock:
            if not (page.is_over or page.is_counted):
                page.is_counted = True
                listing.landed(page.asked, *rows.totals(), seen, self._clock.monotonic())
                page.account.leave_over(listing)
        return None

    def _page_failed(self, page: Page, error: BaseException) -> None:
        with self._lock:
            # It may fail by itself in the moment in which it is given up.
            if page.is_counted:
                return
            page.is_counted = True
            page.listing.failed(page.asked, error, self._clock.monotonic())
            left = page.account.leave_over(page.listing)
            self._turns.line_up(page.account)
        self._detection.all_failed(page.account.config, left, error, page.began)

    def _land_locked(self, request: Poll | Page, error: BaseException | None) -> None:
        """A request has ended."""
        self._turns.landed(request, error, self._clock.monotonic())
        self._settle_locked(request.account)

    def _settle_locked(self, account: Account) -> None:
        """Have the sweep wait no more for an account that hangs or is done."""
        hangs = account.is_hanging and self._pool is not None
        if self._sweep is not None and (hangs or account.is_done):
            self._sweep.waits_for.discard(account)

    # The end

    def _end_if_done(self, sweep: Sweep) -> None:
        with self._lock:
            if self._sweep is not sweep or sweep.waits_for:
                return
            self._sweep, now = None, self._clock.monotonic()
            requests, errors = self._turns.count_anew()
            event = sweep.event(self._clock.utc(), now, requests=requests, errors=errors)
            is_closed = self._closed
        if not is_closed:
            sweep.on_end(event)

    def _watch(self) -> None:
        """Mark late requests, and give up those beyond their bound."""
        now = self._clock.monotonic()
        with self._lock:
            bound = self._bound + STRAGGLER  # our own rest client ends its calls by itself
            late = self._turns.mark_late(now - STRAGGLER, now - bound)
            for request in late:
                self._settle_locked(request.account)
            given_up = self._turns.give_up(now - bound)
            sweep = self._sweep
            again = self._is_watching = not self._closed and bool(sweep or self._turns.in_flight)
        for request in given_up:
            self._give_up(request)
        if sweep is not None:
            self._end_if_done(sweep)
        if late or given_up:
            self._work()
            self._notify(self)
        if again:
            self._watch_later()

    def _give_up(self, request: Poll | Page) -> None:
        seconds = f"no answer in {self._bound:g} s"
        if isinstance(request, Poll):
            error = ApiTimeoutError(f"run {request.run_id}: {seconds}")
            self._detection.failed(request.account.config, request.record, request.run_id, error)
            self._notify(request.record)
            return
        self._page_failed(request, ApiTimeoutError(f"the list of runs: {seconds}"))

    def _watch_later(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            fresh = [each.began for each in self._turns.in_flight if not each.is_late]
        delay = min(fresh, default=now) + STRAGGLER - now
        timer = self._clock.call_surely(max(delay, 0.01), self._watch)
        with self._lock:
            self._watch_timer = timer
            is_stale = self._closed
        if is_stale:
            timer.cancel()
