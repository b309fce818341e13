"""A monitor on the official SDK follows what another process trains, and recovers it after that."""

from __future__ import annotations

import inspect

import pytest
import tinker
from support.recorder import Recorder
from support.trainers import Trainer

from tinkex import Monitor, Policy, signals
from tinkex.rehearsal import RehearsalServer

MAKE = tinker.ServiceClient.create_lora_training_client

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        "user_metadata" not in inspect.signature(MAKE).parameters,
        reason="this SDK gives runs no metadata",
    ),
]

#: Opens a run by its name, saves it, and does nothing more of its own, polls included.
SCRIPT = """
import sys
import tinker
import tinkex
from tinkex import Policy

policy = Policy(enabled=True, poll_interval=3600.0)
made_with = {"base_model": "any", "rank": 4, "seed": 3}
with tinkex.open_run("sft-7", tinker.ServiceClient, policy=policy, **made_with) as run:
    segment = next(run.segments())
    segment.save_state("000001", step=1)
    print("run", run.run_id, flush=True)
    print("waits", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def server(monkeypatch, tmp_path):
    with RehearsalServer() as made:
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        yield made


@pytest.fixture
def trainer(server, tmp_path):
    made = Trainer(server, tmp_path, SCRIPT)
    yield made
    made.kill()


@pytest.mark.parametrize("is_noticed", [True, False], ids=["a poll notices", "an attempt notices"])
def test_a_corrupted_run_is_recovered_once_and_after_its_process(server, trainer, is_noticed):
    [run_id], _ = trainer.read_until("waits")
    policy, events = Policy(enabled=True, poll_interval=0.2, backoff=0.05), Recorder()
    with signals.subscribe(events), Monitor(policy) as monitor:
        if not is_noticed:
            server.corrupt(run_id)
        run = monitor.monitor_run(run_id, tinker.ServiceClient)
        events.wait_for("fenced")
        assert run.state == "following"
        if is_noticed:
            server.corrupt(run_id)
        events.wait_for("swept", count=len(events.of("swept")) + 3)
        assert run.state == "following"
        assert {"client_created", "failed", "exhausted"}.isdisjoint(events.names)

        trainer.kill()
        successor = events.wait_for("completed").successor_id
        assert run.run_id == successor

    told = server.run(successor).user_metadata
    assert (told["tinkex_generation"], told["tinkex_recovered_from"]) == ("1", run_id)
    assert "tinkex_owner" not in told
