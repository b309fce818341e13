"""An account with a lineage of three generations in it, which is gone on with."""

from __future__ import annotations

import tinkex
from tinkex import Policy
from tinkex.lineage import owners
from tinkex.opening import here
from tinkex.testing import InlineExecutor

from .sites import Site, Tenant, account_of
from .world import RUN, weights

SECOND, THIRD, EMPTY = "5e11:train:0", "9ab2:train:0", "aaaa:train:0"


def saved(run_id, name, step):
    path = weights(name, run_id)
    metadata = {"tinkex_step": str(step), "tinkex_data": "[7]"}
    return {"tinker_path": path, "time": f"2026-01-01T00:{step:02}:00Z", "user_metadata": metadata}


def carried(before, made_from, **more):
    return {
        "tinkex_root": RUN,
        "tinkex_recovered_from": before,
        "tinkex_checkpoint": made_from,
        "name": "sft",
        **more,
    }


class Account(Site):
    """Three generations of a run among others; the last one was left at step 30."""

    def __init__(self, others=40, **options):
        super().__init__([f"other{n}:train:0" for n in range(others)], **options)
        self.listed[3:3] = [THIRD, RUN, SECOND]
        self.saves = {
            RUN: [saved(RUN, "000005", 5)],
            SECOND: [saved(SECOND, "000010", 10), saved(SECOND, "000020", 20)],
            THIRD: [saved(THIRD, "000030", 30)],
        }
        self.rows[RUN] = {"user_metadata": {"name": "sft"}}
        self.rows[SECOND] = {"user_metadata": carried(RUN, weights("000005"))}
        self.rows[THIRD] = {"user_metadata": carried(SECOND, weights("000020", SECOND))}
        for run_id, checkpoints in self.saves.items():
            self.rows[run_id]["last_checkpoint"] = checkpoints[-1]

    def left_behind(self):
        """A load of the third generation failed, and left a run without a checkpoint."""
        made = carried(THIRD, weights("000030", THIRD), tinkex_generation="3")
        self.listed.insert(0, EMPTY)
        self.rows[EMPTY] = {"user_metadata": made, "last_checkpoint": None}

    def list_checkpoints(self, config, run_id):
        return self.saves.get(run_id, [])


def in_another_process():
    """From here on it is another process: what the one before had of lineages is gone."""
    here._table.after_fork()
    owners._own.clear()


def going_on(world, site, run_id, claim=None, **policy):
    tenant = Tenant(world.service)
    options = {"rest_module": site, "rest_client_fun": account_of, "scheduler": world.fake}
    options.update(claim or {"takeover": True})
    policy = Policy(enabled=True, poll_interval=10.0, **policy)
    return tinkex.resume(run_id, tenant, policy, executor=InlineExecutor(), **options)
