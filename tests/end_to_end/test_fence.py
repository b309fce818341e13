"""A process on the official SDK is taken over while it trains: it ends, and the losses join."""

from __future__ import annotations

import inspect

import pytest
import tinker
from support.trainers import Trainer, losses, undisturbed

from tinkex import Config, rest
from tinkex.rehearsal import RehearsalServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        "user_metadata" not in inspect.signature(tinker.TrainingClient.save_state).parameters,
        reason="this SDK gives checkpoints no metadata",
    ),
]

#: Opens a run by its name. At a step it waits until it is told to go on, and then saves once as who
#: does not look, or asks again and again without ever saving; then its minute has 3 seconds.
SCRIPT = """
import sys
import time
import tinker
import tinkex
from tinkex import Policy
from tinkex.errors import RunHeldError
from tinkex.lineage import fence
from tinkex.rehearsal import batch

wait_at, then = int(sys.argv[1]), sys.argv[2]
if then == "asks":
    fence.LOOK_EVERY, fence.TICK = 3.0, 0.5
policy = Policy(enabled=True, poll_interval=1.0, backoff=0.05)
adam = tinker.AdamParams(learning_rate=0.05)
made_with = {"base_model": "any", "rank": 4, "seed": 3}
options = {"policy": policy, "takeover": True, **made_with}
try:
    with tinkex.open_run("sft-7", tinker.ServiceClient, **options) as run:
        for segment in run.segments():
            with segment:
                print("run", segment.client.model_id, flush=True)
                for step in segment.steps(24):
                    if step == wait_at:
                        print("waits", flush=True)
                        sys.stdin.readline()
                        if then == "saves":
                            late = {"tinkex_step": "20"}
                            segment.client.save_state("late", user_metadata=late).result()
                        while then == "asks":
                            segment.client.forward(batch(0), "cross_entropy").result()
                            time.sleep(0.05)
                    forward = segment.client.forward_backward(batch(step), "cross_entropy")
                    update = segment.client.optim_step(adam)
                    forward.result(), update.result()
                    print("step", step, flush=True)
                    if (step + 1) % 4 == 0:
                        segment.save_state(f"{step + 1:06d}", step=step + 1)
                        print("saved", step + 1, flush=True)
except RunHeldError as held:
    print("held", held, flush=True)
print("done", flush=True)
"""


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def train(server, tmp_path):
    made = []

    def begin(machine, wait_at=-1, then=""):
        made.append(Trainer(server, tmp_path / machine, SCRIPT, wait_at, then))
        return made[-1]

    yield begin
    for each in made:
        each.kill()


def ends_held(trainer):
    """What a process tells of who holds its run."""
    told = trainer.process.stdout.read().splitlines()
    assert [line for line in told if line.startswith("saved")] == []
    assert told[-1] == "done"
    return told[-2]


@pytest.mark.parametrize("then", ["saves", "asks"])
def test_a_process_that_was_taken_over_ends_and_the_losses_are_those_of_one_run(
    server, train, then
):
    older = train("a", 9, then)
    [first], _ = older.read_until("waits")
    newer = train("b", 18)
    [second], steps = newer.read_until("waits")
    assert steps[0] == 8

    older.tell()
    held = ends_held(older)
    assert second in held
    assert server.run(second).user_metadata["tinkex_owner"] in held

    newer.kill()
    [third], steps = train("c").read_until("done")
    assert steps[0] == 16
    assert f"tinker://{second}/weights/tinkex-adopted" in saves(server, second)
    assert (f"tinker://{first}/weights/late" in saves(server, first)) is (then == "saves")
    found = [entry for entry in losses(server, [first]) if entry[0] < 8]
    found += [entry for entry in losses(server, [second]) if entry[0] < 16]
    assert found + losses(server, [third]) == undisturbed()


def saves(server, run_id):
    config = Config(server.api_key, server.url)
    return [each.tinker_path for each in rest.list_checkpoints(config, run_id)]
