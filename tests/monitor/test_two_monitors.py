"""Two monitors of one process, each with an executor of its own, and one run."""

from __future__ import annotations

import gc

import pytest
from support.world import RUN, ManualExecutor, weights

from tinkex import RecoveryExecutor
from tinkex.testing import FakeRest, FakeServiceClient

pytestmark = pytest.mark.usefixtures("no_environment")


class Pair:
    """Two monitors that poll the same run, each with an executor whose jobs the test runs."""

    def __init__(self, world, *, rests=(None, None), **policy):
        self.world, self.told = world, []
        self.pools = [ManualExecutor(), ManualExecutor()]
        self.monitors = [
            world.monitor(
                pool,
                options={"rest_module": rest or world.rest},
                on_recovery=self._callback(number),
                **policy,
            )
            for number, (pool, rest) in enumerate(zip(self.pools, rests, strict=True))
        ]
        self.runs = [each.monitor_run(RUN, world.service, client="first") for each in self.monitors]

    def _callback(self, number):
        return lambda old, new, _: self.told.append((number, old, new))

    def run_jobs(self):
        for pool in self.pools:
            while pool.waiting:
                pool.run_next()

    def names_of(self, number):
        """The events that one of the monitors sent."""
        sent = zip(self.world.events.senders, self.world.events.events, strict=True)
        ours = [event.name for sender, event in sent if sender is self.monitors[number]]
        return [name for name in ours if name != "swept"]


def test_one_recovery_serves_both_monitors_and_is_paid_for_once(world):
    world.corrupt()
    pair = Pair(world)
    world.fake.advance(10)

    pair.run_jobs()

    (client,) = world.service.clients
    assert [run.client for run in pair.runs] == [client, client]
    assert [run.run_id for run in pair.runs] == [client.model_id] * 2
    assert pair.told == [(0, "first", client), (1, "first", client)]
    for number in (0, 1):
        assert pair.names_of(number)[0] == "detected"
        assert pair.names_of(number)[-1] == "completed"


def test_a_monitor_that_detects_it_later_takes_the_successor_that_the_other_has(world):
    pair = Pair(world)
    world.corrupt()
    first = pair.runs[0].recover()
    pair.run_jobs()
    assert pair.runs[1].run_id == RUN

    world.fake.advance(10)
    pair.run_jobs()

    (client,) = world.service.clients
    assert first.result(0).client is client
    assert [run.client for run in pair.runs] == [client, client]
    assert pair.names_of(1) == ["detected", "completed"]
    assert pair.told == [(0, "first", client), (1, "first", client)]
    assert pair.runs[1].lineage[1].checkpoint == pair.runs[0].lineage[1].checkpoint


def test_the_future_of_a_recovery_that_was_made_elsewhere_has_its_client(world):
    pair = Pair(world)
    world.corrupt()
    pair.runs[0].recover()
    pair.run_jobs()

    completed = pair.runs[1].recover().result(0)

    assert completed.client is pair.runs[0].client
    assert completed.successor_id == pair.runs[0].run_id
    assert len(world.service.clients) == 1


def test_a_successor_that_nobody_has_any_more_is_made_anew(world):
    world.corrupt()
    made = world.service

    class Forgets(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            client = made.create_training_client_from_state_with_optimizer(path, user_metadata)
            made.clients.clear()
            return client

    world.service = Forgets()
    first = world.monitor()
    first.monitor_run(RUN, world.service)
    world.fake.advance(10)
    first.stop()
    del first
    world.fake.advance(700)  # the timers that it cancelled are gone
    world.events.events.clear()
    world.events.senders.clear()
    gc.collect()

    run = world.monitor().monitor_run(RUN, world.service)
    world.fake.advance(10)

    assert run.state == "healthy"
    assert len(made.created) == 2


def test_who_shared_a_recovery_goes_on_alone_when_the_other_monitor_stops(world):
    world.corrupt()
    pair = Pair(world)
    world.fake.advance(10)

    pair.monitors[0].stop()
    pair.run_jobs()

    assert [run.state for run in pair.runs] == ["stopped", "healthy"]
    assert pair.runs[1].client in world.service.clients


def test_runs_of_one_id_at_two_servers_are_recovered_each(world):
    other = FakeRest()
    paths = [weights("000100")]
    other.set_run(RUN, corrupted=True, last_checkpoint=paths[0], checkpoints=paths)
    world.corrupt()
    pair = Pair(world, rests=(None, other))
    world.fake.advance(10)

    pair.run_jobs()

    assert len(world.service.clients) == 2
    assert pair.runs[0].client is not pair.runs[1].client


def test_a_successor_that_is_corrupted_too_is_recovered_once_for_both(world):
    world.corrupt()
    pair = Pair(world)
    world.fake.advance(10)
    pair.run_jobs()
    world.corrupt(pair.runs[0].run_id)

    world.fake.advance(10)
    pair.run_jobs()

    assert len(world.service.clients) == 2
    assert [run.client for run in pair.runs] == [world.service.clients[1]] * 2


def test_monitors_on_threads_pay_for_each_of_many_runs_once(bench):
    service = FakeServiceClient()
    run_ids = [f"many:train:{number}" for number in range(60)]
    executors = [RecoveryExecutor(max_concurrent=3) for _ in range(3)]
    monitors = [bench.monitor(executor=executor) for executor in executors]
    for monitor in monitors:
        for run_id in run_ids:
            monitor.monitor_run(run_id, service)

    bench.server.corrupt(*run_ids)
    for run_id in run_ids:
        bench.told.wait_for("completed", run_id, count=len(monitors))

    assert len(service.created) == len(run_ids)
    for run_id in run_ids:
        successors = {event.successor_id for event in bench.told.of("completed", run_id)}
        assert len(successors) == 1
    for monitor, executor in zip(monitors, executors, strict=True):
        monitor.stop()
        executor.shutdown()
