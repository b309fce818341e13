"""A refusal that was on its way when the account worked again does not hold it once more."""

from __future__ import annotations

import threading

from support.recorder import PATIENCE

from tinkex import Policy, signals
from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient


def test_an_older_refusal_says_nothing_of_an_account_that_works(bench):
    asked, answered = threading.Event(), threading.Event()

    class Rest:
        def get_training_run(self, config, run_id):
            if run_id == "late:train:0":
                asked.set()
                assert answered.wait(PATIENCE)
                raise ApiStatusError(402)
            assert asked.wait(PATIENCE)
            if run_id == "next:train:0":  # asked by the thread that has seen the good one
                answered.set()
            return {"training_run_id": run_id}

    swept = threading.Event()
    monitor = bench.monitor(
        Policy(enabled=True, poll_interval=1000.0),
        rest_module=Rest(),
        started=False,
        poll_workers=2,
    )
    for run_id in ("late:train:0", "good:train:0", "next:train:0"):
        monitor.monitor_run(run_id, FakeServiceClient())
    told = []

    def receive(_, event):
        told.append(event.name)
        if event.name == "swept":
            swept.set()

    with signals.subscribe(receive, "paused", "swept", sender=monitor):
        monitor.start()
        monitor.poll_now()
        assert swept.wait(PATIENCE)

    assert "paused" not in told
