"""x"""

from __future__ import annotations

import pytest
from support.world import RUN, ManualExecutor

from tinkex import Policy, RecoveryExecutor
from tinkex.errors import (
    AlreadyPendingError,
)
from tinkex.testing import InlineExecutor

ENABLED = Policy(enabled=True)

pytestmark = pytest.mark.usefixtures("no_environment")


def test_a_monitor_joins_a_recovery_that_was_asked_for_directly(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    run = world.monitor(executor, poll_interval=1.0).monitor_run(RUN, world.service, client="first")
    future = executor.recover(RUN, world.service, ENABLED)

    world.fake.advance(1)
    assert run.state in ("recovering", "waiting")
    world.fake.advance(10)

    assert len(world.service.created) == 1
    assert run.client is future.result(0).client
    assert world.events.names.count("completed") == 1
    sender = world.events.senders[world.events.events.index(world.events.one("completed"))]
    assert sender is executor


def test_stopping_the_run_of_a_monitor_that_joined_leaves_the_direct_recovery_alone(world):
    world.corrupt()
    world.service.fail(ConnectionResetError())
    executor = RecoveryExecutor(InlineExecutor(), rest_module=world.rest, scheduler=world.fake)
    run = world.monitor(executor, poll_interval=1.0).monitor_run(RUN, world.service)
    future = executor.recover(RUN, world.service, ENABLED)
    world.fake.advance(1)

    run.stop()
    world.fake.advance(10)

    assert future.result(0).run_id == RUN
    assert (run.run_id, run.state) == (RUN, "stopped")


def test_a_direct_recovery_is_refused_while_a_monitor_recovers_the_run(world):
    world.corrupt()
    executor = RecoveryExecutor(ManualExecutor(), rest_module=world.rest, scheduler=world.fake)
    world.monitor(executor).monitor_run(RUN, world.service)
    world.fake.advance(10)

    with pytest.raises(AlreadyPendingError):
        executor.recover(RUN, world.service, ENABLED)
