"""Decides per account: read the list of runs page by page, or ask for each run."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from ..errors import ApiResponseError, ApiStatusError
from ..ports import PAGE_SIZE
from ..recovery.error_kinds import Kind, classify
from ..runs.record import Record

#: Answers that mean that a server has no list of runs, or not of this size.
_REFUSALS = frozenset({400, 404, 405, 422, 501})

#: So few runs are just asked for: that is one round of requests on a monitor's own threads.
FEW = 8

#: What a page costs, in requests for one run: its rows have to be read as well.
PAGE_COST = 2

#: Seconds after which what was learnt of an account's list is learnt anew.
LEARN_EVERY = 3600.0


@dataclass(slots=True, eq=False)
class AccountView:
    """What sweeps have learnt of an account. Guarded by the sweeper's lock.

    `page_size` is how many rows a page really brings, `total` how many runs the account has,
    `depth` how many pages it took to see all that are monitored, `is_doubtful` whether the
    last list brought nothing at all.
    """

    page_size: int = PAGE_SIZE
    total: int | None = None
    depth: int | None = None
    is_doubtful: bool = False
    learnt_at: float = float("-inf")
    refused_until: float = float("-inf")
    slow_until: float = float("-inf")

    def should_list(self, runs: int, workers: int, now: float) -> bool:
        """Whether to begin with a page. So few runs that they fit one round are just asked for."""
        if runs <= max(FEW, workers) or now < self.refused_until:
            return False
        if self.is_doubtful:
            # Perhaps it is only the list that fails: single runs may still be asked for.
            self.is_doubtful = False
            return False
        if now - self.learnt_at > LEARN_EVERY:
            self.total = self.depth = None
            self.page_size = PAGE_SIZE
        return self.total is None or self.is_worthwhile(runs)

    def is_worthwhile(self, runs: int) -> bool:
        """Whether listing costs less than asking for this many runs one by one."""
        pages = -(-(self.total or 0) // self.page_size)
        if self.depth is not None:
            pages = min(pages, self.depth)
        return pages * PAGE_COST <= runs


class Listing:
    """One account's pages in one sweep. Guarded by the sweeper's lock.

    Rows move between pages while training goes on, and totals can be wrong. So nothing is
    concluded from a run that was not seen: it is asked for by itself.

    `unseen` are the runs that no page has shown yet, `error` why pages could not be had.
    """

    def __init__(self, view: AccountView, config: Config | None, records: list[Record]) -> None:
        self.view = view
        self.config = config
        self.unseen = {record.run_id: record for record in records}
        self.error: BaseException | None = None
        # More pages than this cost more than asking for each run.
        self._worth = max(1, len(records) // PAGE_COST)
        self._asked = 0
        self._open = 0
        self._landed = 0
        self._last_full = -1
        self._deepest = -1
        self._is_over = False

    @property
    def has_next(self) -> bool:
        """Whether there is a page to ask for now."""
        if self._is_over or not self.unseen or self._asked >= self._worth:
            return False
        if self.view.total is None and self._open:
            return False
        if self._asked * self.view.page_size < (self.view.total or 1):
            return True
        # Totals can be wrong. But first the pages under way: they may have all that is missing.
        return not self._open and self._asked <= self._last_full + 1

    @property
    def is_through(self) -> bool:
        """Whether no page is under way and none is to come."""
        return not self._open and not self.has_next

    def next_page(self) -> int:
        """Take the number of the next page to ask for."""
        self._asked += 1
        self._open += 1
        return self._asked - 1

    def landed(self, page: int, rows: int, total: int | None, seen: list[str], now: float) -> None:
        """Take a page: how many rows it had, and which of the runs that are looked for."""
        view = self.view
        self._open -= 1
        self._landed += 1
        self.error = None
        wanted = len(self.unseen)
        for run_id in seen:
            self.unseen.pop(run_id, None)
        if seen:
            self._deepest = max(self._deepest, page)
        if page == 0:
            is_new = view.total is None
            view.total = max(total or 0, rows)
            if 0 < rows < min(view.page_size, view.total):
                view.page_size = rows  # the server gives fewer rows than were asked for
            if is_new:
                view.learnt_at = now
                self._is_over = not view.is_worthwhile(wanted)
        if rows and rows >= view.page_size:
            self._last_full = max(self._last_full, page)
        if not self._open and not self.unseen:
            view.depth = self._deepest + 1

    def failed(self, error: BaseException, *, refused: bool, whole: bool, now: float) -> None:
        """A page could not be had: no more of them in this sweep.

        `refused`: the server does not list; `whole`: the error speaks of the whole account, and
        where no page came, none of its runs is asked for in this sweep.
        """
        self._open -= 1
        self._is_over = True
        if refused:
            self.view.refused_until = now + LEARN_EVERY
        elif whole and self._landed == 0:
            self.error = error
            self.view.is_doubtful = True

    def end(self) -> None:
        """Ask for no more pages."""
        self._is_over = True

    def left_over(self) -> list[Record]:
        """Hand over the runs that no page has shown."""
        left = list(self.unseen.values())
        if left and self._asked >= self._worth:
            self.view.depth = self._asked + 1  # deeper than it is worth to go
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
