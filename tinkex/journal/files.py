"""Opens the file of a journal: its mode, its tables, its version, and what is wrong with it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from ..errors import JournalError, in_words

logger = logging.getLogger(__name__)

#: What tells the file of a journal from any other database.
APPLICATION_ID = 0x746B786A

#: Seconds to wait for another process that writes.
BUSY_TIMEOUT = 5.0

#: What SQLite says of a value, and not of the file: too big, refused by a table, of another type.
_OF_VALUES = frozenset(
    {
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
    }
)

#: File systems of other machines, by how their type begins: what is locked there may not be.
_NETWORKS = ("nfs", "cifs", "smb", "fuse.", "9p", "afs", "ceph", "lustre", "gfs", "drvfs", "vboxsf")

#: The statements that lead from each version to the next, the first one from an empty file.
_MIGRATIONS = (
    """
    CREATE TABLE owner (owner_id TEXT PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL,
        pid INTEGER NOT NULL, started TEXT NOT NULL, beat INTEGER NOT NULL, lost INTEGER NOT NULL);
    CREATE TABLE lease (root_id TEXT PRIMARY KEY, owner_id TEXT, epoch INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE run (root_id TEXT PRIMARY KEY, name TEXT, account TEXT NOT NULL,
        metadata TEXT NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE generation (root_id TEXT NOT NULL, number INTEGER NOT NULL,
        run_id TEXT NOT NULL UNIQUE, attempt_id TEXT, body TEXT NOT NULL,
        PRIMARY KEY (root_id, number)) WITHOUT ROWID;
    CREATE TABLE attempt (attempt_id TEXT PRIMARY KEY, root_id TEXT NOT NULL,
        generation INTEGER NOT NULL, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
        checkpoint TEXT, successor_id TEXT UNIQUE, state TEXT NOT NULL, error TEXT);
    CREATE INDEX attempt_of ON attempt (root_id);
    CREATE TABLE checkpoint (path TEXT PRIMARY KEY, root_id TEXT NOT NULL, body TEXT,
        step INTEGER, data TEXT, broken INTEGER NOT NULL);
    CREATE INDEX checkpoint_of ON checkpoint (root_id);
    CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, root_id TEXT,
        run_id TEXT, attempt_id TEXT, kind TEXT NOT NULL, body TEXT NOT NULL);
    """,
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, which exists; its tables are made, or brought to the present version.

    Raises `JournalError` where it cannot be used, with the file as it was.
    """
    address = f"file:{quote(str(path))}?mode=rw"
    connection = None
    try:
        # Each statement commits by itself unless a transaction is begun.
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        _check(connection)
        # Not a write-ahead log: it needs memory that processes share, which networks have not.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise JournalError(str(path), problem_of(error)) from None
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def problem_of(error: Exception) -> str:
    """Why a file cannot be used, in words."""
    if _code_of(error) == sqlite3.SQLITE_BUSY:
        return f"another process has had it locked for {BUSY_TIMEOUT:g} s; it may be stopped"
    return str(error)


def _code_of(error: BaseException) -> int | None:
    """What SQLite says is wrong; `None` where it has not been asked."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; who reads within it reads what will still hold when it is committed."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


class OwnError(Exception):
    """What is to be written of one run, or what the file holds of it, cannot be used.

    Nothing of its part of the transaction came to be; all else can be read and written.
    """


@contextmanager
def part(connection: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction, all or nothing.

    Raises `OwnError` where it failed by itself, and all else unchanged: the file has failed.
    """
    connection.execute("SAVEPOINT part")
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, sqlite3.Error) and _code_of(error) not in {None, *_OF_VALUES}:
            raise
        connection.execute("ROLLBACK TO part")
        connection.execute("RELEASE part")
        if isinstance(error, OwnError):
            raise
        logger.debug("a part of a transaction failed", exc_info=True)
        kind = "" if isinstance(error, sqlite3.Error) else f"{type(error).__name__}: "
        raise OwnError(kind + in_words(error)) from None
    connection.execute("RELEASE part")


def _check(connection: sqlite3.Connection) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(found[0])


def _migrate(connection: sqlite3.Connection) -> None:
    if _version(connection) == len(_MIGRATIONS):
        return
    with transaction(connection):
        # Read again: another process may have done it meanwhile.
        version = _version(connection)
        for statements in _MIGRATIONS[version:]:
            for statement in statements.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _version(connection: sqlite3.Connection) -> int:
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if owner != APPLICATION_ID and not (is_empty and owner == version == 0):
        raise sqlite3.DatabaseError("it is a database of something else")
    if version > len(_MIGRATIONS):
        raise sqlite3.DatabaseError(
            f"it was written by a newer tinkex (version {version}, this one knows "
            f"{len(_MIGRATIONS)})"
        )
    return version


def make(path: Path) -> None:
    """Make the file where there is none, for this user alone.

    Raises `JournalError` where it cannot be made, or is no file.
    """
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise JournalError(str(path), f"it cannot be made: {error.strerror or error}") from None
    if not path.is_file():
        raise JournalError(str(path), "it is no file")


def is_on_network(path: Path) -> bool:
    """Whether a file lies on a file system of other machines, as far as the system tells."""
    kinds = {}
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
            _, point, kind, *_ = line.split(" ")
            kinds[Path(point.replace("\\040", " "))] = kind
    nearest = next((kinds[each] for each in path.resolve().parents if each in kinds), "")
    return nearest.startswith(_NETWORKS)
