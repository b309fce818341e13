"""A pool whose threads hang, beside which no other can start: attempts fail, no run stays."""

from __future__ import annotations

import threading

from support.real_threads import QUICK, wait_until
from support.world import OTHER, RUN

from tinkex import RecoveryExecutor
from tinkex.testing import FakeServiceClient


def test_an_attempt_fails_where_all_threads_hang_and_no_other_can_start(bench, monkeypatch):
    service = bench.service()
    executor = RecoveryExecutor(max_concurrent=2)
    monitor = bench.monitor(QUICK, executor=executor)
    monitor.monitor_run(RUN, service).recover()
    wait_until(service.entered)
    left, start = iter((True,)), threading.Thread.start

    def refuse_once(thread):
        if thread.name.startswith("tinkex-recovery") and next(left, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    monitor.monitor_run(OTHER, FakeServiceClient()).recover()

    bench.told.wait_for("completed", OTHER)
    assert "failed" in bench.told.names_of(OTHER)
    service.gate.set()
    executor.shutdown()
