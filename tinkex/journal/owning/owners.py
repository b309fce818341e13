"""The owners of lineages: which process this is, and whether another one lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...runtime.scheduler import Clock

#: An owner whose beat has not changed for so many seconds of ours is dead.
LEASE = 30.0

#: Seconds between two looks at a beat at most: where they are more, this process slept, or the file
#: could not be written. The other one may have fared alike, and its silence does not count.
LOOK_WITHIN = 15.0


class Process(NamedTuple):
    """A process, told from any other at any time.

    `boot` stands for the start of the machine and for the namespace of its process ids, `started`
    for when the process began; both are empty where the system does not tell.
    """

    host: str
    boot: str
    pid: int
    started: str


def this_process() -> Process:
    """The present process."""
    boot = _text("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        boot = f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else ""
    return Process(socket.gethostname(), boot, os.getpid(), _started(os.getpid()) or "")


def has_ended(other: Process, this: Process) -> bool:
    """Whether another process has ended for sure; false where that cannot be known from here."""
    if not other.boot or other[:2] != this[:2]:
        return False
    started = _started(other.pid)
    return started is not None and started != other.started


def _started(pid: int) -> str | None:
    """When a process began, an empty text where there is none; `None`: that cannot be told."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return None
    # What is in brackets may hold spaces; the 20th field after it is the time of the start.
    fields = text.rpartition(")")[2].split()
    # A zombie has ended, though its parent has not asked for it.
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    return ""


class Holder(NamedTuple):
    """Another owner that holds a lineage, and how often it has told that it lives."""

    owner_id: str
    process: Process
    beat: int

    def __str__(self) -> str:
        return f"process {self.process.pid} of {self.process.host}"


class Holders:
    """The other owners of a journal, as one monitor has seen their beats.

    `ended` are those that this process was itself, in files that it has closed.

    Threads: used on the thread of the store.
    """

    def __init__(
        self, this: Process, clock: Clock, *, is_on_network: bool, ended: Container[str] = ()
    ) -> None:
        self._this = this
        self._ended = ended
        self._clock = clock
        self._is_on_network = is_on_network
        # The last beat of each, since when it is the last, and when that was last looked at, in
        # monotonic seconds: the clocks of two machines are never compared.
        self._seen: dict[str, tuple[int, float, float]] = {}
        # Those whose beat was seen to change.
        self._alive: set[str] = set()

    def is_unclear(self, holder: Holder) -> bool:
        """Whether an owner that is not dead may be found to be so by waiting for its next beat."""
        beat, *_ = self._seen.get(holder.owner_id, (holder.beat,))
        # One of this machine whose process is there is alive.
        is_here = holder.process[:2] == self._this[:2] and bool(holder.process.boot)
        return beat == holder.beat and holder.owner_id not in self._alive and not is_here

    def is_dead(self, holder: Holder) -> bool:
        """Whether an owner has ended for sure, or has not told for long that it lives."""
        if holder.owner_id in self._ended or has_ended(holder.process, self._this):
            return True
        now = self._clock.monotonic()
        beat, since, looked = self._seen.get(holder.owner_id, (None, now, now))
        if beat != holder.beat:
            if beat is not None:
                self._alive.add(holder.owner_id)
            self._seen[holder.owner_id] = (holder.beat, now, now)
            return False
        if now - looked > LOOK_WITHIN:
            since = now
        self._seen[holder.owner_id] = (holder.beat, since, now)
        # On a network what another machine has written may not be seen.
        return now - since >= LEASE and not self._is_on_network
