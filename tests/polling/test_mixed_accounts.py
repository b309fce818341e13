"""An account whose polls are now refused and now answered: what is corrupted later recovers."""

from __future__ import annotations

import random
import sys
import threading

import pytest
from support.real_threads import path_of
from support.recorder import PATIENCE

from tinkex import Monitor, Policy, signals
from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient

RUNS = [f"{number}:train:0" for number in range(24)]


class Mixed:
    """A REST module that refuses the account for about half of the polls, until `works`."""

    def __init__(self, seed, status):
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.status = status
        self.works = False
        self.corrupted = set()

    def get_training_run(self, config, run_id):
        with self.lock:
            refused = not self.works and self.chance.random() < 0.5
        if refused:
            raise ApiStatusError.of(self.status)
        return {
            "training_run_id": run_id,
            "corrupted": run_id in self.corrupted,
            "last_checkpoint": {"tinker_path": path_of(run_id)},
        }

    def list_checkpoints(self, config, run_id):
        return [{"tinker_path": path_of(run_id)}]


@pytest.fixture
def many_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("status", [401, 402])
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_corrupted_when_the_account_works_again_recovers(seed, status, many_switches):
    rest = Mixed(seed, status)
    completed, told = threading.Event(), []

    def receiver(sender, *, event):
        told.append(event.name)
        if event.name == "completed":
            completed.set()

    policy = Policy(enabled=True, poll_interval=3600.0, backoff=0.01, max_backoff=0.02)
    with (
        Monitor(policy, rest_module=rest) as monitor,
        signals.subscribe(receiver, "paused", "resumed", "completed", "missing", sender=monitor),
    ):
        runs = [monitor.monitor_run(run_id, FakeServiceClient()) for run_id in RUNS]
        for _ in range(10):
            monitor.poll_now()
        rest.works = True
        monitor.poll_now()
        rest.corrupted.add(RUNS[3])
        monitor.poll_now()

        assert completed.wait(PATIENCE)
        assert runs[3].state == "healthy"

    accounts = [name for name in told if name in ("paused", "resumed")]
    assert accounts == ["paused", "resumed"] * (len(accounts) // 2)
    assert "missing" not in told
