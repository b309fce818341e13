"""One account's requests: those still to be sent, and those in flight."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..config import Config
from ..runs.record import Record
from .listing import FEW, AccountView, Listing, is_of_account

#: For how many requests pages count that are still to be asked for.
MANY = 100

#: How many requests an account may have in flight while one of them is late.
MOST_OF_ACCOUNT = 32


@dataclass(slots=True, eq=False)
class Poll:
    """One run to ask for; `run_id` is the generation that is meant.

    `is_late`: it has been in flight for long; `is_answered`: it is only dealt with; `is_over`: no
    answer is waited for any more.
    """

    account: Account
    record: Record
    run_id: str
    is_single: bool = False
    began: float = 0.0
    is_late: bool = False
    is_answered: bool = False
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Page:
    """One page to ask for: `asked` is its first row and how many.

    `is_counted`: its listing knows what came of it, which may be just one thing. The rest is as in
    `Poll`.
    """

    account: Account
    listing: Listing
    asked: tuple[int, int]
    began: float = 0.0
    is_late: bool = False
    is_answered: bool = False
    is_over: bool = False
    is_counted: bool = False


class Account:
    """What is to be asked of one account. Guarded by the sweeper's lock.

    Its `singles` are asked for first: they were asked for apart from sweeps. Then come the pages
    of its list, then runs one by one. What a sweep did not get to, the next one goes on with.

    `in_flight` includes requests that were given up but whose threads hang. `is_hanging`: one of
    its requests is late, or the last that ended was; `is_stuck`: so many were given up that no more
    are begun.
    """

    def __init__(self, config: Config | None) -> None:
        self.config = config
        self.view = AccountView()
        self.slow_until = float("-inf")
        self.singles: deque[Poll] = deque()
        self.in_flight: set[Poll | Page] = set()
        self.is_hanging = False
        self.is_stuck = False
        self._listing: Listing | None = None
        self._polls: deque[Poll] = deque()
        # Whether runs are asked for since the list hangs; and where it failed as a whole, how many
        # polls in a row still have to fail like that, for the rest to fail with them.
        self._is_bypassed = False
        self._doubts = 0

    # The plan

    def plan(self, due: list[Record], *, can_list: bool, workers: int, now: float) -> list[Record]:
        """Plan to ask for these runs; return those that no request is under way for."""
        asked = self._asked
        if asked:
            due = [record for record in due if record not in asked]
        page_hangs = self._page_hangs
        if self._listing is not None and self._listing.is_through:
            self._listing = None  # its last page was given up, and all its runs told by themselves
        if self._listing is not None and not page_hangs:
            return due  # the pages of the sweep before are still coming
        if self._listing is not None:
            # Perhaps it is only the list that hangs. What a page shows in time is not asked for.
            self._listing.unseen = {record.run_id: record for record in due}
            self._is_bypassed = True
            self._plan_polls(due)
            return due
        self._is_bypassed, was_doubtful = False, self.view.is_doubtful
        if can_list and not page_hangs and self.view.should_list(len(due), workers, now):
            self._listing = Listing(self.view, self.config, due)
            # Those that were not got to come first where no page shows them either.
            wanted = set(due) if self._polls else ()
            self._polls = deque(poll for poll in self._polls if poll.record in wanted)
        else:
            self._plan_polls(due)
        self._doubts = FEW if was_doubtful and not self.view.is_doubtful else 0
        return due

    def _plan_polls(self, due: list[Record]) -> None:
        wanted = set(due)
        first = [poll.record for poll in self._polls if poll.record in wanted]
        wanted.difference_update(first)
        # Those that failed last time come last: they are the ones that may hang.
        rest = sorted((r for r in due if r in wanted), key=lambda r: r.failed_at is not None)
        self._polls = deque(Poll(self, record, record.run_id) for record in (*first, *rest))

    def drop(self) -> None:
        """Ask for nothing more that is planned."""
        for poll in self.singles:
            poll.is_over = True
        self.singles.clear()
        self._polls.clear()
        self._listing = None

    def leave_over(self, listing: Listing) -> list[Record]:
        """Once all pages are in, plan to ask for the runs that they did not show.

        Where the list failed as a whole they are returned instead, to fail with it.
        """
        if listing is not self._listing or not listing.is_through:
            return []
        self._listing = None
        left = listing.left_over()
        if listing.error is not None and not self._is_bypassed:
            self._polls.clear()
            return left
        asked = self._asked
        self._plan_polls([record for record in left if record not in asked])
        return []

    def answered(self, run_id: str, error: BaseException | None) -> list[Record]:
        """A run was asked for by itself; return those for which its error stands as well.

        Where the list has just failed as a whole, some more such errors tell of the account.
        """
        if error is None and self._listing is not None:
            self._listing.unseen.pop(run_id, None)
        if error is None or not is_of_account(error):
            self._doubts = 0
        if not self._doubts:
            return []
        self._doubts -= 1
        if self._doubts:
            return []
        left = [poll.record for poll in self._polls]
        self._polls.clear()
        return left

    # The requests

    def take(self) -> Poll | Page | None:
        """The next request; `None` where nothing is to be asked now."""
        if self.singles:
            return self.singles.popleft()
        listing = self._listing
        if listing is not None and listing.has_next and not self._page_hangs:
            return Page(self, listing, listing.next_page())
        while self._polls:
            poll = self._polls.popleft()
            if listing is None or poll.run_id in listing.unseen:
                return poll
        return None

    @property
    def waiting(self) -> int:
        """How many requests it has to send, at least; pages count as many."""
        listing = self._listing
        if listing is not None and listing.has_next and not self._page_hangs:
            return MANY
        return len(self.singles) + len(self._polls)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be asked, and no answer is waited for."""
        return not self.waiting and all(each.is_over for each in self.in_flight)

    @property
    def _asked(self) -> set[Record]:
        return {each.record for each in self.in_flight if isinstance(each, Poll)}

    @property
    def _page_hangs(self) -> bool:
        return any(isinstance(each, Page) and each.is_late for each in self.in_flight)
