"""Interleavings of threads, explored one by one by frontrun instead of hoped for.

Each case runs in a process of its own, in which frontrun takes the place of the locks. This file
is the only one that knows frontrun, which is young: without it, it can be dropped.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

#: How many interleavings of a case are tried at most, in how many seconds, and at least.
MOST, SECONDS, LEAST = 200, 12.0, 2


class Deliveries:
    """Two threads queue functions for one lane and start to deliver them."""

    def __init__(self):
        from tinkex.runtime.delivery import Delivery

        self.delivery = Delivery(inline=True, on_idle=lambda: None)
        self.called = []

    def _post(self, *names):
        for name in names:
            self.delivery.post("lane", lambda name=name: self.called.append(name))

    def workers(self):
        return lambda case: case._post("a1", "a2"), lambda case: case._post("b1")

    def holds(self):
        """Each is called once, those of one thread in order, and nothing is left."""
        in_order = [name for name in self.called if name[0] == "a"] == ["a1", "a2"]
        return sorted(self.called) == ["a1", "a2", "b1"] and in_order and self.delivery.is_idle()


class Pool:
    """One thread submits a job while another shuts the pool down; no thread of the pool's own.

    A thread that is not explored would have to be waited for, which frontrun does not know of.
    """

    def __init__(self):
        from tinkex.runtime.daemon_pool import DaemonPool

        self.pool = DaemonPool(0, "explored")
        self.outcome = None

    def _submit(self):
        try:
            self.outcome = self.pool.submit(lambda: None)
        except RuntimeError:
            self.outcome = "refused"

    def workers(self):
        return Pool._submit, lambda case: case.pool.shutdown(wait=False, cancel_futures=True)

    def holds(self):
        """The job is cancelled or refused, never forgotten."""
        return self.outcome == "refused" or self.outcome.cancelled()


class Polled(list):
    """Stands for the map of runs."""

    def polled(self):
        return self


class Timers:
    """A sweep is made while another thread arms the timer of the next one."""

    def __init__(self):
        from tinkex.polling.sweep_timer import Sweeps
        from tinkex.runtime.scheduler import Clock
        from tinkex.testing import FakeScheduler

        self.scheduler = FakeScheduler()
        sweeper = SimpleNamespace(
            makes_threads=False,
            begin=lambda _, on_end: on_end(None),
            is_own_thread=lambda: True,
        )
        told = SimpleNamespace(publish=lambda *_: None, notify=lambda _: None)
        runs = Polled()
        about = sweeper, runs, told, told
        self.sweeps = Sweeps(*about, clock=Clock(self.scheduler), interval=10.0)
        self.sweeps.start()
        runs.append("one")

    def workers(self):
        return lambda case: case.sweeps.make(), lambda case: case.sweeps.arm()

    def holds(self):
        """One timer is armed in the end, neither none nor two."""
        return len(self.scheduler.pending) == 1


class Told:
    """Stands for a publisher: notes what is queued."""

    def __init__(self):
        self.names = []

    def queue(self, lane, notices):
        made = [getattr(notice, "make", lambda one=notice: one)() for notice in notices]
        self.names += [event.name for event in made]

    def flush(self):
        pass


class Breakers:
    """An account is refused and answers again while an incident asks to go ahead."""

    def __init__(self):
        from tinkex.errors import ApiStatusError
        from tinkex.recovery.holds import Holds
        from tinkex.runtime.scheduler import Clock
        from tinkex.testing import FakeScheduler

        self.told = Told()
        self.released = []
        self.holds_table = Holds(
            Clock(FakeScheduler()), self.told, lambda account: (), self.released.extend
        )
        self.error = ApiStatusError.of(402)
        self.admitted = None

    def workers(self):
        def ask(case):
            case.admitted = case.holds_table.admit("account", "incident")

        return (
            lambda case: case.holds_table.hold(
                "account", case.error, reason="refused", polls_fail=True, apply=lambda: None
            ),
            lambda case: case.holds_table.poll_succeeded("account"),
            ask,
        )

    def holds(self):
        """The signals tell the breaker's state, and it is closed to none that it does not keep."""
        is_open = self.holds_table.breaker("account") == "open"
        told_right = self.told.names == (["paused"] if is_open else ["paused", "resumed"])
        self.holds_table.poll_succeeded("account")
        went_on = self.admitted or self.released == ["incident"]
        return went_on and (told_right or not self.told.names)


class Runs:
    """A run is recovered while a poll of its successor comes in."""

    def __init__(self):
        from tinkex import Checkpoint, Policy, TrainingRun, signals
        from tinkex.runs.changes import Flagged, Recovered, Requested
        from tinkex.runs.run_map import RunMap
        from tinkex.runtime.scheduler import Clock
        from tinkex.runtime.waits import Waits
        from tinkex.testing import FakeScheduler

        clock = Clock(FakeScheduler())
        self.told = Told()
        self.runs = RunMap(Policy(enabled=True), clock, self.told, Waits(clock))
        self.record = self.runs.register(
            "a:train:0",
            service=None,
            config=None,
            metadata={},
            client=None,
            make_handle=lambda record: None,
        )
        self.runs.apply(self.record, Requested(cause=signals.Cause.REQUESTED))
        completed = signals.Completed(
            run_id="a:train:0",
            metadata={},
            time=datetime(2026, 11, 24, tzinfo=UTC),
            attempt=1,
            checkpoint=Checkpoint.from_path("tinker://a:train:0/weights/1"),
            client="client",
            successor_id="b:train:0",
            duration=1.0,
        )
        self.recovered = Recovered(
            run_id="a:train:0", event=completed, with_optimizer=True, broken=frozenset()
        )
        self.flagged = Flagged(
            run_id="b:train:0", run=TrainingRun(training_run_id="b:train:0", corrupted=True)
        )

    def workers(self):
        return (
            lambda case: case.runs.apply(case.record, case.recovered),
            lambda case: case.runs.apply(case.record, case.flagged),
        )

    def holds(self):
        """`completed` comes before anything of the successor, which is found by both ids."""
        if self.runs.find("b:train:0") is not self.runs.find("a:train:0"):
            return False
        return self.told.names in (["completed"], ["completed", "detected"])


CASES = {case.__name__: case for case in (Deliveries, Pool, Timers, Breakers, Runs)}


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", CASES)
def test_every_interleaving_that_is_tried_keeps_what_is_promised(name):
    command = [sys.executable, "-m", "frontrun.cli", sys.executable, __file__, name]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-2]) >= LEAST


def explore(name):
    """Try the interleavings of a case, in a process that the command of frontrun began."""
    import frontrun
    from frontrun._cooperative import patch_locks

    patch_locks()
    case = CASES[name]
    found = frontrun.explore(
        setup=case,
        workers=list(case().workers()),
        invariant=case.holds,
        max_executions=MOST,
        total_timeout=SECONDS,
        trace_packages=["tinkex"],
    )
    found.assert_holds()
    sys.stdout.write(f"{found.num_explored} interleavings\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    explore(sys.argv[1])
