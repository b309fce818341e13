"""Points of tinkex and the SDK, laid from outside, at which a life can be killed.

Each is a call of a function, "before" it and "after" it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sqlite3
import threading
from collections import Counter

from tinkex.journal import tables
from tinkex.journal.owning import claims

#: The functions at whose edges there are points, as "module:name" or "module:class.name".
EDGES = (
    "tinker:ServiceClient.__init__",
    "tinker:ServiceClient.create_lora_training_client",
    "tinker:ServiceClient.create_training_client_from_state_with_optimizer",
    "tinker:TrainingClient.forward_backward",
    "tinker:TrainingClient.optim_step",
    "tinker:TrainingClient.save_state",
    "tinkex.ports:RestPort.run",
    "tinkex.ports:RestPort.rows",
    "tinkex.ports:RestPort.checkpoints",
    "tinkex.ports:ServicePort.opened",
    "tinkex.ports:ServicePort.restore",
    "tinkex.lineage.owners:Ownership.__enter__",
    "tinkex.lineage.owners:Ownership.claim",
    "tinkex.lineage.owners:Ownership._tell",
    "tinkex.lineage.owners:_locked",
    "tinkex.monitor:Monitor.start",
    "tinkex.monitor:Monitor.stop",
    "tinkex.runs.run_map:RunMap.apply",
)

#: Those of the journal: of each function of its tables, too, which are within a transaction.
JOURNAL = ("tinkex.journal.files:make", "tinkex.journal.files:connect")


def lay(out, die_at, die_by):
    """Lay all points; `out` is the file to which it is told when one is passed.

    `die_at` is a point and its number among those of its name, from 1: there the process sends
    itself the signal `die_by`.
    """
    laid = _Points(out, die_at, die_by)
    for where in (*EDGES, *JOURNAL):
        laid.lay(where)
    for module in (tables, claims):
        for name, found in inspect.getmembers(module, inspect.isfunction):
            if found.__module__ == module.__name__:
                laid.lay(f"{module.__name__}:{name}")
    laid.lay_commits()


class _Points:
    def __init__(self, out, die_at, die_by):
        self._out = out
        self._die_at = die_at
        self._die_by = die_by
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._count = Counter()
        # The functions of tables that the transaction under way has called.
        self._called = set()

    def reach(self, name):
        with self._lock:
            self._count[name] += 1
            count = self._count[name]
        if self._out is not None:
            os.write(self._out, f"@ {name}\n".encode())
        if self._die_at == (name, count):
            os.kill(os.getpid(), self._die_by)

    def lay(self, where):
        module, _, path = where.partition(":")
        owner = importlib.import_module(module)
        *classes, name = path.split(".")
        for each in classes:
            owner = getattr(owner, each)
        function = getattr(owner, name)
        short = f"{module.rpartition('.')[2]}.{path}"
        told = _change if name == "apply" else lambda *_: ""

        @functools.wraps(function)
        def called(*args, **kwargs):
            label = short + told(*args)
            self._called.add(path)
            self.reach(f"before {label}")
            try:
                return function(*args, **kwargs)
            finally:
                self.reach(f"after {label}")

        setattr(owner, name, called)

    def lay_commits(self):
        points, connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            def execute(self, statement, *values):
                if statement not in ("BEGIN IMMEDIATE", "COMMIT"):
                    return super().execute(statement, *values)
                return points.around(statement, super().execute)

        sqlite3.connect = functools.partial(connect, factory=Connection)

    def around(self, statement, execute):
        """A transaction begins or ends; it goes by what it is for."""
        if statement == "COMMIT":
            whole = next((each for each in WHOLE if each in self._called), "notes")
            statement = f"COMMIT of {whole}"
        self.reach(f"before {statement}")
        self._called.clear()
        try:
            return execute(statement.partition(" of ")[0])
        finally:
            self.reach(f"after {statement}")


#: What a transaction is for, the first of these that it calls; else it writes notes.
WHOLE = ("adopt", "intend", "created", "orphaned", "failed", "release", "enter", "claim", "beat")


def _change(_, record, change, *rest):
    return f" {type(change).__name__}"
