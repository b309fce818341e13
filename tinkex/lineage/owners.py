"""Who trains a lineage on this machine: an OS lock for each lineage, and what its holder tells."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, NamedTuple, Self
from uuid import uuid4
from weakref import WeakValueDictionary

from ..errors import RunHeldError
from ..runtime import forks
from .account import account_of

logger = logging.getLogger(__name__)

#: Where the byte is that is locked on Windows, beyond what a holder writes.
_LOCKED_BYTE = 1 << 20

#: How often a file is tried to be locked that another process only looks at, and the seconds
#: between two tries: a look takes far less.
TRIES = 100
TRY_EVERY = 0.01

#: How many bytes of what a holder tells are read at most.
MOST_TOLD = 1 << 20

#: The folder beside the locks that has an empty file for each that is held: locks are never
#: removed, so that it would take long to try them all.
_MARKS = "open"

#: The files that this process has locked, and by which of its holders.
_own: WeakValueDictionary[Path, Ownership] = WeakValueDictionary()


class Holder(NamedTuple):
    """The process that has a lineage open, as its lock tells; `who` is in words.

    `owner` is `None` while it waits for others to end. `generation` is the last one that it found.
    """

    owner: str | None
    generation: int
    who: str

    def has(self, owner: str | None, generation: int) -> bool:
        """Whether it trains a run of this owner and generation, or what came of that."""
        is_its_own = self.owner == owner or generation <= self.generation
        return self.owner is not None and is_its_own

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Holder:
        """What a lock's file tells of it."""
        who = ", ".join(f"{key} {told[key]}" for key in ("pid", "host", "since") if key in told)
        owner, last = told.get("owner"), told.get("generation")
        return cls(
            owner if isinstance(owner, str) else None,
            last if isinstance(last, int) else -1,
            who or "unknown",
        )


def lineage_key(account: Hashable, name: str | None, root: str | None) -> str:
    """What tells the lineage of a name, or of a root that has none, from all others."""
    return f"{account_of(account)}\n{'name' if name else 'root'}\n{name or root}"


def holder_of(lineage: str) -> Holder | None:
    """The process of this machine that has a lineage open; `None`: none but this one."""
    folder = _folder()
    return None if folder is None else _holder_in(folder / _file_name(lineage))


def is_own(owner: object) -> bool:
    """Whether an owner is this process, which has a lineage open by that."""
    return any(each.owner == owner for each in list(_own.values()))


def is_any_held() -> bool:
    """Whether another process of this machine has any lineage open."""
    folder = _folder()
    if folder is None:
        return False
    try:
        names = os.listdir(folder / _MARKS)
    except OSError:  # none was ever held
        return False
    return any(_is_open(folder / name) for name in names)


class Ownership:
    """The right to train a lineage on this machine, for as long as a `with` block lasts.

    It is held where the block is open in any process of this user; the system ends it with the
    process. Entering raises `RunHeldError` where it is held. Where no lock can be had, a warning
    says so.

    `owner` is the id of this holder; `before` are those of earlier ones here, all of which have
    ended. Where no lock can be had, none is known to have.

    Args:
        lineage: Its `lineage_key`; only a hash of it is stored.
        name: What it is called in messages.
    """

    _file: int | None = None
    _path: Path | None = None  # once it is locked

    def __init__(self, lineage: str, name: str) -> None:
        self.owner = uuid4().hex
        self.before: frozenset[str] = frozenset()
        self._file_name = _file_name(lineage)
        self._name = name
        forks.register(self)

    def __enter__(self) -> Self:
        try:
            self._lock()
        except BaseException:  # an interrupt, too
            self._close()
            raise
        return self

    def _lock(self) -> None:
        for folder in _folders():
            with suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = folder / self._file_name
                self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                break
        else:
            logger.warning(
                "run %s: no file can be made to lock; the server alone tells", self._name
            )
            return
        told = _read(self._file)
        is_locked = _locked(self._file)
        if is_locked is False:
            why = f"a process of this machine holds it: {Holder.of(told).who}"
            if not _is_held(self._file):
                why = "a process of this machine looks at its lock without an end; is it stopped?"
            raise RunHeldError(self._name, why)
        if is_locked:
            self._path = path
            _own[path] = self
            before = told.get("before")
            found = [told.get("owner"), *(before if isinstance(before, list) else ())]
            self.before = frozenset(each for each in found if isinstance(each, str))
            self._tell(before=sorted(self.before))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._path is not None:
                with suppress(OSError):
                    _mark_of(self._path).unlink()
        finally:
            self._close()

    def claim(self, now: datetime, owners: Iterable[str | None], generation: int = -1) -> None:
        """Say that this holder trains the lineage from `now` on, whose runs had these owners.

        Those of them that were here before are remembered: this one may end before it makes a run.
        `generation` is the last that there is: a later one is this holder's where it names it.
        """
        before = sorted(self.before.intersection(filter(None, owners)))
        since = now.isoformat(timespec="seconds")
        self._tell(owner=self.owner, since=since, before=before, generation=generation)

    def _tell(self, **told: Any) -> None:
        if self._file is None:
            return
        told = {"pid": os.getpid(), "host": socket.gethostname(), **told}
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.ftruncate(self._file, os.write(self._file, json.dumps(told).encode()))
            if self._path is not None:
                mark = _mark_of(self._path)
                mark.parent.mkdir(mode=0o700, exist_ok=True)
                mark.touch(0o600)
        except OSError as error:  # the disk is full: the next owner waits for this one's silence
            logger.warning("run %s: its lock cannot tell who holds it (%s)", self._name, error)

    def __del__(self) -> None:
        # An interrupt may have kept it from its end.
        self._close()

    def after_fork(self) -> None:
        """Leave the lock to the parent: a child that outlives it must not hold it."""
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        path, self._path = self._path, None
        if file is not None:
            os.close(file)
        if path is not None:
            _own.pop(path, None)


def _file_name(lineage: str) -> str:
    return f"{hashlib.sha256(lineage.encode()).hexdigest()[:40]}.json"


def _folders() -> tuple[Path, ...]:
    """Where locks may lie, the best place first."""
    given = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    temporary = None
    with suppress(OSError):  # no folder for such files takes any
        temporary = tempfile.gettempdir()
    return _folders_of(given, os.path.expanduser("~"), temporary)


@cache
def _folders_of(given: str | None, home: str, temporary: str | None) -> tuple[Path, ...]:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return (
        *([Path(given, "tinkex", "locks")] if given else []),
        # A home that is not known stays "~".
        *([Path(home, ".local", "state", "tinkex", "locks")] if home != "~" else []),
        *([Path(temporary, f"tinkex-{user}")] if temporary else []),
    )


def _folder() -> Path | None:
    """Where this process would lock; the folder may be still to make."""
    return _first_of(*_folders())


@cache
def _first_of(*folders: Path) -> Path | None:
    """The first folder in which this process may write, or make it, as it was at the first look."""
    for each in folders:
        there = next((path for path in (each, *each.parents) if os.access(path, os.F_OK)), each)
        if os.access(there, os.W_OK):
            return each
    return None


def _read(file: int) -> Mapping[str, Any]:
    try:
        found = json.loads(os.read(file, MOST_TOLD))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _holder_in(path: Path) -> Holder | None:
    """Which other process has locked a file."""
    if path in _own:
        return None
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            return Holder.of(_read(file)) if _is_held(file) else None
        finally:
            os.close(file)
    return None


def _mark_of(path: Path) -> Path:
    return path.parent / _MARKS / path.name


def _is_open(path: Path) -> bool:
    """Whether another process holds a lock that is marked; the mark of one that has ended goes."""
    if path in _own:
        return False
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            found = _set(file, alone=False)
            if found:  # until it is given back no owner comes, and makes the mark
                _mark_of(path).unlink(missing_ok=True)
                _set(file, alone=None)
            return found is False
        finally:
            os.close(file)
    return False


def _locked(file: int) -> bool | None:
    """Lock a file for this process, if no other has; the system unlocks it when that ends.

    A process that only looks has it for an instant, beside others that look: it is waited for.
    `None`: the file system has no locks.
    """
    for _ in range(TRIES):
        found = _set(file, alone=True)
        if found is not False or _is_held(file):
            return found
        Event().wait(TRY_EVERY)
    return False


def _is_held(file: int) -> bool:
    """Whether another process has locked a file; one that only looks has not.

    A lock that tells of itself without being taken (`F_OFD_GETLK`) only Linux has. On Windows
    a process that looks has it alone.
    """
    found = _set(file, alone=False)
    if found:
        _set(file, alone=None)
    return found is False


def _set(file: int, *, alone: bool | None) -> bool | None:
    """Lock a file `alone`, or beside others; `None`: unlock it."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 (only there)

            os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_UNLCK if alone is None else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 (not everywhere)

            how = {True: fcntl.LOCK_EX, False: fcntl.LOCK_SH, None: fcntl.LOCK_UN}[alone]
            fcntl.flock(file, how | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # a file system without locks
        if alone:
            logger.warning("a file cannot be locked (%s); the server alone tells who trains", error)
        return None
    return True
