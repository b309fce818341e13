"""One process of a journal takes a run over from another: what was known of it goes along."""

from __future__ import annotations

import threading

import pytest
from support.journals import change, rows
from support.processes import DiedError, Site, View
from support.recorder import PATIENCE
from support.world import OTHER, RUN, weights

from tinkex import Monitor, Policy
from tinkex.journal import keeper
from tinkex.journal.views import EMPTY_BODY
from tinkex.testing import FakeServiceClient


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "tinkex.db")
    made.server.add(RUN)
    made.server.save(RUN, "000000")
    yield made
    made.close()


def watched(life):
    life.handles[RUN] = life.monitor.monitor_run(RUN, life.service, client=life.client(RUN))
    return life.handles[RUN]


def recovered(life, path, metadata):
    return life.client(life.site.server.make(metadata))


def test_who_followed_a_run_knows_where_its_owner_saved(site):
    first, second = site.begin(is_here=True), site.begin(is_here=True)
    run, follower = watched(first), watched(second)
    assert follower.state == "following"
    path = site.server.save(RUN, "000007")
    run.record_checkpoint(path, step=7, data={"at": 7})
    first.stop()
    site.fake.advance(11)

    assert follower.state == "healthy"
    assert follower.plan().candidates[0].checkpoint.tinker_path == weights("000007")
    assert follower.plan().candidates[0].step == 7


def test_who_followed_a_run_has_the_budget_that_is_left(site):
    first, second = site.begin(is_here=True), site.begin(is_here=True)
    watched(first)
    watched(second)
    site.server.corrupted.add(RUN)
    site.fake.advance(11)
    first.crash()  # in the middle of the incident
    site.fake.advance(21)
    second.crash()
    third = site.begin(is_here=True)
    (run,) = third.monitor.resume(third.service)

    incidents = [e for e in third.journal.history(RUN) if e.kind == "detected"]
    assert len(incidents) == 2
    assert len(run._record.history.incidents) == 2


def test_what_was_saved_again_meanwhile_counts_for_who_had_the_run_before(site):
    first, second = site.begin(is_here=False), site.begin(is_here=False)
    run, other = watched(first), watched(second)
    run.record_checkpoint(weights("000000"), step=3)
    first.time.is_asleep = True
    site.fake.advance(45)
    assert other.state == "healthy"
    other.record_checkpoint(weights("000000"), step=9)
    first.time.wake()
    assert run.state == "following"
    second.stop()
    site.fake.advance(11)

    assert run.state == "healthy"
    assert run.plan().candidates[0].step == 9


def test_an_owner_that_could_not_write_for_long_is_not_taken_for_dead(site):
    second, first = site.begin(is_here=False), site.begin(is_here=False)
    run, follower = watched(first), watched(second)
    site.set_disk(is_failing=True)
    site.fake.advance(60)
    site.set_disk(is_failing=False)
    site.fake.advance(60)

    assert run.state == "healthy"
    assert follower.state == "following"


def test_a_run_that_is_followed_is_brought_back_with_the_same_handle(site):
    first, second = site.begin(is_here=True), site.begin(is_here=True)
    run, follower = watched(first), watched(second)
    site.server.corrupted.add(RUN)
    site.fake.advance(11)
    first.end_attempt(recovered)
    successor = run.run_id
    assert successor != RUN
    first.crash()
    (found,) = second.monitor.resume(second.service)

    assert found is follower
    assert (found.run_id, found.root_id, found.state) == (successor, RUN, "healthy")
    assert [each.run_id for each in found.lineage] == [RUN, successor]
    assert second.monitor.status(RUN).run_id == successor
    site.server.corrupted.add(successor)
    site.fake.advance(11)
    second.end_attempt(recovered)
    assert found.status().generation == 2


def test_the_order_in_which_checkpoints_were_saved_is_kept(site):
    life = site.begin(is_here=True)
    run = watched(life)
    site.set_disk(is_failing=True)
    names = [f"{number:06d}" for number in (3, 1, 4, 5, 9, 2, 6, 8, 7, 1)]
    for step, name in enumerate(names):
        run.record_checkpoint(weights(name), step=step)
    site.set_disk(is_failing=False)
    site.fake.advance(11)
    life.crash()

    (run,) = (second := site.begin(is_here=True)).monitor.resume(second.service)
    newest = run.plan().candidates[0].checkpoint.tinker_path
    assert newest == weights("000001")
    known = [path.rpartition("/")[2] for path in run._record.history.known]
    assert known == ["000003", *names[2:]]


def test_who_does_not_follow_a_run_any_more_takes_nothing(site):
    first, second = site.begin(is_here=True), site.begin(is_here=True)
    watched(first)
    watched(second).stop()
    del second.handles[RUN]
    first.crash()
    site.fake.advance(21)

    third = site.begin(is_here=True)
    assert [run.run_id for run in third.monitor.resume(third.service)] == [RUN]
    assert "stopped" not in [each.kind for each in third.journal.history(RUN)]


def test_what_an_owner_wrote_that_came_and_went_meanwhile_counts(site):
    first, second = site.begin(is_here=False), site.begin(is_here=False)
    run, other = watched(first), watched(second)
    run.record_checkpoint(weights("000000"), step=3)
    first.time.is_asleep = True
    site.fake.advance(45)
    other.record_checkpoint(weights("000000"), step=9)
    second.stop()
    first.time.wake()
    site.fake.advance(21)

    assert run.state == "healthy"
    assert run.plan().candidates[0].step == 9
    assert first.order.last(RUN) == "fenced"


def died(life, path, metadata):
    """The run is made, and its process ends before it knows that."""
    life.site.server.make(metadata)
    raise DiedError


def test_what_the_last_attempt_of_an_owner_made_is_an_orphan_for_who_followed_it(site):
    first, second = site.begin(is_here=True), site.begin(is_here=True)
    watched(first)
    follower = watched(second)
    site.server.corrupted.add(RUN)
    site.fake.advance(11)
    first.end_attempt(died)
    first.crash()
    made = list(site.server.checkpoints)[-1]
    assert made != RUN
    assert rows(site.path, "SELECT state FROM attempt") == [("intent",)]
    site.server.corrupted.clear()
    site.fake.advance(45)

    assert follower.state == "healthy"
    assert follower.lineage[0].orphans == (made,)
    found = rows(site.path, "SELECT successor_id, state FROM attempt ORDER BY rowid")
    assert found == [(None, "failed"), (made, "orphaned")]
    told = [e.body for e in second.journal.history(RUN) if e.kind == "orphaned"]
    assert told == [{"successor_id": made}]
    second.crash()
    (run,) = (third := site.begin(is_here=True)).monitor.resume(third.service)
    assert run.lineage[0].orphans == (made,)


class SlowView(View):
    """Its list of runs takes its time, for what no sweep asks."""

    def __init__(self, server):
        super().__init__(server)
        self.asked, self.goes_on = threading.Event(), threading.Event()

    def list_training_runs(self, *args, **options):
        if threading.current_thread().name.startswith("tinkex-freed"):
            self.asked.set()
            self.goes_on.wait(PATIENCE)
        return super().list_training_runs(*args, **options)


def test_a_server_that_hangs_while_it_is_asked_what_was_made_holds_no_other_run_up(
    site, monkeypatch
):
    monkeypatch.setattr(keeper, "BEAT_EVERY", 0.05)
    site.server.add(OTHER)
    path, rest = site.path, SlowView(site.server)
    policy = Policy(enabled=True, poll_interval=3600.0)
    with Monitor(policy, rest_module=rest, journal=path) as monitor:
        change(path, "INSERT INTO owner VALUES ('other', 'far', 'boot', 7, '1', 0, 0)")
        change(path, "INSERT INTO lease VALUES (?, 'other', 1)", RUN)
        change(path, "INSERT INTO run VALUES (?, NULL, 'a', '{}', 'monitored', ?)", RUN, EMPTY_BODY)
        change(path, "INSERT INTO generation VALUES (?, 0, ?, NULL, '{}')", RUN, RUN)
        change(
            path, "INSERT INTO attempt VALUES ('a', ?, 1, 1, 1, NULL, NULL, 'intent', NULL)", RUN
        )
        run = monitor.monitor_run(RUN, FakeServiceClient())
        monitor._parts.keeper.read(lambda *_: None)
        assert run.state == "following"
        change(path, "UPDATE lease SET owner_id = NULL")
        assert rest.asked.wait(PATIENCE)
        other = monitor.monitor_run(OTHER, FakeServiceClient())
        monitor._parts.keeper.settle(other._record)
        assert run.state == "following"
        rest.goes_on.set()
        assert monitor._parts.waits.wait(run._record, lambda: run.state == "healthy", PATIENCE)
    assert rows(path, "SELECT state FROM attempt") == [("failed",)]
