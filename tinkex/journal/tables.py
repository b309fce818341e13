"""What is read and written in a journal's tables; each function within a transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from sqlite3 import SQLITE_LIMIT_VARIABLE_NUMBER, Connection
from typing import Any, NamedTuple

from .owning.owners import Holder, Process, has_ended

#: How many rows are written in one statement.
_ROWS_AT_ONCE = (5000, 500, 50, 5, 1)

_ENCODER = json.JSONEncoder(separators=(",", ":"), default=lambda _: None, skipkeys=True)


class Claim(NamedTuple):
    """A lease that this owner has: of which lineage, and the token that only grows.

    `shift`: by how much the numbers of its generations exceed those of the record that is written.
    """

    root_id: str
    epoch: int
    shift: int = 0


def written(value: object) -> str:
    """A JSON text; what is no JSON value is left out."""
    found = _encoded(value)
    if found is None and isinstance(value, dict):
        found = _encoded({key: each for key, each in value.items() if _encoded(each)})
    return found or "null"


def _encoded(value: object) -> str | None:
    try:
        return _ENCODER.encode(value)
    except (RecursionError, RuntimeError, ValueError):  # it holds itself, or is just being changed
        return None


# Owners and leases


def enter(db: Connection, owner_id: str, process: Process) -> None:
    """Add an owner; those of this machine that have ended and hold nothing are forgotten."""
    idle = db.execute(
        "SELECT owner_id, host, boot, pid, started FROM owner WHERE owner_id NOT IN"
        " (SELECT owner_id FROM lease WHERE owner_id NOTNULL)"
    ).fetchall()
    ended = [(row[0],) for row in idle if has_ended(Process(*row[1:]), process)]
    db.executemany("DELETE FROM owner WHERE owner_id = ?", ended)
    db.execute("INSERT OR IGNORE INTO owner VALUES (?, ?, ?, ?, ?, 0, 0)", (owner_id, *process))


def is_owner(db: Connection, owner_id: str) -> bool:
    """Whether an owner is in the file."""
    row = db.execute("SELECT 1 FROM owner WHERE owner_id = ?", (owner_id,)).fetchone()
    return row is not None


def beat(db: Connection, owner_id: str) -> int | None:
    """Tell that an owner lives; return how many leases it has lost so far, `None`: unknown."""
    db.execute("UPDATE owner SET beat = beat + 1 WHERE owner_id = ?", (owner_id,))
    row = db.execute("SELECT lost FROM owner WHERE owner_id = ?", (owner_id,)).fetchone()
    return None if row is None else row[0]


def holder_of(db: Connection, root_id: str) -> Holder | None:
    """Who holds a lineage, dead or alive."""
    row = db.execute(
        "SELECT owner_id, host, boot, pid, started, beat FROM lease JOIN owner USING (owner_id)"
        " WHERE root_id = ?",
        (root_id,),
    ).fetchone()
    return None if row is None else Holder(row[0], Process(*row[1:5]), row[5])


def claim(
    db: Connection, owner_id: str, root_id: str, is_dead: Callable[[Holder], bool]
) -> Claim | None:
    """Take the lease of a lineage, where it is free, this owner's, or of one that is dead."""
    row = db.execute("SELECT owner_id, epoch FROM lease WHERE root_id = ?", (root_id,)).fetchone()
    if row is None:
        db.execute("INSERT INTO lease VALUES (?, ?, 1)", (root_id, owner_id))
        return Claim(root_id, 1)
    before, epoch = row
    if before == owner_id:
        return Claim(root_id, epoch)
    holder = holder_of(db, root_id)
    if holder is not None and not is_dead(holder):
        return None
    db.execute("UPDATE owner SET lost = lost + 1 WHERE owner_id = ?", (before,))
    taken = db.execute(
        "UPDATE lease SET owner_id = ?, epoch = epoch + 1 WHERE root_id = ? AND epoch = ?",
        (owner_id, root_id, epoch),
    )
    return Claim(root_id, epoch + 1) if taken.rowcount else None


def holds(db: Connection, owner_id: str, claim: Claim) -> bool:
    """Whether a lease is still this owner's."""
    row = db.execute(
        "SELECT 1 FROM lease WHERE root_id = ? AND owner_id = ? AND epoch = ?",
        (claim.root_id, owner_id, claim.epoch),
    )
    return row.fetchone() is not None


def has_left(db: Connection, owner_id: str, claim: Claim) -> bool:
    """Whether another owner has had a lease since, and may have written; it may be free again."""
    row = db.execute(
        "SELECT 1 FROM lease WHERE root_id = ? AND owner_id IS NOT ? AND epoch > ?",
        (claim.root_id, owner_id, claim.epoch),
    )
    return row.fetchone() is not None


def release(db: Connection, owner_id: str, root_ids: Iterable[str]) -> None:
    """Give leases back."""
    db.executemany(
        "UPDATE lease SET owner_id = NULL WHERE root_id = ? AND owner_id = ?",
        ((root_id, owner_id) for root_id in root_ids),
    )


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
    row = db.execute("SELECT root_id, number FROM generation WHERE run_id = ?", (run_id,))
    if (known := row.fetchone()) is not None:
        return bool(known == (claim.root_id, number)) and holds(db, owner_id, claim)
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


# Runs


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


def end_others(db: Connection, account: str, name: str, root_id: str) -> None:
    """Have but one lineage of a name brought back."""
    db.execute(
        "UPDATE run SET state = 'stopped' WHERE account = ? AND name = ? AND root_id != ?",
        (account, name, root_id),
    )


def attempts_left(db: Connection, root_id: str) -> list[tuple[str, str | None]]:
    """The attempts that came to no end: the id of each, and the run that it has made."""
    rows = db.execute(
        "SELECT attempt_id, successor_id FROM attempt WHERE root_id = ?"
        " AND state IN ('intent', 'created') ORDER BY rowid",
        (root_id,),
    )
    return rows.fetchall()


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
