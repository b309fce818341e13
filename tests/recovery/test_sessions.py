"""Sessions that are over, lists that fail for a while, successors that die before they saved."""

from __future__ import annotations

import pytest
from support.world import RUN, ManualExecutor, weights

from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient

#: What servers and the SDK say of a session that can be used no more.
OVER = [
    "Error code: 404 - {'detail': 'Session 3f0c not found'}",
    "Error code: 400 - {'detail': 'Session 3f0c has finished'}",
    "410 - This ServiceClient is poisoned.",
    "ServiceClient is closed",
]


class OverError(Exception):
    def __init__(self, text):
        super().__init__(text)
        if text[:3].isdigit() or "code: " in text:
            self.status_code = int(text.removeprefix("Error code: ")[:3])


class Official(FakeServiceClient):
    """As the official SDK's service client, told by its package."""

    __module__ = "tinker.lib.public_interfaces.service_client"
    made = 0

    def __init__(self, user_metadata=None, project_id=None, *, base_url=None, api_key=None):
        super().__init__()
        type(self).made += 1
        self._user_metadata, self._project_id = user_metadata, project_id
        self._base_url, self._api_key = base_url, api_key


@pytest.fixture(autouse=True)
def _none_made():
    Official.made = 0


def corrupt(world, *names):
    world.corrupt(RUN, *names)
    world.fake.advance(10.0)


@pytest.mark.parametrize("text", OVER)
def test_a_callable_is_called_again_and_no_checkpoint_is_blamed(world, text):
    dead, alive = FakeServiceClient(), FakeServiceClient()
    dead.fail(OverError(text))
    given = iter([dead, alive])
    run = world.monitor().monitor_run(RUN, lambda: next(given))

    corrupt(world, "000005", "000010")

    assert run.state == "healthy"
    assert alive.created == [(weights("000010"), True)]
    assert world.events.of("failed") == []


@pytest.mark.parametrize("text", OVER)
def test_an_instance_of_the_sdk_is_made_again_by_its_class_and_arguments(world, text, monkeypatch):
    service = Official({"team": "a"}, base_url="https://a.invalid", api_key="tml-a")
    monkeypatch.setattr(service, "create_training_client_from_state_with_optimizer", _over(text))
    run = world.monitor().monitor_run(RUN, service)

    corrupt(world)

    assert run.state == "healthy"
    assert Official.made == 2
    assert world.events.of("failed") == []


def _over(text):
    def create(path, user_metadata=None):
        raise OverError(text)

    return create


def test_of_anything_else_the_error_says_to_give_a_callable(world):
    world.service.fail(OverError(OVER[0]), 9)
    run = world.monitor(max_attempts=1).monitor_run(RUN, world.service)

    corrupt(world, "000005", "000010")

    assert run.state == "exhausted"
    assert "give a callable" in str(world.events.one("exhausted").error)
    selected = {event.checkpoint.checkpoint_id for event in world.events.of("checkpoint_selected")}
    assert selected == {"000010"}


def test_after_an_attempt_that_hung_the_next_has_a_new_service_client(world):
    service = Official()
    executor = ManualExecutor()
    world.monitor(executor, attempt_timeout=60.0, backoff=1.0).monitor_run(RUN, service)

    corrupt(world)
    executor.begin_next()
    executor.running.clear()  # it hangs for good
    world.fake.advance(62.0)
    executor.run_next()

    assert Official.made == 2
    assert service.created == []
    assert world.events.one("completed")


def test_older_checkpoints_are_waited_for_while_the_list_fails(world):
    class Broken(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            if path == weights("000010"):
                raise ApiStatusError.of(422, "deserializing header")
            return super().create_training_client_from_state_with_optimizer(path, user_metadata)

    listed, failures = world.rest.list_checkpoints, iter([503, 500])

    def list_checkpoints(config, run_id):
        status = next(failures, None)
        if status is not None:
            raise ApiStatusError.of(status)
        return listed(config, run_id)

    world.rest.list_checkpoints = list_checkpoints
    service = Broken()
    run = world.monitor().monitor_run(RUN, service)

    corrupt(world, "000005", "000010")
    world.fake.advance(60.0)

    assert run.state == "healthy"
    assert service.created == [(weights("000005"), True)]


def test_a_successor_that_saved_nothing_goes_back_to_what_it_was_made_from(world):
    successor = "77aa:train:0"
    path = weights("000100")
    saved = {"tinker_path": path, "user_metadata": {"tinkex_step": "100"}}
    world.rest.set_run(RUN, checkpoints=[saved])
    world.rest.set_run(successor, corrupted=True, user_metadata={"tinkex_checkpoint": path})
    run = world.monitor().monitor_run(successor, world.service)

    world.fake.advance(10.0)

    assert run.state == "healthy"
    assert world.service.created == [(path, True)]
    assert run.lineage[-1].step == 100


@pytest.mark.parametrize(
    "text",
    [
        "Error code: 404 - {'detail': 'Checkpoint 000010 of session 3f0c not found'}",
        "Error code: 404 - {'detail': 'Session 3f0c: checkpoint 000010 not found'}",
        "Error code: 404 - {'detail': 'Sampling session 3f0c not found'}",
        "Error code: 404 - {'detail': 'the session log is closed'}",
    ],
)
def test_a_checkpoint_that_is_gone_is_no_session_that_is_over(world, text):
    class Broken(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            if path == weights("000010"):
                raise OverError(text)
            return super().create_training_client_from_state_with_optimizer(path, user_metadata)

    service = Broken()
    run = world.monitor(max_attempts=1).monitor_run(RUN, service)

    corrupt(world, "000005", "000010")

    assert run.state == "healthy"
    assert service.created == [(weights("000005"), True)]


def test_an_account_that_is_refused_is_no_session_that_is_over(world):
    service = Official()
    service.fail(OverError("Error code: 401 - {'detail': 'Session has expired'}"))
    world.monitor().monitor_run(RUN, service)

    corrupt(world)

    assert Official.made == 1
    assert world.events.one("paused")
