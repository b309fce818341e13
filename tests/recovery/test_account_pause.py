"""An account that is refused for an hour: fifty corrupted runs wait, and all come back."""

from __future__ import annotations

import pytest
from support.world import StatusError

from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient

pytestmark = pytest.mark.usefixtures("no_environment")

RUNS = [f"{number}:train:0" for number in range(50)]
HOUR = 3600.0


class RefusedService(FakeServiceClient):
    """A service client that is answered with 402 until `until` seconds of fake time."""

    def __init__(self, fake, until):
        super().__init__()
        self.fake = fake
        self.until = until

    def _create(self, *args, **kwargs):
        if self.fake.now() < self.until:
            raise StatusError(402)
        return super()._create(*args, **kwargs)


class RefusedRest:
    """Another rest module, answered with 402 until `until` seconds of fake time."""

    def __init__(self, rest, fake, until):
        self.rest = rest
        self.fake = fake
        self.until = until

    def get_training_run(self, config, run_id):
        if self.fake.now() < self.until:
            raise ApiStatusError.of(402)
        return self.rest.get_training_run(config, run_id)

    def list_checkpoints(self, config, run_id):
        return self.rest.list_checkpoints(config, run_id)


@pytest.mark.parametrize("polls_too", [False, True], ids=["creations", "everything"])
def test_fifty_runs_wait_an_hour_and_use_up_no_attempt(world, polls_too):
    service = RefusedService(world.fake, HOUR)
    options = {"rest_module": RefusedRest(world.rest, world.fake, HOUR)} if polls_too else {}
    monitor = world.monitor(max_attempts=1, options=options)
    for run_id in RUNS:
        world.corrupt(run_id)
        monitor.monitor_run(run_id, service)

    world.fake.advance(HOUR - 1)
    while_refused = list(world.events.names)
    world.fake.advance(120)

    assert while_refused.count("paused") == 1
    assert "resumed" not in while_refused
    assert world.events.names.count("paused") == world.events.names.count("resumed") == 1
    assert world.events.of("exhausted") == []
    assert {event.attempt for event in world.events.of("started")} == {1}
    assert {event.run_id for event in world.events.of("completed")} == set(RUNS)
    assert len(service.created) == len(RUNS)
