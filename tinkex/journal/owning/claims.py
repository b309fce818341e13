"""The statements on a journal's owners and leases; each function within a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from sqlite3 import Connection
from typing import NamedTuple

from .owners import Holder, Process, has_ended


class Claim(NamedTuple):
    """A lease that this owner has: of which lineage, and the token that only grows.

    `shift`: by how much the numbers of its generations exceed those of the record that is written.
    """

    root_id: str
    epoch: int
    shift: int = 0


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
