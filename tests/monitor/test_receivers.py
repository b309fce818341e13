"""With real threads: receivers and callbacks that block or raise hold up their own run alone."""

from __future__ import annotations

import threading

import pytest
from support.real_threads import HEALTHY, wait_until
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Policy, signals
from tinkex.testing import FakeServiceClient


def test_a_receiver_that_blocks_holds_up_its_own_run_alone(bench):
    blocked, entered = bench.gate(), threading.Event()

    def block(sender, *, event):
        if event.run_id == RUN:
            entered.set()
            blocked.wait(PATIENCE)

    monitor = bench.monitor()
    with signals.subscribe(block, "detected", sender=monitor):
        bench.server.corrupt(RUN)
        handle = monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(entered)
        for run_id in (OTHER, *HEALTHY):
            monitor.monitor_run(run_id, FakeServiceClient())
        bench.server.corrupt(OTHER)

        bench.told.wait_for("completed", OTHER)
        bench.server.wait_for_more_polls(HEALTHY[0])

        assert handle.wait(PATIENCE) is not None
        assert bench.told.names_of(OTHER) == [
            "detected",
            "started",
            "checkpoint_selected",
            "client_created",
            "completed",
        ]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_receiver_that_raises_is_named_in_the_log_and_changes_nothing(bench, caplog, kind):
    def broken_receiver(sender, *, event):
        raise kind("not today")

    monitor = bench.monitor()
    with signals.subscribe(broken_receiver, sender=monitor):
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())

        bench.told.wait_for("completed", RUN)

    assert "broken_receiver of signal detected failed" in caplog.text


@pytest.mark.parametrize("raises", [ValueError, SystemExit, None])
def test_an_on_recovery_that_blocks_or_raises_holds_up_no_other_run(bench, raises):
    blocked, entered = bench.gate(), threading.Event()

    def on_recovery(old_client, new_client, checkpoint):
        if RUN in checkpoint.tinker_path:
            entered.set()
            if raises:
                raise raises("not today")
            blocked.wait(PATIENCE)

    policy = Policy(enabled=True, poll_interval=0.01, on_recovery=on_recovery)
    monitor = bench.monitor(policy)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    wait_until(entered)

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", OTHER)
    bench.server.wait_for_more_polls(monitor.status(RUN).run_id)


@pytest.mark.parametrize("raises", [ValueError, SystemExit, None])
def test_an_on_failure_that_blocks_or_raises_holds_up_no_other_run(bench, raises):
    blocked, entered = bench.gate(), threading.Event()

    def on_failure(run_id, error):
        entered.set()
        if raises:
            raise raises("not today")
        blocked.wait(PATIENCE)

    policy = Policy(enabled=True, poll_interval=0.01, max_attempts=1, on_failure=on_failure)
    monitor = bench.monitor(policy)
    broken = FakeServiceClient()
    broken.fail(RuntimeError("no capacity"), times=9)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, broken)
    wait_until(entered)

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", OTHER)
    assert monitor.status(RUN).state == "exhausted"


def test_a_done_callback_that_blocks_does_not_hold_up_the_next_recovery(bench):
    blocked, entered = bench.gate(), threading.Event()
    service = bench.service()
    monitor = bench.monitor()
    handle = monitor.monitor_run(RUN, service)
    future = handle.recover()
    wait_until(service.entered)
    future.add_done_callback(lambda _: (entered.set(), blocked.wait(PATIENCE)))
    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.told.wait_for("detected", OTHER)

    service.gate.set()
    wait_until(entered)

    bench.told.wait_for("completed", OTHER)
