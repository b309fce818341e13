"""A successor whose id is known already: no run is lost, and no run has two handles."""

from __future__ import annotations

from support.world import OTHER, RUN, weights

from tinkex import signals
from tinkex.errors import RecoveryError
from tinkex.testing import FakeServiceClient, FakeTrainingClient


class Sharing(FakeServiceClient):
    """A service client that hands out a client that it made before."""

    def __init__(self, client):
        super().__init__()
        self.client = client

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        super().create_training_client_from_state_with_optimizer(path, user_metadata)
        return self.client


def ids(monitor):
    return [status.run_id for status in monitor.status()]


def test_a_client_of_another_monitored_run_is_not_taken_for_a_successor(world):
    client = FakeTrainingClient(OTHER)
    monitor = world.monitor()
    other = monitor.monitor_run(OTHER, world.service, client=client)
    run = monitor.monitor_run(RUN, Sharing(client))
    world.rest.set_run(OTHER)
    world.corrupt(RUN, "a")

    world.fake.advance(10.0)
    error = world.events.one("exhausted", RUN).error

    assert isinstance(error, RecoveryError)
    assert OTHER in str(error)
    assert RUN in str(error)
    assert world.events.names_of(RUN) == [
        "detected", "started", "checkpoint_selected", "failed", "exhausted",
    ]  # fmt: skip
    assert ids(monitor) == [OTHER, RUN]
    assert (run.state, run.client) == ("exhausted", None)
    assert (other.state, other.client) == ("healthy", client)
    assert run.status().generation == other.status().generation == 0
    assert monitor.monitor_run(OTHER, world.service) is other
    assert run.lineage[0].orphans == ()


def test_the_future_of_such_a_recovery_says_why(world):
    client = FakeTrainingClient(OTHER)
    monitor = world.monitor()
    monitor.monitor_run(OTHER, world.service, client=client)
    run = monitor.monitor_run(RUN, Sharing(client))
    world.rest.set_run(RUN, last_checkpoint=weights("a"))

    error = run.recover().exception(0)

    assert type(error) is RecoveryError
    assert OTHER in str(error)


def test_an_earlier_run_of_another_lineage_is_none_either(world):
    monitor = world.monitor()
    other = monitor.monitor_run(OTHER, world.service)
    world.corrupt(OTHER, "a")
    world.fake.advance(10.0)
    run = monitor.monitor_run(RUN, Sharing(FakeTrainingClient(OTHER)))
    world.corrupt(RUN, "a")
    world.fake.advance(10.0)

    assert run.state == "exhausted"
    assert monitor.status(OTHER).run_id == other.run_id != OTHER


def test_a_successor_that_a_receiver_registers_before_it_is_adopted_is_the_same_run(world):
    monitor, found = world.monitor(), []
    run = monitor.monitor_run(RUN, world.service)

    def register(sender, event):
        found.append(monitor.monitor_run(event.successor_id, world.service, client=event.client))

    with signals.subscribe(register, "client_created"):
        world.corrupt(RUN, "a")
        world.fake.advance(10.0)

    assert found == [run]
    assert ids(monitor) == [run.run_id] == [world.service.clients[0].model_id]
    assert [each.run_id for each in run.lineage] == [RUN, run.run_id]
    assert run.client is world.service.clients[0]


def test_the_id_of_a_client_that_was_not_adopted_is_free_again(world):
    monitor, found = world.monitor(), []
    run = monitor.monitor_run(RUN, world.service)

    def stop(sender, event):
        monitor.stop_monitoring(run)
        found.append(monitor.monitor_run(event.successor_id, world.service, client=event.client))

    with signals.subscribe(stop, "client_created"):
        world.corrupt(RUN, "a")
        world.fake.advance(10.0)
    (apart,) = found

    assert apart is not run
    assert (run.state, apart.state) == ("stopped", "healthy")
    assert ids(monitor) == [apart.run_id] == [world.service.clients[0].model_id]
    monitor.stop_monitoring(apart)
    assert ids(monitor) == []


def test_what_another_monitor_made_is_not_taken_over_where_it_has_a_handle_of_its_own(world):
    first, second = world.monitor(), world.monitor(start=False)
    run = first.monitor_run(RUN, world.service)
    world.corrupt(RUN, "a")
    world.fake.advance(10.0)
    late = second.monitor_run(RUN, world.service)
    own = second.monitor_run(run.run_id, world.service, client=run.client)
    second.start()
    second.poll_now()

    assert late.state == "exhausted"
    assert run.run_id in str(late.status().last_error)
    assert ids(second) == [RUN, run.run_id]
    assert (own.state, own.client) == ("healthy", run.client)
    assert len(world.service.created) == 1


def test_a_monitor_that_joined_goes_without_where_it_has_a_handle_of_its_own(world):
    first, second = world.monitor(), world.monitor(start=False)
    client = FakeTrainingClient("77bb:train:0")
    run = first.monitor_run(RUN, Sharing(client))
    late = second.monitor_run(RUN, world.service)
    own = second.monitor_run(client.model_id, world.service, client=client)
    joined = []

    def join(sender, event):
        if sender is first:
            joined.append(late.recover())

    with signals.subscribe(join, "started"):
        world.corrupt(RUN, "a")
        world.fake.advance(10.0)

    assert run.client is client
    assert (late.state, own.state, own.client) == ("exhausted", "healthy", client)
    assert type(joined[0].exception(0)) is RecoveryError
    assert ids(second) == [RUN, client.model_id]
