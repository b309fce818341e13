"""The lives of runs, as tests of the monitor begin or watch them."""

from __future__ import annotations

from tinkex.testing import FakeRest, FakeServiceClient

from .world import RUN

GET = "get_training_run"


def polls_of(world, run_id):
    return world.rest.calls.count((GET, run_id))


class WatchedRest(FakeRest):
    """A fake that notes when each poll came, and may do something during one."""

    def __init__(self, fake):
        super().__init__()
        self.fake = fake
        self.times = []
        self.during = lambda run_id: None

    def get_training_run(self, config, run_id):
        self.times.append(self.fake.now())
        self.during(run_id)
        return super().get_training_run(config, run_id)


class Meanwhile(FakeServiceClient):
    """A fake that does something while a client is being made."""

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self.during()
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


def two_generations(world, **policy):
    world.corrupt()
    monitor = world.monitor(**policy)
    run = monitor.monitor_run(RUN, world.service, {"team": "a"}, client="first")
    world.fake.advance(10)
    return monitor, run


def exhausted_run(world, **policy):
    world.corrupt()
    world.service.fail(ValueError("no"), times=3)
    monitor = world.monitor(**policy)
    run = monitor.monitor_run(RUN, world.service, client="first")
    world.fake.advance(60)
    assert run.state == "exhausted"
    return monitor, run
