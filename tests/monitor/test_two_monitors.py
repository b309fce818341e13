"""Two monitors of one process, each with an executor of its own, and one run."""

from __future__ import annotations

import gc

import pytest
from support.world import RUN, ManualExecutor, weights

from tinkex import RecoveryExecutor, signals
from tinkex.errors import MonitorStoppedError
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient

pytestmark = pytest.mark.usefixtures("no_environment")


class Pair:
    """Two or more monitors that poll one run, each with an executor whose jobs the test runs."""

    def __init__(self, world, *, rests=(None, None), services=None, schedulers=None, **policy):
        self.world, self.told = world, []
        self.pools = [ManualExecutor() for _ in rests]
        self.monitors = [
            world.monitor(
                pool,
                options={"rest_module": rest or world.rest, "scheduler": scheduler},
                on_recovery=self._callback(number),
                **policy,
            )
            for number, (pool, rest, scheduler) in enumerate(
                zip(self.pools, rests, schedulers or [world.fake] * len(rests), strict=True)
            )
        ]
        self.runs = [
            each.monitor_run(RUN, service, client="first")
            for each, service in zip(
                self.monitors, services or [world.service] * len(rests), strict=True
            )
        ]

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


@pytest.mark.parametrize("how", ["stop", "stop_monitoring"])
def test_all_that_shared_a_recovery_go_on_when_its_owner_ends_it_in_its_backoff(world, how):
    world.corrupt()
    trio = Pair(world, rests=(None,) * 3)
    world.service.fail(ConnectionResetError())
    world.fake.advance(10)
    trio.run_jobs()
    assert [run.state for run in trio.runs] == ["waiting"] * 3

    end = trio.monitors[0].stop if how == "stop" else trio.runs[0].stop
    end()
    begun = [run.status() for run in trio.runs[1:]]
    trio.run_jobs()

    (client,) = world.service.clients
    assert [(each.state, each.next_attempt) for each in begun] == [("recovering", None)] * 2
    assert [run.state for run in trio.runs] == ["stopped", "healthy", "healthy"]
    assert [run.client for run in trio.runs[1:]] == [client] * 2
    assert trio.names_of(2)[-3:] == ["checkpoint_selected", "client_created", "completed"]


def test_a_failure_that_comes_after_the_owner_stopped_is_told_to_nobody_else(world):
    world.corrupt()
    pair = Pair(world)
    world.service.fail(ConnectionResetError())
    world.fake.advance(10)

    def stop(sender, *, event):
        sender.stop()

    with signals.subscribe(stop, "failed", sender=pair.monitors[0]):
        pair.run_jobs()

    assert pair.runs[1].client in world.service.clients
    assert "failed" not in pair.names_of(1)
    assert pair.names_of(1)[-2:] == ["client_created", "completed"]


def test_who_shared_a_recovery_that_gave_up_goes_on_with_its_own_service_client(world):
    world.corrupt()
    broken, sound = FakeServiceClient(), FakeServiceClient()
    broken.fail(RuntimeError("no capacity"), 9)
    trio = Pair(world, rests=(None,) * 3, services=(broken, sound, sound), max_attempts=1)
    world.fake.advance(10)

    trio.run_jobs()

    (client,) = sound.clients
    assert [run.state for run in trio.runs] == ["exhausted", "healthy", "healthy"]
    assert [run.client for run in trio.runs] == ["first", client, client]
    assert trio.names_of(0)[-1] == "exhausted"
    assert [trio.names_of(number).count("exhausted") for number in (1, 2)] == [0, 0]
    assert trio.names_of(1)[-1] == trio.names_of(2)[-1] == "completed"
    assert [number for number, _, __ in trio.told] == [1, 2]


@pytest.mark.parametrize("how", ["gives up", "stops"])
def test_the_future_of_a_shared_recovery_tells_what_became_of_ones_own_run(world, how):
    world.corrupt()
    trio = Pair(world, rests=(None,) * 3, max_attempts=1)
    futures = [run.recover() for run in trio.runs]
    trio.runs[2].stop()
    if how == "gives up":
        world.service.fail(RuntimeError("no capacity"))
    else:
        trio.monitors[0].stop()

    trio.run_jobs()

    assert futures[0].exception(0)
    assert futures[1].result(0).client is trio.runs[1].client
    assert isinstance(futures[2].exception(0), MonitorStoppedError)


def test_the_future_of_a_shared_recovery_that_no_run_takes_ends(world):
    world.corrupt()
    pair = Pair(world)
    futures = [run.recover() for run in pair.runs]
    pair.pools[0].begin_next()
    world.rest.list_checkpoints = lambda *_: [run.stop() for run in pair.runs] and []

    pair.pools[0].finish_next()

    assert [type(future.exception(0)) for future in futures] == [MonitorStoppedError] * 2


def test_each_that_shared_a_recovery_gives_up_once_where_no_service_client_is_sound(world):
    world.corrupt()
    trio = Pair(world, rests=(None,) * 3, max_attempts=1)
    world.service.fail(RuntimeError("no capacity"), 3)
    world.fake.advance(10)

    trio.run_jobs()

    assert [run.state for run in trio.runs] == ["exhausted"] * 3
    assert [trio.names_of(number).count("exhausted") for number in range(3)] == [1] * 3
    assert world.service.clients == []


class Breaks(FakeScheduler):
    """A scheduler whose clock can stop to work."""

    is_broken = False

    def now(self):
        if self.is_broken:
            raise OSError("no clock")
        return super().now()


def test_a_monitor_whose_parts_fail_takes_the_client_from_no_other(world, caplog):
    world.corrupt()
    breaks = Breaks()
    trio = Pair(world, rests=(None,) * 3, schedulers=(world.fake, breaks, world.fake))
    world.fake.advance(10)
    breaks.advance(10)
    breaks.is_broken = True

    trio.run_jobs()

    (client,) = world.service.clients
    assert [run.client for run in trio.runs] == [client, "first", client]
    assert "no clock" in caplog.text


def test_an_interrupt_in_one_monitors_receiver_takes_the_client_from_no_other(world):
    world.corrupt()
    trio = Pair(world, rests=(None,) * 3)
    world.fake.advance(10)
    receiver = signals.subscribe(_interrupt, "completed", sender=trio.monitors[0])
    with receiver, pytest.raises(KeyboardInterrupt):
        trio.run_jobs()

    (client,) = world.service.clients
    assert [run.client for run in trio.runs] == [client] * 3
    assert [run.state for run in trio.runs] == ["healthy"] * 3


def _interrupt(sender, *, event):
    raise KeyboardInterrupt


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


@pytest.mark.parametrize("whole", [True, False], ids=["the monitor", "its run"])
def test_the_future_of_one_that_shares_a_recovery_ends_when_it_stops(world, whole):
    world.corrupt()
    pair = Pair(world)
    pair.runs[0].recover()
    shared = pair.runs[1].recover()

    if whole:
        pair.monitors[1].stop(0.0)
    else:
        pair.runs[1].stop()

    assert isinstance(shared.exception(0), MonitorStoppedError)
    pair.run_jobs()
    assert pair.runs[0].state == "healthy"
