"""The statements on a journal's runs, attempts and events; each function within a transaction."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import SQLITE_LIMIT_VARIABLE_NUMBER, Connection
from typing import Any

from .owning.claims import Claim, holds

#: How many rows are written in one statement.
_ROWS_AT_ONCE = (5000, 500, 50, 5, 1)

# What is known of runs


def place_of(db: Connection, run_id: str) -> tuple[str, int] | None:
    """The lineage of a run that is known, and its number in it."""
    row = db.execute("SELECT root_id, number FROM generation WHERE run_id = ?", (run_id,))
    found: tuple[str, int] | None = row.fetchone()
    return found


def is_named(db: Connection, run_id: str) -> bool:
    """Whether a run is known, as a generation or as what an attempt has made."""
    made = db.execute("SELECT 1 FROM attempt WHERE successor_id = ?", (run_id,)).fetchone()
    return made is not None or place_of(db, run_id) is not None


def newest_of(db: Connection, root_id: str) -> tuple[int, str] | None:
    """The number and the run of a lineage's last generation."""
    row = db.execute(
        "SELECT number, run_id FROM generation WHERE root_id = ? ORDER BY number DESC LIMIT 1",
        (root_id,),
    )
    found: tuple[int, str] | None = row.fetchone()
    return found


def roots_left(db: Connection, account: str) -> list[str]:
    """The lineages of an account that were monitored or recovering."""
    rows = db.execute(
        "SELECT root_id FROM run WHERE account = ? AND state IN ('monitored', 'recovering',"
        " 'waiting') ORDER BY root_id",
        (account,),
    )
    return [row[0] for row in rows]


def roots_named(db: Connection, account: str, name: str) -> list[str]:
    """The lineage that goes by a name, if one does; of two the one that was written to last."""
    rows = db.execute(
        "SELECT r.root_id FROM run r WHERE r.account = ? AND r.name = ? ORDER BY"
        " (SELECT max(seq) FROM event e WHERE e.root_id = r.root_id) DESC LIMIT 1",
        (account, name),
    )
    return [row[0] for row in rows]


def run_of(db: Connection, root_id: str) -> tuple[Any, ...] | None:
    """What is known of a lineage: name, metadata, state, and the rest."""
    row = db.execute("SELECT name, metadata, state, body FROM run WHERE root_id = ?", (root_id,))
    found: tuple[Any, ...] | None = row.fetchone()
    return found


def generations_of(db: Connection, root_id: str) -> list[tuple[Any, ...]]:
    """What is known of a lineage's generations, the first one first: number, run, and the rest."""
    return db.execute(
        "SELECT number, run_id, body FROM generation WHERE root_id = ? ORDER BY number", (root_id,)
    ).fetchall()


def checkpoints_of(db: Connection, root_id: str) -> list[tuple[Any, ...]]:
    """What is known of a lineage's checkpoints: path, what is told, step, data, if it is broken."""
    return db.execute(
        "SELECT path, body, step, data, broken FROM checkpoint WHERE root_id = ? ORDER BY rowid",
        (root_id,),
    ).fetchall()


def events_of(db: Connection, run_id: str | None) -> list[tuple[Any, ...]]:
    """The events of a lineage, by any run id of it, or of all; the oldest first."""
    return db.execute(
        "SELECT seq, at, root_id, run_id, attempt_id, kind, CAST(body AS BLOB) FROM event"
        " WHERE ?1 IS NULL OR root_id = ?1 OR root_id ="
        " (SELECT root_id FROM generation WHERE run_id = ?1) ORDER BY seq",
        (run_id,),
    ).fetchall()


# Attempts


def intend(
    db: Connection, owner_id: str, claim: Claim, attempt: tuple[str, int, int, str | None]
) -> bool:
    """Note an attempt that is about to be made: its id, its generation, its number, its checkpoint.

    False where the lease is another's, or the generation is there already.
    """
    attempt_id, generation, number, checkpoint = attempt
    lease = claim.root_id, owner_id, claim.epoch
    found = db.execute(
        "INSERT INTO attempt SELECT ?, root_id, ?, epoch, ?, ?, NULL, 'intent', NULL FROM lease"
        " WHERE root_id = ? AND owner_id = ? AND epoch = ? AND NOT EXISTS"
        " (SELECT 1 FROM generation g WHERE g.root_id = lease.root_id AND g.number >= ?)",
        (attempt_id, generation, number, checkpoint, *lease, generation),
    )
    return found.rowcount == 1


def created(db: Connection, attempt_id: str, successor_id: str) -> None:
    """An attempt has made a run."""
    db.execute(
        "UPDATE OR IGNORE attempt SET state = 'created', successor_id = ? WHERE attempt_id = ?"
        " AND state = 'intent'",
        (successor_id, attempt_id),
    )


def failed(db: Connection, attempt_id: str, error: str) -> None:
    """An attempt has failed."""
    # A server may have cut a character in two, which no database takes.
    error = error.encode(errors="replace").decode()
    db.execute(
        "UPDATE attempt SET state = 'failed', error = ? WHERE attempt_id = ?"
        " AND state IN ('intent', 'created')",
        (error, attempt_id),
    )


def orphaned(db: Connection, root_id: str, successor_id: str, attempt_id: str) -> None:
    """A run was made that nothing uses; `attempt_id` is of it where no attempt is known to be."""
    state = "UPDATE attempt SET state = 'orphaned' WHERE successor_id = ? AND state != 'adopted'"
    if db.execute(state, (successor_id,)).rowcount == 0:
        db.execute(
            "INSERT OR IGNORE INTO attempt VALUES (?, ?, 0, 0, 0, NULL, ?, 'orphaned', NULL)",
            (attempt_id, root_id, successor_id),
        )


def adopt(
    db: Connection,
    owner_id: str,
    claim: Claim,
    *,
    number: int,
    run_id: str,
    attempt_id: str | None,
    body: str,
) -> bool:
    """Add a generation; false where the lease is another's, or another run has its place."""
    if (known := place_of(db, run_id)) is not None:
        return known == (claim.root_id, number) and holds(db, owner_id, claim)
    added = db.execute(
        "INSERT OR IGNORE INTO generation SELECT root_id, ?, ?, ?, ? FROM lease"
        " WHERE root_id = ? AND owner_id = ? AND epoch = ? AND NOT EXISTS"
        " (SELECT 1 FROM generation g WHERE g.root_id = lease.root_id AND g.number > ?)",
        (number, run_id, attempt_id, body, claim.root_id, owner_id, claim.epoch, number),
    )
    if added.rowcount and attempt_id is not None:
        db.execute(
            "UPDATE OR IGNORE attempt SET state = 'adopted', successor_id = ? WHERE attempt_id = ?",
            (run_id, attempt_id),
        )
    return added.rowcount == 1


def attempts_left(db: Connection, root_id: str) -> list[tuple[str, str | None]]:
    """The attempts that came to no end: the id of each, and the run that it has made."""
    rows = db.execute(
        "SELECT attempt_id, successor_id FROM attempt WHERE root_id = ?"
        " AND state IN ('intent', 'created') ORDER BY rowid",
        (root_id,),
    )
    return rows.fetchall()


# What is written of runs


def end_others(db: Connection, account: str, name: str, root_id: str) -> None:
    """Have but one lineage of a name brought back."""
    db.execute(
        "UPDATE run SET state = 'stopped' WHERE account = ? AND name = ? AND root_id != ?",
        (account, name, root_id),
    )


def add_new(
    db: Connection, owner_id: str, body: str, rows: Iterable[tuple[str, str, str, str]]
) -> set[str]:
    """Add runs of which no more is known than these values: id, account, metadata, time.

    `body` is that of a run without a history. Returns the ids of those that are there already.
    """
    for statement in _BEFORE_NEW:
        db.execute(statement)
    # In statements of few lengths, which are kept prepared: other threads run beside one, and each
    # ends with a wait for their turn to end.
    left, most = list(rows), db.getlimit(SQLITE_LIMIT_VARIABLE_NUMBER) // 4
    for size in _ROWS_AT_ONCE:
        while size <= min(most, len(left)):
            values = [value for each in left[:size] for value in each]
            marks = ", ".join(["(?, ?, ?, ?)"] * size)
            db.execute(f"INSERT INTO new VALUES {marks}", values)  # noqa: S608 (ours)
            del left[:size]
    known = {row[0] for row in db.execute(_KNOWN_OF_NEW)}
    if known:
        db.execute(f"DELETE FROM new WHERE run_id IN ({_KNOWN_OF_NEW})")  # noqa: S608 (ours)
    for statement in _FROM_NEW:
        db.execute(statement, {"owner": owner_id, "body": body})
    return known


#: A table that only this connection sees, and the statements that spread its rows over the others.
_BEFORE_NEW = (
    "CREATE TEMP TABLE IF NOT EXISTS new (run_id TEXT, account TEXT, metadata TEXT, at TEXT)",
    "DELETE FROM new",
)
_KNOWN_OF_NEW = (
    "SELECT run_id FROM new WHERE run_id IN (SELECT run_id FROM generation)"
    " OR run_id IN (SELECT root_id FROM lease)"
)
_FROM_NEW = (
    "INSERT INTO lease SELECT run_id, :owner, 1 FROM new",
    "INSERT INTO run SELECT run_id, NULL, account, metadata, 'monitored', :body FROM new",
    "INSERT INTO generation SELECT run_id, 0, run_id, NULL, '{\"started_at\":\"' || at || '\"}'"
    " FROM new",
    "INSERT INTO event SELECT NULL, at, run_id, run_id, NULL, 'registered', '{}' FROM new"
    " ORDER BY rowid",
)


def put_run(db: Connection, root_id: str, values: tuple[Any, ...]) -> None:
    """Write what is known of a lineage: name, account, metadata, state, and the rest."""
    db.execute("INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?)", (root_id, *values))


def put_generation(db: Connection, root_id: str, number: int, run_id: str, body: str) -> None:
    """Write what is known of a generation; one that has no row yet is added."""
    found = db.execute(
        "UPDATE generation SET body = ? WHERE root_id = ? AND number = ? AND run_id = ?",
        (body, root_id, number, run_id),
    )
    if found.rowcount == 0:
        db.execute(
            "INSERT OR IGNORE INTO generation VALUES (?, ?, ?, NULL, ?)",
            (root_id, number, run_id, body),
        )


def put_checkpoint(db: Connection, path: str, root_id: str, values: tuple[Any, ...] | None) -> None:
    """Write what is known of a checkpoint, which then goes last; `None`: nothing any more."""
    db.execute("DELETE FROM checkpoint WHERE path = ?", (path,))
    if values is not None:
        db.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?, ?)", (path, root_id, *values))


def put_event(db: Connection, values: tuple[Any, ...]) -> None:
    """Add an event: time, root, run, attempt, kind, body."""
    db.execute(
        "INSERT INTO event (at, root_id, run_id, attempt_id, kind, body) VALUES (?, ?, ?, ?, ?, ?)",
        values,
    )
