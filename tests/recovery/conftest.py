"""The fixture of many tests of recoveries."""

from __future__ import annotations

import pytest
from support.world import RUN

from tinkex import Policy, RecoveryExecutor
from tinkex.testing import InlineExecutor


@pytest.fixture
def recover(world):
    """Recover a run on an executor of its own; the keywords are fields of the policy."""

    def begin(run_id=RUN, pool=None, service=None, **policy):
        executor = RecoveryExecutor(
            pool or InlineExecutor(), rest_module=world.rest, scheduler=world.fake
        )
        policy = Policy(enabled=True, **policy)
        return executor.recover(run_id, service or world.service, policy)

    return begin
