"""Processes of this machine that have a run open by its name, and what they tell of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tinkex.lineage.owners import Ownership, lineage_key

from .accounts import BEGAN, Account, Service
from .lineages import in_another_process

NAME = "sft-7"

#: Opens a run by its name on an account of its own, or goes on with that of `argv`, and waits.
SCRIPT = """
import json
import sys
import tinkex
import tinkex.shortcuts
from support.accounts import Account, Service
from support.sites import account_of
from tinkex import Monitor, Policy
from tinkex.testing import FakeScheduler, InlineExecutor

account = Account()
parts = {"rest_module": account, "rest_client_fun": account_of}
parts |= {"scheduler": FakeScheduler(), "executor": InlineExecutor()}
tinkex.shortcuts.Monitor = lambda policy, **options: Monitor(policy, **options, **parts)
with tinkex.open_run("sft-7", Service(account), base_model="any") as run:
    print(json.dumps([run.run_id, account.rows[run.run_id]]), flush=True)
    sys.stdin.read()
"""


class Holder:
    """A second process that has a run open; `account` is as it left it."""

    def __init__(self):
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        self.run_id, row = json.loads(self.process.stdout.readline())
        self.account = Account()
        self.account.add(self.run_id, **{"metadata": row.pop("user_metadata"), **row})

    def end(self):
        """Leave its block, and end."""
        self.process.communicate(timeout=10)

    def kill(self):
        """End it in the way that it cannot notice."""
        self.process.kill()
        self.process.communicate(timeout=10)


@contextmanager
def held_elsewhere(owner="they", *, name=NAME, root=None, generation=0, is_claimed=True):
    """The lock of a lineage is another process's, as far as this one can tell."""
    with Ownership(lineage_key(Service.config, name, root), "theirs") as lock:
        lock.owner = owner
        if is_claimed:
            lock.claim(BEGAN, [], generation)
        in_another_process()
        yield lock
