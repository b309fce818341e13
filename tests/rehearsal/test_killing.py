"""The rehearsal in which the training process is killed, and what it says."""

from __future__ import annotations

import inspect

import pytest
import tinker

from tinkex.rehearsal.killing import KILLS, rehearse_kills

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        "user_metadata"
        not in inspect.signature(tinker.ServiceClient.create_lora_training_client).parameters,
        reason="this SDK gives runs no metadata",
    ),
]


def test_the_losses_are_those_of_a_run_that_nothing_happens_to():
    lines = []

    ended = rehearse_kills(lines.append, seed=3, steps=32, plain=True)

    assert (ended.passed, ended.difference) == (True, 0.0)
    assert ended.verdict == "largest difference of the loss, steps 0 to 31: 0.0"
    killed = [line for line in lines if "it is killed at step" in line]
    started = [line.rpartition("on ")[2] for line in lines if "is started on" in line]
    assert len(killed) == KILLS
    assert started == ["one machine"] * 2 + ["another machine"] * 2
    begun = [int(line.rpartition(" ")[2]) for line in lines if "goes on at step" in line]
    assert begun[0] == 0
    assert begun == sorted(begun)
