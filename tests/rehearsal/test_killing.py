"""The rehearsal in which the training process is killed, and what it says."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys

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
    assert [line.count("^") for line in lines if "^" in line] == [KILLS] * 2
    begun = [int(line.rpartition(" ")[2]) for line in lines if "goes on at step" in line]
    assert begun[0] == 0
    assert begun == sorted(begun)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no terminal to be closed")
@pytest.mark.parametrize("ended_by", ["SIGTERM", "SIGHUP"])
def test_one_that_is_told_to_end_leaves_no_process_and_no_folder(tmp_path, ended_by):
    number = getattr(signal, ended_by)
    # Tests that outlive their terminal (nohup) ignore it, and so would the process.
    before = signal.signal(number, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, "-m", "tinkex", "rehearse", "--kill"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(number, before)
    while "goes on at step" not in process.stdout.readline():
        assert process.poll() is None

    process.send_signal(number)

    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []
