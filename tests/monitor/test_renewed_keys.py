"""Keys that are renewed leave nothing behind."""

from __future__ import annotations

import gc

from support.world import RUN

from tinkex import Config


def alive(kind):
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


def test_five_hundred_renewed_keys_leave_few_configs_behind(world):
    world.rest.set_run(RUN)
    before = alive(Config)
    rest_client = {"rest_client_fun": lambda service: service}
    monitor = world.monitor(options=rest_client, poll_interval=100.0)

    for number in range(500):
        config = Config(f"tml-renewed-{number}", "https://tinker.invalid")
        run = monitor.monitor_run(RUN, _Service(config))
        world.fake.advance(600.0)

    assert run.state == "healthy"
    assert alive(Config) - before < 200


class _Service:
    def __init__(self, config):
        self.config = config

    def create_training_client_from_state(self, path, **options):
        raise NotImplementedError

    create_training_client_from_state_with_optimizer = create_training_client_from_state
