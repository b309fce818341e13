"""What `monitor_run` takes, what it refuses, and what it keeps of a run."""

from __future__ import annotations

import threading

import pytest
from support.lives import polls_of
from support.recorder import PATIENCE
from support.world import OTHER, RUN, weights

from tinkex import Config, Monitor, Policy
from tinkex.errors import (
    ConfigError,
    RecoveryDisabledError,
)
from tinkex.testing import FakeScheduler, FakeServiceClient, InlineExecutor

pytestmark = pytest.mark.usefixtures("no_environment")


@pytest.mark.parametrize("run_id", [None, 3, b"3f0c:train:0"], ids=repr)
def test_a_run_id_that_is_no_text_is_refused(world, run_id):
    with pytest.raises(TypeError, match="run id"):
        world.monitor().monitor_run(run_id, world.service)


@pytest.mark.parametrize("run_id", ["", "a/b", "..", ".", "a\\b", "a\nb", "a\x00b"], ids=repr)
def test_a_run_id_that_could_reach_another_path_is_refused(world, run_id):
    with pytest.raises(ValueError, match="run id"):
        world.monitor().monitor_run(run_id, world.service)


@pytest.mark.parametrize(
    "service", [None, "a service", 3, object()], ids=lambda service: type(service).__name__
)
def test_a_service_client_that_can_make_nothing_is_refused(world, service):
    monitor = world.monitor()

    with pytest.raises(TypeError, match="service client"):
        monitor.monitor_run(RUN, service)
    assert monitor.status() == ()


@pytest.mark.parametrize("metadata", ["team", 3, ["team"]])
def test_metadata_that_is_no_mapping_is_refused(world, metadata):
    with pytest.raises(TypeError, match="metadata"):
        world.monitor().monitor_run(RUN, world.service, metadata)


def test_a_disabled_policy_is_refused_with_what_to_do(world):
    monitor = world.monitor(enabled=False)

    with pytest.raises(RecoveryDisabledError, match="enabled=True"):
        monitor.monitor_run(RUN, world.service)


def test_monitor_run_raises_whatever_the_rest_client_fun_raised(world):
    def broken(service):
        raise LookupError("no config for this service")

    monitor = world.monitor(options={"rest_client_fun": broken})

    with pytest.raises(LookupError, match="no config"):
        monitor.monitor_run(RUN, world.service)
    assert monitor.status() == ()


def test_the_config_of_the_rest_client_fun_is_what_is_polled_with(world):
    config = Config("tml-of-the-fun", "https://fun.example")
    asked, used = [], []

    class Rest:
        @staticmethod
        def get_training_run(given, run_id):
            used.append(given)
            return {"training_run_id": run_id}

    def rest_client_fun(service):
        asked.append(service)
        return type("Client", (), {"config": config})

    monitor = world.monitor(options={"rest_module": Rest, "rest_client_fun": rest_client_fun})
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)

    assert asked == [world.service]
    assert used == [config]


def test_each_run_is_polled_with_the_key_of_its_own_service_client(world):
    used = {}

    class Rest:
        @staticmethod
        def get_training_run(config, run_id):
            used[run_id] = (config.api_key, config.base_url)
            return {"training_run_id": run_id}

    monitor = world.monitor(
        options={"rest_module": Rest, "config": Config("tml-fallback", "https://other.example")}
    )
    monitor.monitor_run(RUN, world.service)
    monitor.monitor_run(OTHER, lambda: world.service)
    world.fake.advance(10)

    assert used == {
        RUN: ("tml-fake", "https://tinker.invalid"),
        OTHER: ("tml-fallback", "https://other.example"),
    }


def test_without_any_key_the_own_rest_module_is_a_config_error_at_the_door():
    monitor = Monitor(Policy(enabled=True), scheduler=FakeScheduler(), executor=InlineExecutor())

    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        monitor.monitor_run(RUN, FakeServiceClient)


def test_the_callers_own_rest_module_may_need_no_key(world):
    world.rest.set_run(RUN)
    monitor = world.monitor()

    run = monitor.monitor_run(RUN, lambda: world.service)
    world.fake.advance(10)

    assert run.state == "healthy"
    assert polls_of(world, RUN) == 1


def test_registration_and_status_do_no_io(world):
    monitor = world.monitor()

    monitor.monitor_run(RUN, world.service)
    monitor.status()
    monitor.stop_monitoring(RUN)

    assert world.rest.calls == []
    assert world.service.created == []


def test_a_second_registration_is_the_same_handle_with_new_metadata_and_service(world):
    world.corrupt()
    monitor, other_service = world.monitor(), FakeServiceClient()
    run = monitor.monitor_run(RUN, world.service, {"team": "a"})

    again = monitor.monitor_run(RUN, other_service, {"team": "b"})
    world.fake.advance(10)

    assert again is run
    assert len(monitor.status()) == 1
    assert {event.metadata["team"] for event in world.events.events if event.run_id} == {"b"}
    assert world.service.created == []
    assert len(other_service.created) == 1


def test_metadata_is_a_copy_that_cannot_be_changed(world):
    given = {"team": "a"}
    run = world.monitor().monitor_run(RUN, world.service, given)

    given["team"] = "b"

    assert run.status().metadata == {"team": "a"}
    with pytest.raises(TypeError):
        run.status().metadata["team"] = "c"


def test_training_client_in_the_metadata_is_read_as_the_client(world):
    client = world.service.create_training_client_from_state(weights("1"))

    run = world.monitor().monitor_run(
        client.model_id, world.service, {"training_client": client, "team": "a"}
    )

    assert run.client is client
    assert run.status().metadata == {"team": "a"}


def test_the_argument_goes_before_the_training_client_in_the_metadata(world):
    run = world.monitor().monitor_run(
        RUN, world.service, {"training_client": "in the metadata"}, client="the argument"
    )

    assert run.client == "the argument"


def test_metadata_that_asks_the_monitor_as_it_ends_holds_nothing_up(world):
    class Asking:
        def __del__(self):
            told.append(monitor.status(RUN).run_id)

    told, monitor = [], world.monitor(start=False)
    monitor.monitor_run(RUN, FakeServiceClient(), {"tracker": Asking()})

    again = threading.Thread(
        target=monitor.monitor_run, args=(RUN, FakeServiceClient(), {"tracker": None}), daemon=True
    )
    again.start()
    again.join(PATIENCE)

    assert not again.is_alive()
    assert told == [RUN]
