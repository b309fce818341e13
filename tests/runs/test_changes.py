"""Changes of a run are values, applied in one place, with their events in the same step."""

from __future__ import annotations

import sys
import threading
from dataclasses import fields
from datetime import UTC, datetime
from typing import get_args

import pytest
from support.real_threads import path_of
from support.recorder import PATIENCE, Recorder
from support.world import RUN

from tinkex import Monitor, Policy, RecoveryExecutor, TrainingRun, signals
from tinkex.runs import apply, changes
from tinkex.runs.record import Record
from tinkex.testing import FakeServiceClient, FakeTrainingClient

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def record():
    return Record(
        lock=threading.Lock(),
        run_id=RUN,
        service=None,
        config=None,
        metadata={},
        client=None,
        started_at=NOW,
        started=0.0,
        make_handle=lambda _: None,
    )


def seen(run_id=RUN, *, corrupted=False):
    run = TrainingRun(training_run_id=RUN, corrupted=corrupted)
    kind = changes.Flagged if corrupted else changes.Seen
    return kind(run_id=run_id, run=run)


MOMENT = changes.Moment(NOW, 0.0, Policy(enabled=True), NOW)


def test_a_change_cannot_be_changed():
    with pytest.raises(AttributeError):
        seen().run_id = "another"


def test_every_kind_of_change_can_be_applied():
    named = [each for each in vars(changes).values() if isinstance(each, type)]
    kinds = {each for each in named if each.__module__ == changes.__name__}

    assert kinds - {changes.Moment} == set(get_args(changes.Change)) == set(apply.APPLIED_BY)


def test_a_change_of_a_generation_that_is_not_live_is_refused_and_changes_nothing():
    run = record()
    before = {field.name: getattr(run, field.name) for field in fields(Record) if field.init}
    before.pop("make_handle", None)

    assert apply.apply(run, seen("another:train:0", corrupted=True), MOMENT) is None
    assert {name: getattr(run, name) for name in before} == before


def test_a_change_that_is_applied_says_what_is_to_be_published():
    run = record()

    (detected,) = apply.apply(run, seen(corrupted=True), MOMENT)

    assert isinstance(detected, signals.Detected)
    assert (detected.run_id, detected.time, run.state) == (RUN, NOW, "recovering")
    assert apply.apply(run, seen(corrupted=True), MOMENT) is None


class Endless:
    """A REST module and a service client of runs that are corrupted as soon as they are made."""

    def get_training_run(self, config, run_id):
        return {
            "training_run_id": run_id,
            "corrupted": True,
            "last_checkpoint": {"tinker_path": path_of(run_id)},
        }

    def list_checkpoints(self, config, run_id):
        return [{"tinker_path": path_of(run_id)}]


class Service(FakeServiceClient):
    """Makes clients with ids of their own from many threads."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.made = 0

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        with self.lock:
            self.made += 1
            return FakeTrainingClient(f"made:train:{self.made}", path)


class Order(Recorder):
    """Notes each event that comes before the `completed` that brought its run about."""

    def __init__(self, enough):
        super().__init__()
        self.known = set()
        self.early = []
        self.lock = threading.Lock()
        self.enough = enough
        self.done = threading.Event()

    def __call__(self, sender, *, event):
        with self.lock:
            if event.name == "completed":
                self.known.add(event.successor_id)
                if len(self.known) >= self.enough:
                    self.done.set()
            elif event.run_id.startswith("made") and event.run_id not in self.known:
                self.early.append(event)


def test_the_events_of_a_successor_never_overtake_the_completed_before_them(monkeypatch):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    policy = Policy(
        enabled=True, poll_interval=0.001, backoff=0.001, max_backoff=0.002, max_incidents=10**6
    )
    order = Order(enough=200)
    monitor = Monitor(
        policy,
        rest_module=Endless(),
        executor=RecoveryExecutor(max_concurrent=8),
        poll_workers=16,
    )
    names = ("detected", "started", "checkpoint_selected", "client_created", "completed")
    try:
        with signals.subscribe(order, *names, sender=monitor), monitor:
            service = Service()
            for number in range(16):
                monitor.monitor_run(f"first:train:{number}", service)
            assert order.done.wait(4 * PATIENCE)
    finally:
        sys.setswitchinterval(before)

    assert order.early == []
