"""Circuit breakers of accounts: while one is open, the account's incidents wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from .. import rest
from ..arguments import NO_METADATA
from ..config import Config
from ..ports import RestPort
from ..runtime.publisher import Late, Publisher
from ..runtime.scheduler import Clock
from ..signals import Event, Paused, Resumed

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")

#: Why an account is held: the server refused it (401, 402, 403), or the journal its attempts.
REFUSED = "refused"

#: Why an account is held: its server is down.
DOWN = "down"

#: So many accounts are kept without a look at whether they are used.
MANY = 64

#: An account whose polls have not succeeded for so many seconds, and that nothing holds, is unused.
UNUSED_AFTER = 3600.0


class Breaker(StrEnum):
    """The state of an account's circuit breaker."""

    #: Attempts begin freely. Left when something holds the account.
    CLOSED = "closed"
    #: No attempt begins. Left when no reason is left, or for a probe.
    OPEN = "open"
    #: A probe is under way: one incident makes an attempt, to see whether the account works.
    HALF_OPEN = "half-open"


@dataclass(slots=True, eq=False)
class _Hold:
    """A reason for which an account is held.

    `polls_fail`: the account's polls fail for the same reason, so a good poll ends the hold;
    otherwise only an attempt that is not refused ends it.
    """

    error: BaseException
    polls_fail: bool


@dataclass(slots=True, eq=False)
class _Account(Generic[T]):
    """One account: its holds by reason, who waits, and when a poll last succeeded.

    `probes` go ahead all the same; the value says whether their attempt has begun.
    """

    holds: dict[str, _Hold] = field(default_factory=dict)
    waiting: dict[T, None] = field(default_factory=dict)
    probes: dict[T, bool] = field(default_factory=dict)
    succeeded_at: float = float("-inf")


class Holds(Generic[T]):
    """Holds back the incidents of accounts that do not work, and lets them go on.

    An account is what one `Config` stands for. It may be held for several reasons, each with
    its own way out; incidents go on when none is left. `runs_of` gives the ids of an account's
    runs, `release` takes the incidents that may go on.

    Threads: every method is safe from any thread; under the lock only memory is touched.
    """

    def __init__(
        self,
        clock: Clock,
        publisher: Publisher,
        runs_of: Callable[[Config | None], tuple[str, ...]],
        release: Callable[[Iterable[T]], None],
    ) -> None:
        self._clock = clock
        self._publisher = publisher
        self._runs_of = runs_of
        self._release = release
        self._lock = threading.Lock()
        # Guarded by _lock: _accounts, with all that is in them, and _most, how many there may be
        # before unused ones are looked for. The dispatcher's lock may be held around it. `paused`
        # and `resumed` are queued within, so that they come in the order in which the breaker
        # opened and closed; which runs they name is looked up later.
        self._accounts: dict[Config | None, _Account[T]] = {}
        self._most = MANY

    # What opens and closes a breaker

    def hold(
        self,
        account: Config | None,
        error: BaseException,
        *,
        reason: str,
        polls_fail: bool,
        apply: Callable[[], R],
    ) -> R:
        """Hold an account for a reason; `paused` is published where it was not held before.

        `apply()` applies what the error does to the run, so that receivers see both.
        """
        now = self._clock.utc()
        with self._lock:
            known = self._accounts.setdefault(account, _Account())
            held = known.holds.get(reason)
            if held is not None:
                held.polls_fail = held.polls_fail or polls_fail
            else:
                known.holds[reason] = _Hold(error, polls_fail)
                if len(known.holds) == 1:
                    self._queue_locked(Paused, account, error, now)
        result = apply()
        self._publisher.flush()
        return result

    def poll_succeeded(self, account: Config | None) -> None:
        """A poll of the account succeeded: that ends the holds for which its polls failed."""
        now = self._clock.monotonic()
        with self._lock:
            known = self._accounts.get(account)
            if known is None:
                self._forget_unused_locked(now)
                known = self._accounts[account] = _Account()
            known.succeeded_at = now
            is_held = bool(known.holds)
        if is_held:
            self.poll_answered(account)

    def _forget_unused_locked(self, now: float) -> None:
        """Let go of accounts that were not polled for long, as after their keys were renewed."""
        if len(self._accounts) > self._most:
            before = now - UNUSED_AFTER
            kept = {
                account: known
                for account, known in self._accounts.items()
                if known.holds or known.waiting or known.probes or known.succeeded_at > before
            }
            self._accounts = kept
            self._most = 2 * len(kept) + MANY

    def poll_answered(self, account: Config | None) -> None:
        """The server answered a poll of the account, if only that it knows no such run."""
        released = self._lifted(account, by_poll=True)
        self._publisher.flush()
        self._release(released)

    def attempt_went_on(self, account: Config | None, apply: Callable[[], R]) -> R:
        """An attempt was not refused: that ends the holds that polls cannot end.

        `apply()` applies what the attempt brought to the run, so that receivers see both.
        """
        released = self._lifted(account, by_poll=False)
        try:
            return apply()
        finally:
            self._publisher.flush()
            self._release(released)

    def probe(self, polled: Collection[Config | None]) -> None:
        """Send one probe for each held account of which polls prove nothing.

        `polled` are the accounts that a sweep is about to poll; of others no poll can tell.
        """
        probes: list[T] = []
        with self._lock:
            for account, known in self._accounts.items():
                for held in known.holds.values():
                    held.polls_fail = held.polls_fail and account in polled
                proves_nothing = not any(held.polls_fail for held in known.holds.values())
                if known.waiting and proves_nothing:
                    probe = next(iter(known.waiting))
                    del known.waiting[probe]
                    known.probes[probe] = False
                    probes.append(probe)
        self._release(probes)

    def _lifted(self, account: Config | None, *, by_poll: bool) -> tuple[T, ...]:
        """End holds and queue `resumed` where none is left; return the incidents to release."""
        now = self._clock.utc()
        with self._lock:
            known = self._accounts.get(account)
            holds = known.holds if known else {}
            over = [reason for reason, held in holds.items() if held.polls_fail is by_poll]
            if known is None or not over:
                return ()
            error = [holds.pop(reason).error for reason in over][-1]
            if holds:
                return ()
            released = (*known.waiting,)
            known.waiting.clear()
            known.probes.clear()
            self._queue_locked(Resumed, account, error, now)
        return released

    def _queue_locked(
        self,
        kind: type[Paused | Resumed],
        account: Config | None,
        error: BaseException,
        now: datetime,
    ) -> None:
        def event() -> Event:
            runs = self._runs_of(account)
            return kind(run_id=None, metadata=NO_METADATA, time=now, error=error, runs=runs)

        self._publisher.queue(("account", account), (Late(event),))

    # Incidents

    def admit(self, account: Config | None, incident: T) -> bool:
        """Let an incident make an attempt, or have it wait to be released; return which."""
        with self._lock:
            known = self._accounts.get(account)
            if known is None or not known.holds:
                return True
            if known.probes.get(incident) is False:
                known.probes[incident] = True
                return True
            known.probes.pop(incident, None)
            known.waiting[incident] = None
            return False

    def forget(self, account: Config | None, incident: T) -> None:
        """The incident has come to its end."""
        with self._lock:
            known = self._accounts.get(account)
            if known is not None:
                known.waiting.pop(incident, None)
                known.probes.pop(incident, None)

    # Queries

    def are_any(self) -> bool:
        """Whether any account is held."""
        with self._lock:
            return any(known.holds for known in self._accounts.values())

    def breaker(self, account: Config | None) -> Breaker:
        """The state of an account's breaker."""
        with self._lock:
            known = self._accounts.get(account)
            if known is None or not known.holds:
                return Breaker.CLOSED
            return Breaker.HALF_OPEN if known.probes else Breaker.OPEN

    def succeeded_since(self, account: Config | None, moment: float) -> bool:
        """Whether a poll of the account succeeded after `moment`, in monotonic seconds."""
        with self._lock:
            known = self._accounts.get(account)
            return known is not None and known.succeeded_at > moment


def base_url_of(port: RestPort, account: Config | None) -> str | None:
    """What tells servers apart; `None` where a caller's own module may ask any."""
    module: object = port.module
    is_ours = module is rest or isinstance(module, rest.RestClient)
    return account.base_url if is_ours and account is not None else None
