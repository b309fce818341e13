"""Accounts: which of them are blocked, so that their recoveries wait instead of failing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..config import Config
from ..runs.arguments import NO_METADATA
from ..runs.record import Record
from ..runtime.publisher import Reporter
from ..signals import Paused, Resumed
from .dispatcher import Dispatcher

__all__ = ["Accounts"]


@dataclass(slots=True)
class _Account:
    """When a poll last succeeded, what blocks the account, and whether its polls fail too."""

    succeeded_at: float = float("-inf")
    blocked_by: BaseException | None = None
    polls_fail: bool = False


class Accounts:
    """Pauses the recoveries of an account that is blocked, and resumes them.

    An account is what one `Config` stands for.

    Args:
        dispatcher: Holds the paused incidents back.
        reporter: Publishes `paused` and `resumed`.
        runs_of: The ids of an account's runs.

    Threads: every method is safe from any thread.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        reporter: Reporter,
        runs_of: Callable[[Config | None], tuple[str, ...]],
    ) -> None:
        self._dispatcher = dispatcher
        self._reporter = reporter
        self._runs_of = runs_of
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._accounts: dict[Config | None, _Account] = {}

    def poll_succeeded(self, config: Config | None) -> None:
        """A poll of the account succeeded."""
        now = self._reporter.clock.monotonic()
        with self._lock:
            account = self._accounts.setdefault(config, _Account())
            account.succeeded_at = now
            proves = account.blocked_by is not None and account.polls_fail
        if proves:
            self._unblock(config)

    def sweep_begins(self, polled: Iterable[Record]) -> None:
        """Where polls prove nothing, one recovery of a blocked account goes ahead and tries."""
        with self._lock:
            blocked = [config for config, each in self._accounts.items() if each.blocked_by]
        if not blocked:
            return
        asked = {record.config for record in polled}
        for config in blocked:
            with self._lock:
                account = self._accounts[config]
                # Without a run to poll no poll will tell either.
                account.polls_fail = account.polls_fail and config in asked
                proves_nothing = not account.polls_fail
            if proves_nothing:
                self._dispatcher.probe((self._reporter, config))

    def recovery_went_on(self, config: Config | None) -> None:
        """An attempt got past what had blocked the account."""
        with self._lock:
            account = self._accounts.get(config)
            if account is None or account.blocked_by is None or account.polls_fail:
                return
        self._unblock(config)

    def succeeded_since(self, config: Config | None, moment: float) -> bool:
        """Whether a poll of the account succeeded after `moment`."""
        with self._lock:
            account = self._accounts.get(config)
            return account is not None and account.succeeded_at > moment

    def block(self, config: Config | None, error: BaseException, *, polls_fail: bool) -> None:
        """The account refused something; said once until it works again."""
        with self._lock:
            account = self._accounts.setdefault(config, _Account())
            account.polls_fail = account.polls_fail or polls_fail
            if account.blocked_by is not None:
                return
            account.blocked_by = error
        self._dispatcher.block((self._reporter, config))
        self._publish(Paused, config, error)

    def _unblock(self, config: Config | None) -> None:
        with self._lock:
            account = self._accounts[config]
            error, account.blocked_by = account.blocked_by, None
            account.polls_fail = False
        if error is not None:
            self._publish(Resumed, config, error)
            self._dispatcher.unblock((self._reporter, config))

    def _publish(
        self, kind: type[Paused | Resumed], config: Config | None, error: BaseException
    ) -> None:
        runs = self._runs_of(config)
        self._reporter.publish(("account", config), kind, None, NO_METADATA, error=error, runs=runs)
