"""What a user's typed program does with tinkex; it is checked by mypy and pyright, not run."""

from __future__ import annotations

from concurrent.futures import Future
from typing import assert_type

import tinker

import tinkex
from tinkex import signals
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

policy = tinkex.Policy(enabled=True, poll_interval=5.0)


def train(total_steps: int) -> list[int]:
    begun: list[int] = []
    with tinkex.open_run("sft-7", tinker.ServiceClient, policy=policy, base_model="any") as run:
        assert_type(run, tinkex.MonitoredRun)
        for segment in run.segments():
            with segment:
                assert_type(segment, tinkex.Segment)
                assert_type(segment.resume, tinkex.ResumePoint | None)
                begun.append(segment.start_step)
                for step in segment.steps(total_steps):
                    assert_type(step, int)
                    saved = segment.save_state(f"{step:06d}", step=step + 1)
                    assert_type(saved, tinkex.Checkpoint)
    return begun


def look(monitor: tinkex.Monitor) -> None:
    for status in monitor.status():
        assert_type(status, tinkex.RunStatus)
        assert_type(status.state, tinkex.RunState)
        assert_type(status.last_checkpoint, tinkex.Checkpoint | None)
    one = monitor.status("s:train:0")
    assert_type(one, tinkex.RunStatus)
    run = monitor.monitor_run("s:train:0", FakeServiceClient())
    assert_type(run, tinkex.MonitoredRun)
    assert_type(run.plan(), tinkex.Plan)
    assert_type(run.recover(), Future[signals.Completed])


def hear(sender: object, event: signals.Event) -> None:
    if isinstance(event, signals.Completed):
        assert_type(event.duration, float)


with (
    tinkex.Monitor(
        policy, rest_module=FakeRest(), scheduler=FakeScheduler(), executor=InlineExecutor()
    ) as monitor,
    signals.subscribe(hear, "completed", sender=monitor),
    tinkex.Journal("tinkex.db") as journal,
):
    look(monitor)
    for entry in journal.history():
        assert_type(entry, tinkex.JournalEntry)
