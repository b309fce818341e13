"""Schedulers and executors that call twice what they should call once: nothing is made twice."""

from __future__ import annotations

from concurrent.futures import Executor, Future

import pytest
from support.recorder import PATIENCE
from support.world import RUN, ManualExecutor

from tinkex import RecoveryExecutor
from tinkex.testing import FakeScheduler, FakeServiceClient


class TwiceScheduler(FakeScheduler):
    """Each of its timers fires twice."""

    def __call__(self, interval, function):
        def twice():
            function()
            function()

        return super().__call__(interval, twice)


class TwiceFuture(Future):
    """Tells each of its callbacks twice that it is done."""

    def add_done_callback(self, fn):
        super().add_done_callback(fn)
        super().add_done_callback(fn)


class TwiceExecutor(Executor):
    """An executor that does the work at once, and tells of it twice."""

    def submit(self, function, /, *args, **kwargs):
        future = TwiceFuture()
        future.set_running_or_notify_cancel()
        future.set_result(function(*args, **kwargs))
        return future


class ClosedService(FakeServiceClient):
    """A service client that notes when it is closed."""

    closed = ()

    def close(self):
        type(self).closed += (self,)


def test_a_timer_that_fires_twice_begins_one_attempt(world):
    world.fake = TwiceScheduler()
    pool, first = ManualExecutor(), FakeServiceClient()
    first.fail(ConnectionResetError())
    world.corrupt()
    shared = RecoveryExecutor(pool, max_concurrent=2, scheduler=world.fake, rest_module=world.rest)
    run = world.monitor(shared, backoff=1.0).monitor_run(RUN, first)
    world.fake.advance(10)
    pool.run_next()

    world.fake.advance(5)

    assert len(pool.waiting) == 1
    pool.run_next()
    assert (run.state, len(first.created)) == ("healthy", 1)
    assert world.events.names.count("started") == 2


def test_timers_that_fire_twice_do_not_become_more_and_more(world, tmp_path):
    world.fake = TwiceScheduler()
    world.rest.set_run(RUN)
    monitor = world.monitor(options={"journal": tmp_path / "journal.db"})
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(20)
    before = len(world.fake.pending)

    world.fake.advance(60)

    assert len(world.fake.pending) == before
    monitor.stop()


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_future_that_tells_of_its_end_twice_closes_no_session_in_use(bench, world, is_inline):
    class Service(ClosedService):
        pass

    bench.server.corrupt(RUN)
    options = {"scheduler": world.fake} if is_inline else {}
    monitor = bench.monitor(executor=TwiceExecutor(), **options)

    run = monitor.monitor_run(RUN, Service)
    if is_inline:
        world.fake.advance(1)
    bench.told.wait_for("completed", RUN)
    monitor.stop(PATIENCE)

    assert Service.closed == ()
    assert [each.orphans for each in run.lineage] == [(), ()]
