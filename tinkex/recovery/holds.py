"""Circuit breakers of accounts: while one is open, the account's incidents wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from ..arguments import NO_METADATA
from ..config import Config
from ..runtime.publisher import Publisher
from ..runtime.scheduler import Clock
from ..signals import Paused, Resumed

__all__ = ["Breaker", "Holds"]

T = TypeVar("T", bound=Hashable)


class Breaker(StrEnum):
    """The state of an account's circuit breaker."""

    #: Attempts begin freely. Left when something holds the account.
    CLOSED = "closed"
    #: No attempt begins. Left when the account works again, or for a probe.
    OPEN = "open"
    #: A probe is under way: one incident makes an attempt, to see whether the account works.
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class _Account(Generic[T]):
    """One account: why it is held, if it is, who waits, and when a poll last succeeded.

    `polls_fail`: its polls fail for `error` too, so that one which succeeds ends the hold;
    where they prove nothing, an attempt that gets past it does. `probes` go ahead all the same;
    the value says whether their attempt has begun.
    """

    error: BaseException | None = None
    polls_fail: bool = False
    waiting: dict[T, None] = field(default_factory=dict)
    probes: dict[T, bool] = field(default_factory=dict)
    succeeded_at: float = float("-inf")


class Holds(Generic[T]):
    """Holds back the incidents of accounts that do not work, and lets them go on.

    An account is what one `Config` stands for, held when the server refuses it (401, 402, 403).
    `runs_of` gives the ids of its runs; `release` takes the incidents that may go on.

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
        # Guarded by _lock: _accounts, with all that is in them. The dispatcher's lock may be
        # held around it; the run map's and the publisher's are taken within, so that `paused`
        # and `resumed` come in the order in which the breaker opened and closed.
        self._accounts: dict[Config | None, _Account[T]] = {}

    # What opens and closes a breaker

    def hold(self, account: Config | None, error: BaseException, *, polls_fail: bool) -> None:
        """Hold an account; `paused` is published where it was not held before."""
        with self._lock:
            known = self._accounts.setdefault(account, _Account())
            known.polls_fail |= polls_fail
            if known.error is not None:
                return
            known.error = error
            self._queue_locked(Paused, account, error)
        self._publisher.flush()

    def poll_succeeded(self, account: Config | None) -> None:
        """A poll of the account succeeded: that ends what made its polls fail."""
        now = self._clock.monotonic()
        with self._lock:
            self._accounts.setdefault(account, _Account()).succeeded_at = now
        self._lift(account, by_poll=True)

    def attempt_went_on(self, account: Config | None) -> None:
        """An attempt got past what held the account: that ends what polls prove nothing of."""
        self._lift(account, by_poll=False)

    def probe(self, polled: Collection[Config | None]) -> None:
        """Send one probe for each held account of which polls prove nothing.

        `polled` are the accounts that a sweep is about to poll; of others no poll can tell.
        """
        probes: list[T] = []
        with self._lock:
            for account, known in self._accounts.items():
                known.polls_fail = known.polls_fail and account in polled
                if known.waiting and not known.polls_fail:
                    probe = next(iter(known.waiting))
                    del known.waiting[probe]
                    known.probes[probe] = False
                    probes.append(probe)
        self._release(probes)

    def _lift(self, account: Config | None, *, by_poll: bool) -> None:
        with self._lock:
            known = self._accounts.get(account)
            if known is None or known.error is None or known.polls_fail is not by_poll:
                return
            error, known.error, known.polls_fail = known.error, None, False
            released = (*known.waiting,)
            known.waiting.clear()
            known.probes.clear()
            self._queue_locked(Resumed, account, error)
        self._publisher.flush()
        self._release(released)

    def _queue_locked(
        self, kind: type[Paused | Resumed], account: Config | None, error: BaseException
    ) -> None:
        now, runs = self._clock.utc(), self._runs_of(account)
        event = kind(run_id=None, metadata=NO_METADATA, time=now, error=error, runs=runs)
        self._publisher.queue(("account", account), (event,))

    # Incidents

    def admit(self, account: Config | None, incident: T) -> bool:
        """Let an incident make an attempt, or have it wait to be released; return which."""
        with self._lock:
            known = self._accounts.get(account)
            if known is None or known.error is None:
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
            return any(known.error is not None for known in self._accounts.values())

    def breaker(self, account: Config | None) -> Breaker:
        """The state of an account's breaker."""
        with self._lock:
            known = self._accounts.get(account)
            if known is None or known.error is None:
                return Breaker.CLOSED
            return Breaker.HALF_OPEN if known.probes else Breaker.OPEN

    def succeeded_since(self, account: Config | None, moment: float) -> bool:
        """Whether a poll of the account succeeded after `moment`, in monotonic seconds."""
        with self._lock:
            known = self._accounts.get(account)
            return known is not None and known.succeeded_at > moment
