"""Keeps the connections of accounts that are used now or were lately."""

from __future__ import annotations

import os
from collections import OrderedDict
from hashlib import blake2b

from ..config import Config
from .transport import Account

#: How many accounts that no call uses are kept, and for how many seconds. A key that is renewed
#: makes a new account.
MOST_UNUSED = 64
LONGEST_UNUSED = 300.0

# So that what an account goes by, if it is seen, cannot be used to try keys.
_SALT = os.urandom(16)


class Accounts:
    """The accounts of one client. Guarded by the client's lock."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._in_use: dict[bytes, Account] = {}
        # The one that was used last stands last.
        self._unused: OrderedDict[bytes, Account] = OrderedDict()

    def take(self, config: Config) -> Account:
        """The account of a config, for a call; `give_back` ends its use."""
        name = _name_of(config)
        account = self._in_use.get(name) or self._unused.pop(name, None)
        if account is None:
            account = Account(config, name, max_connections=self._max_connections)
        self._in_use[name] = account
        account.calls += 1
        return account

    def give_back(self, account: Account, now: float) -> list[Account]:
        """A call has ended at `now`, in monotonic seconds; return the accounts to be closed."""
        account.calls -= 1
        if account.calls == 0 and self._in_use.pop(account.name, None) is not None:
            account.used_at = now
            self._unused[account.name] = account
        return self._outdated(now)

    def _outdated(self, now: float) -> list[Account]:
        found = []
        while self._unused:
            name, oldest = next(iter(self._unused.items()))
            is_young = now - oldest.used_at <= LONGEST_UNUSED
            if is_young and len(self._unused) <= MOST_UNUSED:
                break
            found.append(self._unused.pop(name))
        return found

    def all(self) -> list[Account]:
        """All accounts, whether in use or not."""
        return [*self._in_use.values(), *self._unused.values()]


def _name_of(config: Config) -> bytes:
    """What an account goes by: its base URL, key and headers, and neither of them in the clear."""
    headers = [f"{name}: {value}" for name, value in sorted((config.headers or {}).items())]
    text = "\n".join((config.base_url, config.require_key(), *headers))
    return blake2b(text.encode(), key=_SALT, digest_size=16).digest()
