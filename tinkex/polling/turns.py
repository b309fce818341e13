"""Which account sends the next request; how many those that hang may send."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from ..config import Config
from ..errors import patience
from ..runs.record import Record
from .account import MOST_OF_ACCOUNT, Account, Page, Poll
from .sweep import Sweep

#: With so many late requests none is begun for an account that hangs and has one in flight.
LATE_AT_MOST = 64

#: And with so many none at all.
LATE_OF_ALL = 512


class Stuck(NamedTuple):
    """An account whose polls hang for good: how many of them, and the runs that wait for them.

    `is_new`: it was not so at the sweep before.
    """

    config: Config | None
    hung: int
    runs: list[Record]
    is_new: bool


class Turns:
    """The accounts of a sweeper, and their requests in flight. Guarded by the sweeper's lock.

    Accounts that hang have half of the `workers` together; 0: one request at a time, for all.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._accounts: dict[Config | None, Account] = {}
        self._waiting: OrderedDict[Account, None] = OrderedDict()
        self.in_flight: set[Poll | Page] = set()
        self._late = self._sent = self._failed = 0
        #: How many threads there may ever be.
        self.most_threads = workers + LATE_OF_ALL

    @property
    def threads(self) -> int:
        """How many threads may be at work now: each that is late has another in its place."""
        return min(self._workers + self._late, self.most_threads)

    def account(self, config: Config | None) -> Account:
        """The account of a config."""
        account = self._accounts.get(config)
        if account is None:
            account = self._accounts[config] = Account(config)
        return account

    def plan(
        self, sweep: Sweep, runs_of: Mapping[Config | None, list[Record]], *, can_list: bool
    ) -> list[Stuck]:
        """Plan a sweep of these accounts' runs, and forget accounts that no run uses any more.

        Returns the accounts that nothing can be asked of.
        """
        now, found = sweep.began, []
        all_hung = sum(each.is_over for each in self.in_flight)
        for config in self._accounts.keys() - runs_of:
            if self._accounts[config].is_done:
                del self._accounts[config]
        for config, runs in runs_of.items():
            account = self.account(config)
            if now < account.slow_until:
                continue
            due = [record for record in runs if record.poll_after <= now]
            due = account.plan(due, can_list=can_list, workers=self._workers, now=now)
            sweep.runs += len(due)
            self.line_up(account)
            if not (account.is_hanging or account.is_done):
                sweep.waits_for.add(account)
            hung = sum(each.is_over for each in account.in_flight)
            is_full = all_hung >= self._room(account)
            was_stuck, account.is_stuck = account.is_stuck, is_full or hung >= MOST_OF_ACCOUNT
            if account.is_stuck:
                hung = max(hung, is_full * all_hung)
                found.append(Stuck(config, hung, due, is_new=not was_stuck))
        return found

    def line_up(self, account: Account) -> None:
        """Give an account that has something to ask its turn, after the others."""
        if account.waiting:
            self._waiting.setdefault(account)

    def drop(self) -> None:
        """Ask for nothing more that is planned."""
        for account in self._accounts.values():
            account.drop()
        self._waiting.clear()

    def planned(self, most: int) -> int:
        """How many requests are to be sent, counted up to `most`."""
        count = 0
        for account in self._waiting:
            if count >= most:
                break
            count += account.waiting
        return min(count, most)

    def next(self, now: float) -> Poll | Page | None:
        """Take the next request; `None` where none may be begun now."""
        for _ in range(len(self._waiting)):
            account, _ = self._waiting.popitem(last=False)
            request = account.take() if self._may_begin(account) else None
            self.line_up(account)
            if request is not None:
                request.began = now
                self._sent += 1
                account.in_flight.add(request)
                self.in_flight.add(request)
                return request
        return None

    def _room(self, account: Account) -> int:
        """How many late requests stop new ones of an account."""
        is_waiting = account.is_hanging and account.in_flight
        return LATE_AT_MOST if is_waiting else LATE_OF_ALL

    def _may_begin(self, account: Account) -> bool:
        if not self._workers:
            return True
        if self._late >= self._room(account):
            return False
        if not account.is_hanging:
            return True
        if len(account.in_flight) >= MOST_OF_ACCOUNT:
            return False
        fresh = sum(each.account.is_hanging and not each.is_late for each in self.in_flight)
        return fresh < max(1, self._workers // 2)

    def mark_late(self, before: float, answered_before: float) -> list[Poll | Page]:
        """Mark the requests that were begun before then; return those that were not so far.

        What is answered may be dealt with for longer; but that may hang in foreign code as well.
        """
        late = [
            each
            for each in self.in_flight
            if not each.is_late and each.began <= (answered_before if each.is_answered else before)
        ]
        for request in late:
            request.is_late = request.account.is_hanging = True
        self._late += len(late)
        return late

    def give_up(self, before: float) -> list[Poll | Page]:
        """Wait no more for requests that were begun before then; return those given up now."""
        given_up = [
            each
            for each in self.in_flight
            if not (each.is_over or each.is_answered) and each.began < before
        ]
        for request in given_up:
            request.is_over = True
        self._failed += len(given_up)
        return given_up

    def landed(self, request: Poll | Page, error: BaseException | None, now: float) -> None:
        """A request has ended, its thread is free again."""
        account = request.account
        if request not in self.in_flight:
            return
        if error is not None:
            self._failed += not request.is_over
            seconds = patience(error)
            if seconds is not None:
                account.slow_until = now + seconds
                account.drop()
        request.is_over = True
        self.in_flight.discard(request)
        account.in_flight.discard(request)
        self._late -= request.is_late
        account.is_hanging = request.is_late or any(each.is_late for each in account.in_flight)
        self.line_up(account)

    def count_anew(self) -> tuple[int, int]:
        """How many requests were sent since this was asked last, and how many have failed."""
        counts = self._sent, self._failed
        self._sent = self._failed = 0
        return counts
