"""Who trains a lineage on this machine: an OS lock for each lineage, and what its holder tells."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from .. import forks
from ..errors import RunHeldError

logger = logging.getLogger(__name__)

#: Where the byte is that is locked on Windows, beyond what a holder writes.
_LOCKED_BYTE = 1 << 20


class Ownership:
    """The right to train a lineage on this machine, for as long as a `with` block lasts.

    It is held where the block is open in any process of this user; the system ends it with the
    process. Entering raises `RunHeldError` where it is held. Where no lock can be had, a warning
    says so.

    `owner` is the id of this holder; `before` are those of earlier ones here, all of which have
    ended. Where no lock can be had, nobody is known to have.

    Args:
        lineage: What tells it from all others, its account included; only a hash of it is stored.
        name: What it is called in messages.
    """

    def __init__(self, lineage: str, name: str) -> None:
        self.owner = uuid4().hex
        self.before: frozenset[str] = frozenset()
        self._file_name = f"{hashlib.sha256(lineage.encode()).hexdigest()[:40]}.json"
        self._name = name
        self._file: int | None = None
        forks.register(self)

    def __enter__(self) -> Self:
        for folder in _folders():
            with suppress(OSError):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = os.open(folder / self._file_name, os.O_RDWR | os.O_CREAT, 0o600)
                break
        else:
            logger.warning(
                "run %s: no file can be made to lock; the server alone tells", self._name
            )
            return self
        told = _read(self._file)
        is_locked = _locked(self._file)
        if is_locked is False:
            self._close()
            who = ", ".join(f"{key} {told[key]}" for key in ("pid", "host", "since") if key in told)
            raise RunHeldError(
                self._name, f"a process of this machine holds it: {who or 'unknown'}"
            )
        if is_locked:
            before = told.get("before")
            found = [told.get("owner"), *(before if isinstance(before, list) else ())]
            self.before = frozenset(each for each in found if isinstance(each, str))
            self._tell(before=sorted(self.before))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def claim(self, now: datetime, owners: Iterable[str | None]) -> None:
        """Say that this holder trains the lineage from `now` on, whose runs had these owners.

        Whoever of them was here before is remembered: this holder may end before it makes a run.
        """
        before = sorted(self.before.intersection(filter(None, owners)))
        since = now.isoformat(timespec="seconds")
        self._tell(owner=self.owner, since=since, before=before)

    def _tell(self, **told: Any) -> None:
        if self._file is None:
            return
        told = {"pid": os.getpid(), "host": socket.gethostname(), **told}
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            os.ftruncate(self._file, os.write(self._file, json.dumps(told).encode()))
        except OSError as error:  # the disk is full: the next owner waits for this one's silence
            logger.warning("run %s: its lock cannot tell who holds it (%s)", self._name, error)

    def after_fork(self) -> None:
        """Leave the lock to the parent: a child that outlives it must not hold it."""
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _folders() -> list[Path]:
    """Where locks may lie, the best place first."""
    given = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    found = [Path(given)] if given else []
    with suppress(RuntimeError):  # there is no home
        found.append(Path.home() / ".local" / "state")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [
        *(each / "tinkex" / "locks" for each in found),
        Path(tempfile.gettempdir(), f"tinkex-{user}"),
    ]


def _read(file: int) -> Mapping[str, Any]:
    try:
        found = json.loads(os.read(file, 4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _locked(file: int) -> bool | None:
    """Lock a file for this process, if no other has; the system unlocks it when that ends.

    `None`: its file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 (only there)

            os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 (not everywhere)

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # a file system without locks
        logger.warning("a file cannot be locked (%s); the server alone tells who trains", error)
        return None
    return True
