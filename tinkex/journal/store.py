"""One connection to a journal's file for all of this process, used by one thread alone."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from ..errors import JournalError
from ..runtime import forks
from . import files
from .owning.owners import Process, this_process

if TYPE_CHECKING:
    from .owning.leases import Leases

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a call waits for the file at most; a disk may hang.
CALL_TIMEOUT = 30.0

#: Seconds that a fork waits at most for the jobs under way, of all journals.
FORK_TIMEOUT = 1.0

#: Connections of a parent, in a forked child: to close one would drop the parent's locks.
_of_parents: list[object] = []


class Store:
    """The file of a journal as this process uses it: its owner, and a thread for its jobs.

    Jobs are done one after the other on `tinkex-journal`. A file that was removed or replaced is
    opened anew, once: `opened` counts how often it was. `inode` is the file's as it was last seen;
    `ended` are the owners that this process was in files that it has closed.

    Threads: every method is safe from any thread.
    """

    def __init__(self, path: Path, inode: int, ended: set[str], *, is_on_network: bool) -> None:
        self.path = path
        self.inode = inode
        self.ended = ended
        self.is_on_network = is_on_network
        self._begin()

    def _begin(self) -> None:
        #: This process as an owner of runs.
        self.owner_id = uuid4().hex
        self.process: Process = this_process()
        self.opened = 0
        self.users = 0
        #: What the monitors that write to it hold, until they close.
        self.leases: dict[Leases, None] = {}
        # Only touched on the thread of the jobs.
        self._connection: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        # Guarded by _lock: the thread.
        self._thread: threading.Thread | None = None
        # Held while a job is done; only forks wait for it.
        self.at_work = threading.Lock()

    def after_fork(self) -> None:
        """Be another owner, of nothing, in a forked child."""
        _of_parents.append(self._connection)
        self._begin()

    def free(self, root_ids: Iterable[str], leases: Leases) -> set[str]:
        """Those of a monitor's lineages that no other one of this process holds."""
        others = (each.roots for each in list(self.leases) if each is not leases)
        return set(root_ids).difference(*others)

    def post(
        self,
        job: Callable[[sqlite3.Connection], object],
        on_error: Callable[[JournalError], object],
    ) -> None:
        """Have a job done; `on_error` is told on its thread that the file cannot be used."""

        def failed(done: Future[object]) -> None:
            error = done.exception()
            if isinstance(error, JournalError):
                on_error(error)
            elif error is not None:
                logger.error("a job of the journal failed", exc_info=error)

        self._submit(job).add_done_callback(failed)

    def call(self, job: Callable[[sqlite3.Connection], T], timeout: float = CALL_TIMEOUT) -> T:
        """Have a job done and wait for what it returns, at most `timeout` seconds.

        Raises `JournalError` where the file cannot be used, or does not answer.
        """
        future = self._submit(job)
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():
                raise
            reason = f"it does not answer for {timeout:g} s"
            raise JournalError(str(self.path), reason) from None

    def _submit(self, job: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def done() -> None:
            try:
                future.set_result(job(self._live()))
            except sqlite3.Error as error:
                future.set_exception(JournalError(str(self.path), files.problem_of(error)))
            except BaseException as error:  # its caller gets it
                future.set_exception(error)

        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, args=(self._jobs,), name="tinkex-journal", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError as error:  # no thread is to be had
                    self._thread = None
                    raise JournalError(str(self.path), str(error)) from None
        self._jobs.put(done)
        return future

    def _work(self, jobs: SimpleQueue[Callable[[], object] | None]) -> None:
        while (job := jobs.get()) is not None:
            with self.at_work:
                job()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _live(self) -> sqlite3.Connection:
        """The connection to the file that lies at the path now."""
        is_same = _inode_of(self.path) == self.inode and not _is_empty(self.path)
        if self._connection is not None and not is_same:
            logger.error("the journal %s was removed or replaced; it is begun anew", self.path)
            self._connection.close()
            self._connection = None
        if self._connection is None:
            files.make(self.path)
            self._connection = files.connect(self.path)
            self.inode = _inode_of(self.path)
            self.opened += 1
        return self._connection

    def close(self, timeout: float) -> None:
        """Do what is left, close the file, and wait for the thread at most `timeout` seconds."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._jobs.put(None)
        if thread is not threading.current_thread():
            thread.join(timeout)


class _Stores:
    """The stores of this process by the file, so that none is opened twice.

    To close any descriptor of a file drops all locks that the process has on it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock: the stores with the number of their users, and the owners that closed
        # ones were.
        self._known: dict[Path, Store] = {}
        self._ended: set[str] = set()
        # What the thread that forks has of the locks of the stores.
        self._forking = threading.local()
        forks.register(self)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork)

    def _before_fork(self) -> None:
        """Let jobs end: of a transaction under way SQLite in the child would wait for the end."""
        locks = [each.at_work for each in list(self._known.values())]
        # An interrupt leaves in it those that were taken by then.
        self._forking.locks = taken = list[threading.Lock]()
        until = time.monotonic() + FORK_TIMEOUT
        for each in locks:
            if each.acquire(timeout=max(0.0, until - time.monotonic())):
                taken.append(each)

    def _after_fork(self) -> None:
        for each in self._forking.locks:
            each.release()

    def after_fork(self) -> None:
        """Let a forked child open the same files anew."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()
        for store in self._known.values():
            store.after_fork()
        self._known, self._ended = {}, set()

    def use(self, path: Path) -> Store:
        """The store of a file, which is made where there is none; one user more.

        Raises `JournalError` where it cannot be made, or was moved while it is open.
        """
        # A disk may hang: the file is looked at first. By its inode it is found by any path.
        files.make(path)
        inode, is_on_network = _inode_of(path), files.is_on_network(path)
        new = Store(path, inode, self._ended, is_on_network=is_on_network)
        with self._lock:
            same = (each for each in self._known.values() if each.inode == inode)
            store = self._known.get(path) or next(same, new)
            self._known.setdefault(store.path, store)
            store.users += 1
        if store.path != path and _inode_of(store.path) != inode:
            self.leave(store, 0.0)
            raise JournalError(
                str(path), f"it is still open as {str(store.path)!r}; close it there"
            )
        if store is new and is_on_network:
            logger.warning("the journal %s lies on a network, where locks may do nothing", path)
        return store

    def share(self, store: Store) -> None:
        """One user more of a store that is in use."""
        with self._lock:
            store.users += 1

    def leave(self, store: Store, timeout: float) -> None:
        """One user less; the last one closes it."""
        with self._lock:
            store.users -= 1
            is_last = store.users <= 0
            if is_last:
                self._known = {p: each for p, each in self._known.items() if each is not store}
                self._ended.add(store.owner_id)
        if is_last:
            store.close(timeout)


STORES = _Stores()


def _inode_of(path: Path) -> int:
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return hash((found.st_dev, found.st_ino))


def _is_empty(path: Path) -> bool:
    try:
        return os.stat(path).st_size == 0
    except OSError:  # it was removed: the next look finds that
        return False
