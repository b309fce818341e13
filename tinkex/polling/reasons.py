"""Asks the server why a run was flagged, when the event that tells of it is sent."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..config.credentials import Keys, secrets_of
from ..config.secret import Secret, spellings
from ..errors import heed
from ..ports import RestPort
from ..recovery.error_kinds import classify
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..signals import Cause, Detected, Event

#: How many searches are under way at a time. Beyond that no reason is asked for: when many runs
#: are lost at once, none of their events waits for another's.
AT_ONCE = 8

#: How long an answer is waited for, in seconds.
WAIT = 1.0

#: How long an account whose server did not answer properly is not asked again, in seconds.
PAUSE = 60.0

#: How many accounts are remembered as not to be asked, the newest.
MOST_SPARED = 1024

#: What a server without the route answers; such an account is never asked again.
NO_ROUTE = (404, 405, 501)

#: The most characters of a reason.
LONGEST = 500


class Reasons:
    """Asks why runs were flagged: what became of their sessions.

    Threads: safe from any thread. `complete` is for signal threads: it waits, at most `WAIT`
    seconds, for a search on `tinkex-reason_N`, where a foreign module may hang. `inline`: the
    search is made by the caller's thread instead.
    """

    def __init__(
        self, rest: RestPort, runs: RunMap, clock: Clock, waits: Waits, *, inline: bool
    ) -> None:
        self._rest = rest
        self._can_search = rest.can_search_sessions
        self._runs = runs
        self._clock = clock
        self._waits = waits
        self._pool = None if inline else DaemonPool(AT_ONCE, "tinkex-reason")
        self._lock = threading.Lock()
        # Guarded by _lock: how many searches are under way, the monotonic time before which an
        # account is not asked, and whether none is asked any more.
        self._under_way = 0
        self._not_before: dict[Hashable, float] = {}
        self._closed = False

    def complete(self, event: Event) -> Event:
        """The event to be sent: a `detected` of a flagged run gets its reason, where one comes."""
        if not isinstance(event, Detected) or event.cause is not Cause.CORRUPTED:
            return event
        session_id, colon, _ = (event.run_id or "").partition(":")
        record = self._runs.find(event.run_id or "")
        if record is None or not colon or not self._can_search:
            return event
        return replace(event, reason=self._reason(record, session_id))

    def close(self) -> None:
        """Ask no more, and end the waits for an answer."""
        with self._lock:
            self._closed = True
        self._waits.notify(self)
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def join(self, timeout: float) -> None:
        """Wait for the threads after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)

    def _reason(self, record: Record, session_id: str) -> str | None:
        account, now = record.config, self._clock.monotonic()
        with self._lock:
            is_free = self._under_way < AT_ONCE and not self._closed
            if not is_free or now < self._not_before.get(account, now):
                return None
            self._under_way += 1
        if self._pool is None:
            return self._asked(record, session_id)
        try:
            answer = self._pool.submit(self._asked, record, session_id)
        except RuntimeError:  # closed just now, or no thread to be had
            self._ended()
            return None
        answer.add_done_callback(lambda _: self._waits.notify(self))
        if self._waits.wait(self, lambda: answer.done() or self._closed, WAIT):
            return answer.result() if answer.done() else None
        self._spare(account, PAUSE)
        return None

    def _asked(self, record: Record, session_id: str) -> str | None:
        try:
            rows = self._rest.sessions(record.config, session_id, WAIT)
            return reason_in(rows, session_id, _secrets_of(record))
        except BaseException as error:  # an exit in foreign code ends neither us nor the event
            heed(error)
            is_without = classify(error).status in NO_ROUTE
            self._spare(record.config, math.inf if is_without else PAUSE)
            return None
        finally:
            self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._under_way -= 1

    def _spare(self, account: Hashable, seconds: float) -> None:
        """Do not ask an account again for so many seconds."""
        until = self._clock.monotonic() + seconds
        with self._lock:
            before = self._not_before.pop(account, until)
            self._not_before[account] = max(until, before)
            if len(self._not_before) > MOST_SPARED:
                del self._not_before[next(iter(self._not_before))]


def _secrets_of(record: Record) -> Keys:
    headers = getattr(record.config, "headers", None) or {}
    keys = secrets_of(record.service, record.config).reveal()
    return Secret(tuple(spellings([*keys, *headers.values()])))


def reason_in(rows: Iterable[Any], session_id: str, secrets: Keys) -> str | None:
    """Why a session ended, as its row tells; `None` if it failed in no way that is told."""
    # The search of a server may be wider than what was asked for.
    own = (row for row in rows if _field(row, "session_id") == session_id)
    status = _field(next(own, None), "status")
    kind = _field(status, "type")
    if kind == "failed":
        told = [_field(status, "category"), _field(status, "message")]
    elif kind == "cancelled":
        told = [kind, _field(status, "detail")]
    else:
        return None
    words = [_line(each, secrets) for each in told if isinstance(each, str)]
    return ": ".join(words)[:LONGEST] if len(words) == len(told) and all(words) else None


def _field(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _line(text: str, secrets: Keys) -> str:
    """A server's text as one line without secrets, a little longer than a reason at most."""
    for secret in secrets.reveal():
        text = text.replace(secret, "***")
    shown = (each if each.isprintable() else " " for each in text[: 2 * LONGEST])
    return " ".join("".join(shown).split())
