"""Processes that train on the official SDK are killed; another one goes on, and the curve joins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinkex.rehearsal import RehearsalServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

STEPS = 24

#: Trains a new run, or goes on with one of any id; tells of the run, of each step, and of its end.
SCRIPT = """
import inspect
import sys
import tinker
import tinkex
from tinkex import Policy
from tinkex.rehearsal import batch

url, key, run_id = sys.argv[1:]
# Older SDKs carry no step with a checkpoint; here its name is the step.
carries = "user_metadata" in inspect.signature(tinker.TrainingClient.save_state).parameters
step_of = None if carries else lambda checkpoint: int(checkpoint.checkpoint_id)
policy = Policy(enabled=True, poll_interval=1.0, backoff=0.05)
adam = tinker.AdamParams(learning_rate=0.05)
service = tinker.ServiceClient(base_url=url, api_key=key)
if run_id:
    opened = tinkex.resume(run_id, service, policy)
else:
    client = service.create_lora_training_client(base_model="any", rank=4, seed=3)
    opened = tinkex.watch(client, service, policy)
with opened as run:
    for segment in run.segments(resume_step=step_of):
        with segment:
            print("run", run.run_id, flush=True)
            for step in segment.steps(24):
                forward = segment.client.forward_backward(batch(step), "cross_entropy")
                update = segment.client.optim_step(adam)
                forward.result(), update.result()
                print("step", step, flush=True)
                if (step + 1) % 4 == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)
                    print("saved", step + 1, flush=True)
print("done", flush=True)
"""


class Trainer:
    """The script in a process of its own."""

    def __init__(self, server, run_id, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url, server.api_key, run_id],
            stdout=subprocess.PIPE,
            cwd=folder,
            text=True,
        )

    def read_until(self, wanted):
        """Read what it tells up to this line; give the ids of its runs and its steps."""
        runs, steps = [], []
        for line in self.process.stdout:
            kind, _, value = line.strip().partition(" ")
            if kind == "run":
                runs.append(value)
            if kind == "step":
                steps.append(int(value))
            if line.strip() == wanted:
                return runs, steps
        raise AssertionError(f"it ended before {wanted!r}, with {self.process.wait(10)}")

    def kill(self):
        """End it in the way that it cannot notice."""
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def train(server):
    made = []

    def begin(run_id, folder):
        made.append(Trainer(server, run_id, folder))
        return made[-1]

    yield begin
    for each in made:
        each.kill()


def losses(server, run_ids):
    return [(entry.step, entry.loss) for each in run_ids for entry in server.steps(each)]


@pytest.mark.timeout(120)
def test_a_script_that_is_killed_twice_goes_on_by_its_first_id(server, train, tmp_path):
    expected = train("", tmp_path)
    [undisturbed], _ = expected.read_until("done")
    lineage, first_steps = [], []
    # After a save, in between, and before the generation has saved anything.
    for number, end in enumerate(["step 9", "step 8", "saved 16", "done"]):
        folder = Path(tmp_path, str(number))
        folder.mkdir()
        trainer = train(lineage[0] if lineage else "", folder)
        runs, steps = trainer.read_until(end)
        trainer.kill()
        lineage += runs
        first_steps.append(steps[0])

    assert first_steps == [0, 8, 8, 16]
    assert len(set(lineage)) == 4
    wanted = losses(server, [undisturbed])
    told = losses(server, lineage)
    assert [step for step, _ in wanted] == list(range(STEPS))
    assert set(told) == set(wanted)
