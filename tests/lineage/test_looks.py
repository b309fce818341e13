"""When an account is looked at, on which thread, and what becomes of looks that hang."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from support.recorder import PATIENCE
from support.sites import Site
from support.world import weights

from tinkex.lineage.fence import Fence
from tinkex.policy import Policy
from tinkex.ports import RestPort
from tinkex.runs.apply import apply, take_up
from tinkex.runs.changes import Fenced, Freed, Moment
from tinkex.runs.record import Origin, Record
from tinkex.runtime.scheduler import Clock
from tinkex.testing import FakeScheduler

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOMENT = Moment(NOW, 0.0, Policy(enabled=True), NOW)
OWNED = {"tinkex_owner": "me", "tinkex_root": "root"}


class Lists(Site):
    """Two runs of a lineage, the newer one of another owner; accounts of some names hang."""

    def __init__(self):
        super().__init__(["mine:train:0", "theirs:train:0"])
        for number, (run_id, owner) in enumerate((("mine", "me"), ("theirs", "they"))):
            told = {**OWNED, "tinkex_owner": owner, "tinkex_generation": str(number)}
            path = weights("000001", f"{run_id}:train:0")
            self.rows[f"{run_id}:train:0"] = {
                "user_metadata": told,
                "last_checkpoint": {"tinker_path": path},
            }
        self.threads = []
        self.hangs = set()
        self.gate = threading.Event()

    def list_training_runs(self, config, *, limit, offset):
        self.threads.append(threading.current_thread())
        if config in self.hangs:
            assert self.gate.wait(PATIENCE)
        return super().list_training_runs(config, limit=limit, offset=offset)


class Bench:
    """A fence over fakes; what it finds lost is noted."""

    def __init__(self, *, inline):
        self.fake, self.site = FakeScheduler(), Lists()
        self.lost, self.found = [], threading.Event()
        self.clock = Clock(self.fake)
        self.fence = Fence(
            RestPort(self.site),
            self.clock,
            let_save=lambda *_: None,
            on_lost=self._lost,
            inline=inline,
        )

    def _lost(self, record, run_id, successor):
        self.lost.append((record.config, run_id, successor.run_id))
        self.found.set()

    def watch(self, account, carried=OWNED):
        record = Record(
            lock=threading.Lock(),
            run_id="mine:train:0",
            service=None,
            config=account,
            metadata={},
            client=None,
            started_at=NOW,
            started=0.0,
            make_handle=lambda _: None,
        )
        take_up(record, Origin((), None, 0, tuple(carried.items())))
        self.fence.watch(record)
        return record


LOST = ("one", "mine:train:0", "theirs:train:0")


@pytest.fixture
def bench():
    made = Bench(inline=False)
    yield made
    made.site.gate.set()
    made.fence.close()
    made.fence.join(PATIENCE)


def test_a_look_that_is_due_is_made_on_a_thread_of_its_own(bench):
    bench.watch("one")
    bench.fake.advance(60)

    assert bench.found.wait(PATIENCE)
    assert bench.lost == [LOST]
    [thread] = set(bench.site.threads)
    assert thread.name.startswith("tinkex-fence")
    assert thread.daemon


def test_with_a_scheduler_that_was_handed_in_there_is_no_thread():
    bench = Bench(inline=True)
    bench.watch("one")
    bench.fake.advance(60)

    assert bench.lost == [LOST]
    assert set(bench.site.threads) == {threading.current_thread()}


def test_no_thread_is_made_before_a_look_is_due(bench):
    before = threading.active_count()
    bench.watch("one")
    bench.fake.advance(5)

    assert threading.active_count() == before


def test_a_look_that_hangs_holds_up_no_other_account_and_is_not_made_twice(bench):
    bench.site.hangs.add("hung")
    bench.watch("hung")
    bench.fake.advance(60)
    bench.watch("one")
    bench.fake.advance(600)

    assert bench.found.wait(PATIENCE)
    assert bench.lost[0] == LOST
    assert len({each.name for each in bench.site.threads}) == 2


def test_runs_of_an_account_share_a_look():
    bench = Bench(inline=True)
    for _ in range(3):
        bench.watch("one")
    bench.fake.advance(60)

    assert len(bench.site.lists) == 1
    assert bench.lost == [LOST] * 3


def test_a_run_without_an_owner_is_not_watched():
    bench = Bench(inline=True)
    bench.watch("one", carried={})

    assert bench.fake.pending == ()


def test_a_look_that_was_made_for_a_save_counts():
    bench = Bench(inline=True)
    record = bench.watch("one")
    assert bench.fence.look(record)
    bench.fake.advance(50)
    assert len(bench.site.lists) == 1

    assert bench.fence.look(record, unless_within=60.0)
    assert len(bench.site.lists) == 1
    bench.fake.advance(10)
    assert len(bench.site.lists) == 2


def test_seconds_in_which_only_the_suspended_machine_s_clock_moved_count():
    bench = Bench(inline=True)
    bench.watch("one")
    bench.fake.advance(10)
    assert len(bench.site.lists) == 1

    bench.clock.elapsed = lambda: bench.fake.now() + 3600.0
    bench.fake.advance(10)

    assert len(bench.site.lists) == 2


def test_an_exit_in_a_foreign_module_ends_nothing():
    bench = Bench(inline=True)

    def leave(rows, offset):
        raise SystemExit

    bench.site.page = leave
    bench.watch("one")
    bench.fake.advance(60)
    bench.site.page = lambda rows, offset: rows
    bench.fake.advance(10)

    assert bench.lost == [LOST]


def test_a_run_that_is_followed_is_looked_at_when_it_is_ours_again():
    bench = Bench(inline=True)
    record = bench.watch("one")
    apply(record, Fenced("theirs:train:0", "they"), MOMENT)
    bench.fake.advance(600)
    assert bench.site.lists == []

    apply(record, Freed(), MOMENT)
    bench.fake.advance(10)
    assert bench.lost == [LOST]


def test_after_the_end_nothing_is_looked_at():
    bench = Bench(inline=True)
    record = bench.watch("one")
    bench.fence.close()
    bench.fake.advance(600)

    assert bench.fence.look(record)
    assert bench.site.lists == []
