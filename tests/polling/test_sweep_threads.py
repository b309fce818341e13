"""Sweeps on real threads: how many requests are in flight, and what one that hangs costs."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from support.recorder import PATIENCE, Recorder
from support.sites import Site, Tenant, account_of, ids

from tinkex import Monitor, Policy, signals
from tinkex.testing import FakeServiceClient

#: So rare that sweeps come only when they are asked for.
SELDOM = Policy(enabled=True, poll_interval=1000.0)
OFTEN = Policy(enabled=True, poll_interval=0.02)


class Busy(Site):
    """Counts requests in flight; those that are `held` wait for `gate`."""

    def __init__(self, *args, held=lambda kind, detail: True, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.held = held
        self.most = 0
        self.begun = Counter()
        self._changed = threading.Condition()
        self._in_flight = 0

    def get_training_run(self, config, run_id):
        with self._passing("run", run_id):
            return super().get_training_run(config, run_id)

    def list_training_runs(self, config, *, limit, offset):
        with self._passing("page", offset):
            return super().list_training_runs(config, limit=limit, offset=offset)

    def wait_for_flights(self, count):
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight >= count, PATIENCE)

    def _passing(self, kind, detail):
        return _Flight(self, kind, self.held(kind, detail))

    def take_off(self, kind):
        with self._changed:
            self._in_flight += 1
            self.begun[kind] += 1
            self.most = max(self.most, self._in_flight)
            self._changed.notify_all()

    def land(self):
        with self._changed:
            self._in_flight -= 1


class _Flight:
    def __init__(self, site, kind, held):
        self._site = site
        self._kind = kind
        self._held = held

    def __enter__(self):
        self._site.take_off(self._kind)
        if self._held:
            self._site.gate.wait(3 * PATIENCE)

    def __exit__(self, *raised):
        self._site.land()


@pytest.fixture
def monitors():
    made = []

    def make(site, count, *, policy=SELDOM, workers=4, run_ids=None):
        monitor = Monitor(
            policy, rest_module=site, rest_client_fun=account_of, poll_workers=workers
        )
        made.append((monitor, site))
        tenant = Tenant(FakeServiceClient())
        runs = [monitor.monitor_run(run_id, tenant) for run_id in run_ids or ids(count)]
        return monitor.start(), runs

    yield make
    for monitor, site in made:
        site.gate.set()
        monitor.stop()


def sweep_aside(monitor):
    """Sweep on a thread of its own."""
    thread = threading.Thread(target=monitor.poll_now, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("workers", [1, 4])
def test_no_more_runs_are_asked_for_at_a_time_than_there_may_be(monitors, workers):
    site = Busy(ids(2000))
    monitor, _ = monitors(site, 0, run_ids=ids(2000)[::500], workers=workers)

    sweeping = sweep_aside(monitor)
    reached = site.wait_for_flights(workers)
    site.gate.set()
    sweeping.join(PATIENCE)

    assert reached
    assert site.most == workers
    assert site.begun.total() <= 5


def test_pages_are_asked_for_in_parallel_and_no_more_of_them_than_there_may_be(monitors):
    site = Busy(ids(10_000), held=lambda kind, offset: offset > 0)
    monitor, _ = monitors(site, 10_000)

    sweeping = sweep_aside(monitor)
    reached = site.wait_for_flights(4)
    site.gate.set()
    sweeping.join(PATIENCE)

    assert reached
    assert site.most == 4
    assert len(site.lists) == 20
    assert site.gets.total() == 0


def test_a_sweep_asked_for_during_a_sweep_adds_no_requests(monitors):
    site = Busy(ids(4))
    told = Recorder()
    monitor, _ = monitors(site, 4)
    with signals.subscribe(told, "swept", sender=monitor):
        first = sweep_aside(monitor)
        assert site.wait_for_flights(4)

        others = [sweep_aside(monitor) for _ in range(3)]
        site.gate.set()
        for each in (first, *others):
            each.join(PATIENCE)
        told.wait_for("swept")

    # One that was asked for too late to join the first made a sweep of its own.
    assert site.gets.total() == 4 * len(told.of("swept"))
    assert site.most == 4


def test_a_list_that_hangs_for_ever_hides_no_run(monitors):
    site = Busy(ids(30), held=lambda kind, detail: kind == "page")
    told = Recorder()
    monitor, _ = monitors(site, 30, policy=OFTEN)
    assert site.wait_for_flights(1)

    with signals.subscribe(told, "completed", sender=monitor):
        site.corrupted.add(ids(30)[17])
        told.wait_for("completed", ids(30)[17])

    assert site.begun["page"] == 1


def test_a_slow_page_still_has_the_runs_asked_for_that_it_does_not_show(monitors):
    site = Busy(ids(30), hidden=ids(30)[:1], held=lambda kind, detail: kind == "page")
    told = Recorder()
    monitor, _ = monitors(site, 30)
    with signals.subscribe(told, "swept", "completed", sender=monitor):
        monitor.poll_now()
        told.wait_for("swept")
        site.corrupted.add(ids(30)[0])

        site.gate.set()

        told.wait_for("completed", ids(30)[0])

    assert site.gets[ids(30)[1]] == 0
