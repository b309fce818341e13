"""A refusal that was on its way when the account worked again does not hold it once more."""

from __future__ import annotations

import threading

import pytest
from support.recorder import PATIENCE

from tinkex import Config, Policy, signals
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


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_refusal_of_an_old_key_says_nothing_of_the_new_one(world, is_listed):
    class Rest:
        def get_training_run(self, config, run_id):
            return self.answer(config, {"training_run_id": run_id})

        def list_training_runs(self, config, limit, offset):
            return self.answer(config, {"training_runs": [], "cursor": {"total_count": 0}})

        def answer(self, config, answer):
            if config.api_key != "tml-old":
                return answer
            for run_id in runs:  # while the request is on its way
                monitor.monitor_run(run_id, service("tml-new"))
            raise ApiStatusError(401)

    def service(key):
        made = FakeServiceClient()
        made.config = Config(key, "https://tinker.invalid")
        return made

    rest = Rest() if is_listed else _WithoutList(Rest())
    monitor = world.monitor(
        options={"rest_module": rest, "rest_client_fun": lambda service: service}
    )
    runs = [f"run{number}:train:0" for number in range(20)]
    handles = [monitor.monitor_run(run_id, service("tml-old")) for run_id in runs]
    told = []

    with signals.subscribe(lambda _, event: told.append(event.name), sender=monitor):
        world.fake.advance(10.0)

    assert "paused" not in told
    assert "poll_error" not in told
    assert {handle.state for handle in handles} == {"healthy"}


class _WithoutList:
    def __init__(self, rest):
        self.get_training_run = rest.get_training_run
