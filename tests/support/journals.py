"""What another process does to a journal's file, and what it holds."""

from __future__ import annotations

import sqlite3

from tinkex.testing import FakeTrainingClient


def change(path, statement, *values):
    """Another process writes."""
    db = sqlite3.connect(path)
    with db:
        db.execute(statement, values)
    db.close()


def rows(path, query):
    """What a query gives."""
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


class SavesAgain(FakeTrainingClient):
    """A training client that takes a name that is taken."""

    def save_state(self, name, user_metadata=None, overwrite=False):
        return super().save_state(name, user_metadata)
