"""Decides per account: read the list of runs page by page, or ask for each run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..config import Config
from ..errors import ApiResponseError, ApiStatusError, ApiTimeoutError
from ..recovery.error_kinds import Kind, classify
from ..runs.record import Record

#: How many rows are asked for in a page, the most first; a server may refuse many, or give fewer.
#: To parse 500 rows takes about as long as Python lets any thread run before the next (5 ms).
PAGE_SIZES = (500, 250, 100)

#: Answers that mean that a server has no list of runs, or not of this size.
_REFUSALS = frozenset({400, 404, 405, 413, 414, 422, 501})

#: Those of them that do not speak of the size.
_NO_LIST = frozenset({404, 405, 501})

#: So few runs are just asked for: that is one round of requests on a monitor's own threads.
FEW = 8

#: To read so many rows of a page costs as much as a request for one run.
ROWS_PER_POLL = 100

#: Seconds after which what was learnt of an account's list is learnt anew.
LEARN_EVERY = 3600.0


@dataclass(slots=True, eq=False)
class AccountView:
    """What sweeps have learnt of an account's list. Guarded by the sweeper's lock.

    `page_size` is how many rows a page brings at most, `total` how many runs the account has,
    `depth` how many rows it took to see all that are monitored, `is_doubtful` whether the
    last list brought nothing at all.
    """

    page_size: int = PAGE_SIZES[0]
    total: int | None = None
    depth: int | None = None
    is_doubtful: bool = False
    learnt_at: float = float("-inf")
    refused_until: float = float("-inf")

    def should_list(self, runs: int, workers: int, now: float) -> bool:
        """Whether to begin with a page. So few runs that they fit one round are just asked for."""
        if runs <= max(FEW, workers) or now < self.refused_until:
            return False
        if self.is_doubtful:
            # Perhaps it is only the list that fails: single runs may still be asked for.
            self.is_doubtful = False
            return False
        if self.total is not None and now - self.learnt_at > LEARN_EVERY:
            self.total = self.depth = None
            self.page_size = PAGE_SIZES[0]
        return self.total is None or self.is_worthwhile(runs)

    def is_worthwhile(self, runs: int) -> bool:
        """Whether listing costs less than asking for this many runs one by one."""
        rows = self.total or 0
        if self.depth is not None:
            rows = min(rows, self.depth)
        return -(-rows // self.size_for(runs)) + rows / ROWS_PER_POLL <= runs

    def size_for(self, runs: int) -> int:
        """How many rows to ask for in a page where so many runs are looked for."""
        enough = [size for size in PAGE_SIZES if size >= runs]
        return min([self.page_size, *enough])

    def ask_for_less(self, limit: int, error: BaseException) -> bool:
        """Make pages smaller, where `limit` rows were too many; whether there is a smaller size."""
        smaller = [size for size in PAGE_SIZES if size < limit]
        if smaller:
            # What does not speak of the size is tried once with the smallest.
            size = smaller[0] if refuses_listing(error) else smaller[-1]
            self.page_size = min(self.page_size, size)
        return bool(smaller)


class Listing:
    """One account's pages, from the first to the last. Guarded by the sweeper's lock.

    Rows move between pages while training goes on, and totals can be wrong. So nothing is
    concluded from a run that was not seen: it is asked for by itself.

    `unseen` are the runs that no page has shown yet, `error` why pages could not be had.
    """

    def __init__(self, view: AccountView, config: Config | None, records: list[Record]) -> None:
        self.view = view
        self.config = config
        self.unseen = {record.run_id: record for record in records}
        self.error: BaseException | None = None
        self._runs = len(records)
        # Pages that cost more than this cost more than asking for each run.
        self._worth = float(len(records))
        self._is_first = True
        self._open = 0
        self._landed = 0
        # The first row that was not asked for yet, ranges of rows that did not come though they
        # were asked for, how many rows the last short page had, where the last full page ends, and
        # the last page with a run of ours.
        self._next = 0
        self._gaps: deque[tuple[int, int]] = deque()
        self._short = -1
        self._full_to = -1
        self._deepest = 0
        self._is_over = False

    @property
    def has_next(self) -> bool:
        """Whether there is a page to ask for now."""
        if self._is_over or not self.unseen or not (self._is_first or self._is_affordable):
            return False
        if self.view.total is None:
            return not self._open
        if self._gaps or self._next < (self.view.total or 1):
            return True
        # Totals can be wrong. But first the pages under way: they may have all that is missing.
        return not self._open and self._next <= self._full_to

    @property
    def _is_affordable(self) -> bool:
        return self._worth >= 1 + self.view.size_for(self._runs) / ROWS_PER_POLL

    @property
    def is_through(self) -> bool:
        """Whether no page is under way and none is to come."""
        return not self._open and not self.has_next

    def next_page(self) -> tuple[int, int]:
        """Take the next page to ask for: the number of its first row, and how many rows."""
        size = self.view.size_for(self._runs)
        offset, limit = self._gaps.popleft() if self._gaps else (self._next, size)
        if limit > size:
            self._gaps.appendleft((offset + size, limit - size))
            limit = size
        self._next = max(self._next, offset + limit)
        self._worth -= 1 + limit / ROWS_PER_POLL
        self._is_first = False
        self._open += 1
        return offset, limit

    def landed(
        self, asked: tuple[int, int], rows: int, total: int | None, seen: list[str], now: float
    ) -> None:
        """Take a page: how many rows it had, and which of the runs that are looked for."""
        view, (offset, limit) = self.view, asked
        end = offset + rows
        self._open -= 1
        self._landed += 1
        self.error = None
        wanted = len(self.unseen)
        for run_id in seen:
            self.unseen.pop(run_id, None)
        if seen:
            self._deepest = max(self._deepest, end)
        is_new = view.total is None and offset == 0
        if offset == 0:
            view.total = max(total or 0, rows)
        if 0 < rows < limit and end < (view.total or 0):
            self._came_short(end, rows, limit - rows)
        if rows >= limit:
            self._full_to = max(self._full_to, end)
        if is_new:
            view.learnt_at = now
            self._is_over = not view.is_worthwhile(wanted)
        if not self._open and not self.unseen:
            view.depth = self._deepest

    def _came_short(self, end: int, rows: int, missing: int) -> None:
        """A page had fewer rows than were asked for, though the list goes on."""
        if rows == self._short:
            self.view.page_size = min(self.view.page_size, rows)  # that is all a page has here
        self._short = rows
        if missing > 1:  # a page costs more than one run
            self._gaps.append((end, missing))

    def failed(self, asked: tuple[int, int], error: BaseException, now: float) -> None:
        """A page could not be had: no more of them, unless with fewer rows one may be.

        Where the error speaks of the whole account and no page came, none of its runs is asked for.
        """
        offset, limit = asked
        self._open -= 1
        if _may_be_of_size(error) and self.view.ask_for_less(limit, error):
            self._ask_again(offset, limit)
            return
        is_refused = refuses_listing(error)
        if is_refused and self._landed:
            return  # it is only this page that cannot be read
        self._is_over = True
        if is_refused:
            self.view.refused_until = now + LEARN_EVERY
        elif is_of_account(error) and self._landed == 0:
            self.error = error
            self.view.is_doubtful = True

    def _ask_again(self, offset: int, limit: int) -> None:
        self._is_first = self._is_first or not self._landed
        if self._next == offset + limit and not self._gaps:
            self._next = offset
        else:
            self._gaps.append((offset, limit))

    def left_over(self) -> list[Record]:
        """Hand over the runs that no page has shown."""
        left = list(self.unseen.values())
        if left and not self._is_affordable:
            # Deeper than it is worth to go.
            self.view.depth = self._next + self.view.page_size
        self.unseen = {}
        self._is_over = True
        return left


def refuses_listing(error: BaseException) -> bool:
    """Whether a server does not list runs, or not in a form that can be read."""
    if isinstance(error, ApiStatusError):
        return error.status in _REFUSALS
    return isinstance(error, ApiResponseError)


def is_of_account(error: BaseException) -> bool:
    """Whether an error speaks of the whole account or its server, not only of one request."""
    failure = classify(error)
    no_answer = failure.kind is Kind.SERVER and failure.status is None
    return no_answer or failure.kind in (Kind.ACCOUNT, Kind.PATIENCE)


def _may_be_of_size(error: BaseException) -> bool:
    if isinstance(error, ApiStatusError) and error.status in _NO_LIST:
        return False
    return isinstance(error, ApiTimeoutError) or not is_of_account(error)
