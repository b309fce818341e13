"""Faults that callers add to the server: answers that are wrong, late, cut off or missing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

FaultKind = Literal["status", "hang", "slow", "cut", "lost", "garbage"]
_GARBAGE = "<html><body>502 Bad Gateway</body></html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A wrong answer to all requests that match `route`.

    `route` is a glob on "METHOD /path" (`*` matches slashes too), such as
    "GET /api/v1/training_runs/*". Kinds: "status" answers `status` with `body` (default: a
    JSON detail), `headers` and `retry_after` (seconds); "hang" answers nothing for `seconds`
    (default: until the server closes), then cuts the connection; "slow" waits `seconds`, then
    answers as usual; "cut" drops the connection at once; "lost" handles the request and drops
    the connection instead of answering; "garbage" answers 200 with `body`
    (default: HTML). `times` is how many requests it hits; `None`: all.
    """

    route: str
    kind: FaultKind
    status: int = 503
    body: str | None = None
    headers: Mapping[str, str] | None = None
    retry_after: float | None = None
    seconds: float | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"fault kind {self.kind!r} is not one of {get_args(FaultKind)}")
        if not (self.route.startswith("*") or self.route.partition(" ")[0].isupper()):
            raise ValueError(
                f'route {self.route!r} matches no request: a fault needs "METHOD /path", such as '
                '"POST /api/v1/optim_step" or "* */optim_step"'
            )
        if self.kind == "slow" and self.seconds is None:
            raise ValueError("a slow fault needs seconds")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1 or None, not {self.times}")

    def matches(self, line: str) -> bool:
        """Whether it applies to a request of this "METHOD /path"."""
        return fnmatchcase(line, self.route)

    def answer(self) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body of the wrong answer."""
        headers = dict(self.headers or {})
        if self.retry_after is not None:
            headers["retry-after"] = f"{self.retry_after:g}"
        if self.kind == "garbage":
            headers.setdefault("content-type", "text/html; charset=utf-8")
            return 200, headers, _GARBAGE if self.body is None else self.body
        headers.setdefault("content-type", "application/json")
        detail = f'{{"detail":"Rehearsed HTTP {self.status}"}}'
        return self.status, headers, detail if self.body is None else self.body


class FaultHandle:
    """An active fault; `remove()` ends it."""

    def __init__(self, book: FaultBook, fault: Fault) -> None:
        self.fault = fault
        self._book = book

    @property
    def hits(self) -> int:
        """How many requests it hit so far."""
        return self._book.hits_of(self)

    def remove(self) -> None:
        """End the fault; may be called twice. Requests that already hang continue to hang."""
        self._book.remove(self)


class FaultBook:
    """The active faults; the first that matches a request is used.

    Threads: safe from any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._hits: dict[FaultHandle, int] = {}
        self._active: list[FaultHandle] = []

    def add(self, fault: Fault) -> FaultHandle:
        """Make `fault` active, after the other ones."""
        handle = FaultHandle(self, fault)
        with self._lock:
            self._active.append(handle)
            self._hits[handle] = 0
        return handle

    def remove(self, handle: FaultHandle) -> None:
        """End the fault of `handle`."""
        with self._lock:
            if handle in self._active:
                self._active.remove(handle)

    def hits_of(self, handle: FaultHandle) -> int:
        """Count the requests that the fault of `handle` hit."""
        with self._lock:
            return self._hits[handle]

    def take(self, line: str) -> Fault | None:
        """Return the fault for a request, and count the hit."""
        with self._lock:
            for handle in self._active:
                if handle.fault.matches(line):
                    self._hits[handle] += 1
                    if self._hits[handle] == handle.fault.times:
                        self._active.remove(handle)
                    return handle.fault
            return None
