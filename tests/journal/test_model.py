"""Monitors that share a journal, as a model: whatever happens to them, these things hold.

`pytest -m model` plays many more stories than the suite does.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.processes import DiedError, Site
from support.world import StatusError, weights

from tinkex.errors import TinkexError
from tinkex.journal.views import kept_of
from tinkex.runs.state import RunState

ROOTS = ["one:train:0", "two:train:0"]
#: Errors of an attempt: of the server, of the checkpoint, of the account, of patience.
STATUSES = [500, 404, 402, 429]
#: What comes of an attempt; `lost` leaves a run behind, `died` ends its process with it.
RESULTS = ["client", "client", "client", *STATUSES, "lost", "died"]

SUITE = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(SUITE, max_examples=500, derandomize=False)

whom = st.integers(0, 3)
moments = st.sampled_from(["checkpoint_selected", "client_created"])
meanwhiles = st.sampled_from(["nothing", "others end", "wakes"])


class Monitors(RuleBasedStateMachine):
    """Two processes at most, one after the other or at once, and two runs."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.site = Site(self.folder / "tinkex.db")
        self.saves = 0
        #: The checkpoints of which the journal has a step.
        self.steps = set()
        #: Those that were to be saved again while the disk failed.
        self.doubtful = set()
        for root in ROOTS:
            self.site.server.add(root)
            self.site.server.save(root, "000000")

    def teardown(self):
        try:
            if not self.site.wrong:
                self.all_ends_well()
        finally:
            self.site.close()
            shutil.rmtree(self.folder)

    def all_ends_well(self):
        """Once all works again each run is carried on by one process alone."""
        self.site.set_disk(is_failing=False)
        self.site.server.polls_to_fail = 0
        for life in self.site.living:
            life.time.wake()
        for _ in range(8):
            self.site.fake.advance(35)
            for life in self.trying():
                self.attempt_succeeds(self.trying().index(life))
        self.holds()
        for root in ROOTS:
            owner_id, _ = self.site.lease(root)
            for life in self.site.living:
                handle = life.handles.get(root)
                if handle is not None and owner_id == life.owner_id:
                    assert handle.state in ("healthy", "exhausted"), f"{life.name}: {handle!r}"
                    assert handle.run_id not in self.site.server.corrupted or (
                        handle.state == "exhausted"
                    )
                elif handle is not None:
                    assert handle.state == "following", f"{life.name}: {handle!r}"

    # Who there is

    def awake(self):
        """The processes that do something."""
        return [life for life in self.site.living if life.is_awake]

    def one(self, which, lives):
        """One of some processes; the others go on without it."""
        return lives[which % len(lives)]

    def watched(self):
        """Each run that a process which does something looks after."""
        return [(life, root) for life in self.awake() for root in life.handles]

    # Processes

    @initialize(is_here=st.booleans(), count=st.integers(1, 2), is_followed=st.booleans())
    def first(self, is_here, count, is_followed):
        for _ in range(1 + is_followed):
            life = self.site.begin(is_here=is_here)
            for root in ROOTS[:count]:
                self.watch_run(life, root)
            self.site.fake.advance(1)

    @precondition(lambda self: len(self.site.living) < 2 and not self.site.is_disk_failing)
    @rule(is_here=st.booleans(), then=st.sampled_from(["resume", "resume", "watch", None]))
    def begin(self, is_here, then):
        life = self.site.begin(is_here=is_here)
        if then == "resume":
            self.resume_all(life)
        elif then == "watch":
            for root in ROOTS:
                self.watch_run(life, root)

    @precondition(lambda self: self.awake() and not self.site.is_disk_failing)
    @rule(which=whom)
    def resume(self, which):
        self.resume_all(self.one(which, self.awake()))

    def resume_all(self, life):
        for handle in life.monitor.resume(life.service):
            root = self.site.server.root_of(handle.run_id)
            known = life.handles.setdefault(root, handle)
            assert known is handle, f"{life.name} has two handles of {root}"

    @precondition(lambda self: self.awake())
    @rule(which=whom, how=st.sampled_from(["stop", "crash", "sleep", "sleep"]))
    def end(self, which, how):
        life = self.one(which, self.awake())
        if how == "sleep":
            life.fall_asleep()
        elif how == "stop":
            life.stop()
        else:
            life.crash()

    @precondition(lambda self: len(self.awake()) < len(self.site.living))
    @rule(seconds=st.sampled_from([0, 12, 45]))
    def wake(self, seconds):
        self.site.fake.advance(seconds)
        for life in self.site.living:
            if life.time.is_asleep:
                life.time.wake()

    # Commands

    @precondition(lambda self: self.awake())
    @rule(which=whom, root=st.sampled_from(ROOTS), newest=st.booleans())
    def watch(self, which, root, newest):
        self.watch_run(self.one(which, self.awake()), root, newest=newest)

    def watch_run(self, life, root, *, newest=False):
        found = life.handles.get(root)
        run_id = root
        if found is not None:
            run_id = found.run_id
        elif newest and (known := self.site.generations(root)):
            run_id = known[-1][1]
        handle = life.monitor.monitor_run(run_id, life.service, client=life.client(run_id))
        assert found in (None, handle)
        life.handles[root] = handle

    @precondition(lambda self: self.watched())
    @rule(which=whom, recovers=st.sampled_from([True, True, False]))
    def ask(self, which, recovers):
        """Begin a recovery, or stop the run."""
        life, root = self.one(which, self.watched())
        handle = life.handles[root]
        if recovers:
            with suppress(TinkexError):
                handle.recover()
            return
        life.monitor.stop_monitoring(handle)
        life.order.forget(each.run_id for each in handle.lineage)
        del life.handles[root]

    @precondition(lambda self: self.trained())
    @rule(which=whom, is_new=st.booleans())
    def save(self, which, is_new):
        handle = self.one(which, self.trained())
        self.saves += is_new
        step = self.saves
        if self.site.is_disk_failing:
            self.doubtful.add(weights(f"{step:06d}", handle.run_id))
        with suppress(TinkexError, TimeoutError):
            segment = next(handle.segments(step, max_wait=0.5))
            with segment:
                segment.client.optim_step()
                segment.save_state(f"{step:06d}", step=max(step, segment.start_step), data=[step])

    def trained(self):
        """The handles whose loop does not wait."""
        found = [life.handles[root] for life, root in self.watched()]
        return [each for each in found if each.client is not None and each.state.is_polled]

    # The world

    @rule(seconds=st.sampled_from([1, 6, 11, 35, 130]))
    def time_passes(self, seconds):
        self.site.fake.advance(seconds)
        if seconds > 30 and not self.site.is_disk_failing:
            for life in self.awake():
                life.has_slept = False

    @precondition(lambda self: self.watched())
    @rule(which=whom, seconds=st.sampled_from([0, 11, 11]))
    def corrupt(self, which, seconds):
        """The server flags what some process takes for the live run; it may find out at once."""
        life, root = self.one(which, self.watched())
        self.site.server.corrupted.add(life.handles[root].run_id)
        self.site.fake.advance(seconds)

    @rule(times=st.integers(1, 4))
    def polls_fail(self, times):
        self.site.server.polls_to_fail = times

    @rule(seconds=st.sampled_from([None, 6, 45]))
    def disk_fails(self, seconds):
        """It works again after some seconds, or later."""
        self.site.set_disk(is_failing=True)
        if seconds is not None:
            self.site.fake.advance(seconds)
            self.site.set_disk(is_failing=False)
            self.site.fake.advance(11)

    @precondition(lambda self: self.site.is_disk_failing)
    @rule()
    def disk_works(self):
        self.site.set_disk(is_failing=False)

    # Attempts

    def trying(self):
        """The processes with attempts that may come to an end."""
        return [life for life in self.awake() if life.attempts]

    @precondition(lambda self: self.trying())
    @rule(which=whom)
    def attempt_begins(self, which):
        life = self.one(which, self.trying())
        if life.executor.waiting:
            life.executor.begin_next()

    @precondition(lambda self: self.trying())
    @rule(which=whom, result=st.sampled_from(RESULTS))
    def attempt_ends(self, which, result):
        life = self.one(which, self.trying())
        life.end_attempt(partial(self.made, result))
        if result == "died":
            life.crash()

    def made(self, result, life, path, metadata):
        """What comes of an attempt."""
        if result in STATUSES:
            raise StatusError(result)
        run_id = self.site.server.make(metadata)
        if result == "died":
            raise DiedError
        if result == "lost":
            raise StatusError(500)
        return life.client(run_id)

    @precondition(lambda self: self.trying())
    @rule(
        which=whom,
        moment=moments,
        seconds=st.sampled_from([12, 45, 45]),
        meanwhile=meanwhiles,
    )
    def attempt_is_late(self, which, moment, seconds, meanwhile):
        """It has a client, but its process slept for a while, in which others went on."""
        life = self.one(which, self.trying())

        def pause():
            life.fall_asleep()
            self.site.fake.advance(seconds)
            for other in self.trying() if meanwhile == "others end" else ():
                other.end_attempt(partial(self.made, "client"))
            if meanwhile == "wakes":
                life.time.wake()

        life.pause = moment, pause
        life.end_attempt(partial(self.made, "client"))
        life.pause = None, None
        life.time.wake()

    @precondition(lambda self: self.watched() and len(self.awake()) == 2)
    @rule(which=whom, moment=moments, meanwhile=meanwhiles)
    def attempt_is_taken_over(self, which, moment, meanwhile):
        self.corrupt(which, 11)
        if self.trying():
            self.attempt_is_late(which, moment, 45, meanwhile)

    @precondition(lambda self: self.trying())
    @rule(which=whom)
    def attempt_succeeds(self, which):
        self.attempt_ends(which, "client")

    # What holds

    @invariant()
    def holds(self):
        assert self.site.wrong == []
        self.each_run_has_one_successor()
        self.no_run_leaves_the_map()
        self.the_journal_has_what_its_holder_knows()
        self.no_step_is_forgotten()
        for life in self.site.living:
            life.look()

    def no_step_is_forgotten(self):
        """Not even for a moment: each save here is answered."""
        rows = self.site.db.execute("SELECT path FROM checkpoint WHERE step NOTNULL").fetchall()
        before, self.steps = self.steps, {row[0] for row in rows}
        assert before - self.doubtful <= self.steps

    def each_run_has_one_successor(self):
        for root in ROOTS:
            line = self.site.generations(root)
            assert [number for number, _ in line] == list(range(len(line)))
            for (_, before), (_, run_id) in pairwise(line):
                assert self.site.server.before(run_id) == before

    def no_run_leaves_the_map(self):
        for life in self.site.living:
            for handle in life.handles.values():
                assert handle.state != "stopped"
                assert life.monitor.status(handle.run_id).root_id == handle.root_id
            assert {each.root_id for each in life.monitor.status()} == {
                handle.root_id for handle in life.handles.values()
            }

    def the_journal_has_what_its_holder_knows(self):
        for life in self.awake():
            for root, handle in life.handles.items():
                if life.has_written and self.site.lease(root)[0] == life.owner_id:
                    self.check_kept(life, root, handle)

    def check_kept(self, life, root, handle):
        if handle.state == getattr(RunState, "FOLLOWING", None):
            return
        record = handle._record
        history = record.history
        kept = kept_of(self.site.db, root, life.monitor._parts.clock)
        assert kept is not None
        there, known = kept.origin.kept, kept.origin.generation
        assert kept.run_id == record.run_id
        assert known - record.generation == len(self.site.generations(root)) - len(record.run_ids)
        past = [each.run_id for each in kept.origin.past]
        assert past[len(past) + 1 - len(record.run_ids) :] == [each.run_id for each in history.past]
        assert told(there) == told(history), f"{life.name}: {root}"


def told(history):
    """What of a history outlives its process."""
    return {
        "cursors": history.cursors,
        "known": list(history.known),
        "broken": history.broken,
        "incidents": len(history.incidents),
        "stuck": (history.stuck, history.stuck_at),
        "carried": history.carried,
    }


@pytest.mark.long
@pytest.mark.timeout(300)
def test_whatever_happens_to_monitors_of_one_journal():
    run_state_machine_as_test(Monitors, settings=SUITE)


@pytest.mark.model
@pytest.mark.timeout(3600)
def test_whatever_happens_in_many_more_stories():
    run_state_machine_as_test(Monitors, settings=MANY)
