"""Processes that train on the official SDK are killed; another one goes on, and the curve joins."""

from __future__ import annotations

import inspect
import signal

import pytest
import tinker
from support.trainers import Trainer, losses, undisturbed

from tinkex.rehearsal import RehearsalServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
]

MAKE = tinker.ServiceClient.create_lora_training_client

#: Opens a run by its name, or goes on with one by an id; tells of its run, its steps and its end,
#: and waits for its own after the last line that it is to tell.
SCRIPT = """
import inspect
import sys
import tinker
import tinkex
from tinkex import Policy
from tinkex.rehearsal import batch

name, run_id, silent_for, last = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]

def tell(line):
    print(line, flush=True)
    if line == last:
        sys.stdin.read()

# Older SDKs carry no step with a checkpoint; here its name is the step.
carries = "user_metadata" in inspect.signature(tinker.TrainingClient.save_state).parameters
step_of = None if carries else lambda checkpoint: int(checkpoint.checkpoint_id)
policy = Policy(enabled=True, poll_interval=1.0, backoff=0.05)
adam = tinker.AdamParams(learning_rate=0.05)
made_with = {"base_model": "any", "rank": 4, "seed": 3}
if name:
    options = {"policy": policy, "silent_for": silent_for, **made_with}
    opened = tinkex.open_run(name, tinker.ServiceClient, **options)
elif run_id:
    opened = tinkex.resume(run_id, tinker.ServiceClient, policy, takeover=True)
else:
    client = tinker.ServiceClient().create_lora_training_client(**made_with)
    opened = tinkex.watch(client, tinker.ServiceClient, policy)
with opened as run:
    for segment in run.segments(resume_step=step_of):
        with segment:
            tell(f"run {segment.client.model_id}")
            for step in segment.steps(24):
                forward = segment.client.forward_backward(batch(step), "cross_entropy")
                update = segment.client.optim_step(adam)
                forward.result(), update.result()
                tell(f"step {step}")
                if (step + 1) % 4 == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)
                    tell(f"saved {step + 1}")
print("done", flush=True)
"""


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def train(server, tmp_path):
    made = []

    def begin(machine="a", *, name="", run_id="", silent_for=60.0, last=""):
        made.append(Trainer(server, tmp_path / machine, SCRIPT, name, run_id, silent_for, last))
        return made[-1]

    yield begin
    for each in made:
        each.kill()


#: After some steps, after some more, right after a save, and at the end.
ENDS = ("step 9", "step 8", "saved 16", "done")
BEGINS = [0, 8, 8, 16]


def assert_it_goes_on(server, begin):
    """`begin(number, lineage, last=…)` starts a process, which is killed; give all runs' ids."""
    lineage, begins = [], []
    for number, end in enumerate(ENDS):
        trainer = begin(number, lineage, last=end)
        runs, steps = trainer.read_until(end)
        trainer.kill()
        lineage += runs
        begins.append(steps[0])
    assert begins == BEGINS
    assert len(set(lineage)) == 4
    assert set(losses(server, lineage)) == set(undisturbed())
    return lineage


def test_a_script_that_is_killed_goes_on_by_its_first_id(server, train):
    def begin(number, lineage, last):
        return train(run_id=lineage[0] if lineage else "", last=last)

    assert_it_goes_on(server, begin)


@pytest.mark.skipif(
    "user_metadata" not in inspect.signature(MAKE).parameters,
    reason="this SDK gives runs no metadata",
)
@pytest.mark.parametrize("machines", ["aaaa", "abcd"], ids=["same machine", "other machines"])
def test_the_same_script_run_again_goes_on(server, train, machines):
    silent_for = 60.0 if machines == "aaaa" else 1.5

    def begin(number, lineage, last):
        return train(machines[number], name="sft-7", silent_for=silent_for, last=last)

    lineage = assert_it_goes_on(server, begin)

    metadata = [server.run(each).user_metadata for each in lineage]
    assert len({each["tinkex_root"] for each in metadata}) == 1
    assert [each["tinkex_generation"] for each in metadata] == ["0", "1", "2", "3"]


@pytest.mark.skipif(
    "user_metadata" not in inspect.signature(MAKE).parameters,
    reason="this SDK gives runs no metadata",
)
def test_a_second_process_is_refused_while_the_first_one_trains(server, train):
    first = train(name="sft-7")
    first.read_until("step 2")
    first.process.send_signal(signal.SIGSTOP)
    second = train(name="sft-7")

    _, told = second.process.communicate(timeout=60)
    first.process.send_signal(signal.SIGCONT)

    assert "RunHeldError" in told
    assert f"pid {first.process.pid}" in told
    first.read_until("done")
