"""Finds out that another owner has taken a run over: looks at the account's list, at times."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from ..config import Config
from ..config.credentials import secrets_of, without_secrets
from ..errors import heed
from ..ports import RestPort
from ..runs.record import Record
from ..runs.state import RunState
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock, Timer
from .lineages import families_in, list_all
from .metadata import NAME, OWNER, ROOT
from .verdict import Holder, Successor, superseded_by

logger = logging.getLogger(__name__)

#: The most seconds between two looks at an account.
LOOK_EVERY = 60.0

#: Seconds between two times that it is seen whether a look is due: it is due where the next time
#: would be too late, after one that failed, and after the machine was suspended.
TICK = 10.0

#: How many seconds a save that is under way is let end before its run yields in a tie.
SAVE_WAIT = 30.0

#: How many looks may hang in a foreign REST module before no other account is looked at.
AT_ONCE = 16


class _Look(NamedTuple):
    """When the last look at an account that went well began, and whether one failed since."""

    began: float
    is_failing: bool = False


class Fence:
    """Looks after the runs of a monitor that have an owner; nothing is done for others.

    `let_save(record, seconds)` waits until no save of a run is under way; `on_lost(record, run_id,
    successor)` is told of a run that another owner has taken over.

    Threads: every method is safe from any thread. Looks that are due are made on `tinkex-fence_N`;
    `inline`: on that of timers. Those that are asked for are made by the caller, who waits.
    """

    def __init__(
        self,
        rest: RestPort,
        clock: Clock,
        *,
        let_save: Callable[[Record, float], object],
        on_lost: Callable[[Record, str, Successor], object],
        inline: bool,
    ) -> None:
        self._rest = rest
        self._clock = clock
        self._let_save = let_save
        self._on_lost = on_lost
        self._pool = None if inline else DaemonPool(AT_ONCE, "tinkex-fence")
        self._lock = threading.Lock()
        # Guarded by _lock: the runs that have an owner, each with the generation that was last
        # looked at; the last look at each account; the accounts whose look that was due is under
        # way; whether there are ticks, and the timer of the next; whether no look is made any more.
        self._runs: dict[Record, str | None] = {}
        self._looks: dict[Config | None, _Look] = {}
        self._under_way: set[Config | None] = set()
        self._ticks = False
        self._timer: Timer | None = None
        self._closed = False

    def watch(self, record: Record) -> None:
        """Look after a run from now on, where it has an owner, until it is stopped."""
        if OWNER not in dict(record.history.carried):
            return
        with self._lock:
            self._runs.setdefault(record, None)
            is_first, self._ticks = not self._ticks, True
        if is_first:
            self._arm()

    def close(self) -> None:
        """Make no looks any more."""
        with self._lock:
            self._closed, timer = True, self._timer
        if timer is not None:
            timer.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def join(self, timeout: float) -> None:
        """Wait for the threads after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    def look(self, record: Record, *, unless_within: float = 0.0) -> bool:
        """Look now at the account of a run; return false where that failed, which proves nothing.

        Not where the last look was made within so many seconds, nor for a run without an owner.
        """
        with self._lock:
            last = self._looks.get(record.config)
            is_watched = record in self._runs and not self._closed
        is_new = last is not None and self._clock.elapsed() - last.began < unless_within
        return not is_watched or is_new or self._look(record.config)

    def look_first(self, record: Record) -> None:
        """Look at a generation that was not looked at yet: another owner may have made one, too."""
        with self._lock:
            is_new = self._runs.get(record, record.run_id) != record.run_id
        if is_new and not self.look(record):
            logger.warning("run %s: it goes on without that look", record.run_id)

    # Looks that are due

    def _tick(self) -> None:
        with self._lock:
            for each in [each for each in self._runs if each.state is RunState.STOPPED]:
                del self._runs[each]
            accounts = {each.config for each in self._runs if _is_trained_here(each)}
            due = [each for each in accounts - self._under_way if self._is_due_locked(each)]
            self._under_way.update(due)
            self._looks = {each: look for each, look in self._looks.items() if each in accounts}
            # One that is followed may be ours again.
            self._ticks = bool(self._runs)
        if self._ticks:
            self._arm()
        for account in due:
            if self._pool is None:
                self._look_due(account)
                continue
            try:
                self._pool.submit(self._look_due, account)
            except RuntimeError:  # closed just now, or no thread to be had: the next tick is near
                self._ended(account)

    def _is_due_locked(self, account: Config | None) -> bool:
        look = self._looks.get(account)
        if look is None or look.is_failing:
            return True
        return self._clock.elapsed() - look.began > LOOK_EVERY - TICK

    def _arm(self) -> None:
        timer = self._clock.call_surely(TICK, self._tick)
        with self._lock:
            self._timer, is_closed = timer, self._closed
        if is_closed:
            timer.cancel()

    def _look_due(self, account: Config | None) -> None:
        try:
            self._look(account)
        finally:
            self._ended(account)

    def _ended(self, account: Config | None) -> None:
        with self._lock:
            self._under_way.discard(account)

    # One look

    def _look(self, account: Config | None) -> bool:
        began = self._clock.elapsed()
        with self._lock:
            runs = [
                each for each in self._runs if each.config == account and _is_trained_here(each)
            ]
        try:
            lost = self._losers(account, runs)
            tied = [each for each, (_, found) in lost.items() if found.is_tie]
            if tied:
                # What is just being saved may turn it round, once it is there.
                for each in tied:
                    self._let_save(each, SAVE_WAIT)
                lost = self._losers(account, runs)
        except BaseException as error:  # an exit in foreign code, too
            heed(error)
            self._failed(account, runs, error)
            return False
        with self._lock:
            self._looks[account] = _Look(began)
        for record, (run_id, successor) in lost.items():
            if not successor.is_tie or record in tied:
                self._on_lost(record, run_id, successor)
        return True

    def _losers(
        self, account: Config | None, runs: list[Record]
    ) -> dict[Record, tuple[str, Successor]]:
        """Which runs of an account are superseded, as its list has it now, and by which."""
        holders = {each: _holder(each) for each in runs}
        rows = list_all(self._rest, account)
        found = {}
        for record, me in holders.items():
            families = families_in(self._rest, account, rows, name=me.name, root=me.root)
            successor = superseded_by(me, families)
            if successor is not None:
                found[record] = (me.run_id, successor)
        with self._lock:
            self._runs.update((each, me.run_id) for each, me in holders.items())
        return found

    def _failed(self, account: Config | None, runs: list[Record], error: BaseException) -> None:
        with self._lock:
            before = self._looks.get(account)
            self._looks[account] = _Look(before.began if before else 0.0, is_failing=True)
        if runs and not (before and before.is_failing):
            about = runs[0]
            shown = without_secrets(error, secrets_of(about.service, account))
            words = "run %s: whether another owner has taken it over cannot be seen (%s)"
            logger.warning(words, about.run_id, shown)


def _holder(record: Record) -> Holder:
    with record.lock:
        carried = dict(record.history.carried)
        at = record.run_id, record.generation
    return Holder(carried[OWNER], carried[ROOT], carried.get(NAME), *at)


def _is_trained_here(record: Record) -> bool:
    return record.state not in (RunState.FOLLOWING, RunState.STOPPED)
