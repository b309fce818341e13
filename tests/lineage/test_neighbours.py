"""On which thread the locks of other processes are looked at, and what a look that hangs costs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from support.recorder import PATIENCE
from support.sites import Site

from tinkex.lineage import neighbours
from tinkex.lineage.neighbours import Neighbours
from tinkex.lineage.owners import Holder
from tinkex.ports import RestPort
from tinkex.runs.record import Record
from tinkex.runtime.scheduler import Clock
from tinkex.testing import FakeScheduler

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNED = {"tinkex_owner": "they", "tinkex_root": "root", "tinkex_generation": "0"}


class Bench:
    """Neighbours over fakes; another process has all lineages open, and looks at some hang."""

    def __init__(self, monkeypatch):
        self.fake, self.gate = FakeScheduler(), threading.Event()
        self.threads, self.held, self.found = [], [], threading.Semaphore(0)
        self.hangs = set()
        monkeypatch.setattr(neighbours, "holder_of", self._holder_of)
        self.neighbours = Neighbours(
            RestPort(Site(["one", "two"])),
            Clock(self.fake),
            on_held=self._told,
            on_free=lambda record: None,
            is_off=False,
            inline=False,
        )

    def _holder_of(self, lineage):
        self.threads.append(threading.current_thread())
        if lineage.endswith(tuple(self.hangs)):
            assert self.gate.wait(PATIENCE)
        return Holder("they", 0, "it is there")

    def _told(self, record, run_id, successor):
        self.held.append((run_id, successor.owner))
        self.found.release()

    def polled(self, run_id):
        record = Record(
            lock=threading.Lock(),
            run_id=run_id,
            service=None,
            config=None,
            metadata={},
            client=None,
            started_at=NOW,
            started=0.0,
            make_handle=lambda _: None,
        )
        self.neighbours.polled(record, run_id, {**OWNED, "tinkex_root": run_id})
        return record


@pytest.fixture
def bench(monkeypatch):
    made = Bench(monkeypatch)
    yield made
    made.gate.set()
    made.neighbours.close()
    made.neighbours.join(PATIENCE)


def test_what_a_poll_brings_is_looked_at_on_a_thread_of_its_own(bench):
    bench.polled("one")

    assert bench.found.acquire(timeout=PATIENCE)
    assert bench.held == [("one", "it is there")]
    [thread] = bench.threads
    assert thread.name.startswith("tinkex-neighbours")
    assert thread.daemon


def test_a_run_without_an_owner_makes_no_thread(bench):
    before = threading.active_count()
    bench.neighbours.polled(bench.polled("one"), "one", {})
    assert bench.found.acquire(timeout=PATIENCE)
    bench.neighbours.sweep_begins()
    assert bench.found.acquire(timeout=PATIENCE)

    assert threading.active_count() <= before + 1


def test_a_look_that_hangs_holds_up_no_poll_and_no_other_run_and_is_not_made_twice(bench):
    bench.hangs.add("hung")
    record = bench.polled("hung")
    for _ in range(5):
        bench.neighbours.polled(record, "hung", OWNED)
        bench.fake.advance(60)
        bench.neighbours.sweep_begins()
    bench.polled("one")

    assert bench.found.acquire(timeout=PATIENCE)
    assert bench.held == [("one", "it is there")]
    assert len(bench.threads) == 2


def test_all_are_looked_at_once_a_minute(bench):
    bench.polled("one")
    assert bench.found.acquire(timeout=PATIENCE)
    bench.neighbours.sweep_begins()
    assert bench.found.acquire(timeout=PATIENCE)
    for seconds, count in ((59, 2), (1, 3)):
        bench.fake.advance(seconds)
        bench.neighbours.sweep_begins()
        if count == 3:
            assert bench.found.acquire(timeout=PATIENCE)
        assert len(bench.threads) == count


def test_after_the_end_nothing_is_looked_at(bench):
    bench.neighbours.close()
    bench.polled("one")

    assert bench.threads == []
