"""Scripts that train on the official SDK in processes of their own, and can be killed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import tinker

from tinkex.rehearsal import RehearsalServer, batch

STEPS = 24


class Trainer:
    """A script in a process of its own; `machine` is the folder in which it keeps its locks."""

    def __init__(self, server, machine, script, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **server.environ, "XDG_STATE_HOME": str(machine)},
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
        raise AssertionError(f"it ended before {wanted!r}: {self.process.stderr.read()[-2000:]}")

    def tell(self):
        """Let it go on that waits for a line."""
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()

    def kill(self):
        """End it in the way that it cannot notice."""
        self.process.kill()
        self.process.communicate(timeout=10)


def losses(server, run_ids):
    return [(entry.step, entry.loss) for each in run_ids for entry in server.steps(each)]


@functools.cache
def undisturbed():
    """The steps and losses of the scripts' training, when nothing happens to it."""
    adam = tinker.AdamParams(learning_rate=0.05)
    with RehearsalServer() as server:
        service = tinker.ServiceClient(base_url=server.url, api_key=server.api_key)
        client = service.create_lora_training_client(base_model="any", rank=4, seed=3)
        for step in range(STEPS):
            forward = client.forward_backward(batch(step), "cross_entropy")
            client.optim_step(adam).result()
            forward.result()
        found = losses(server, [client.model_id])
    assert [step for step, _ in found] == list(range(STEPS))
    return found
