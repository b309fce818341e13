"""The service client module: how service clients are opened, and what they make."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest

from tinkex import service as services
from tinkex.testing import FakeServiceClient

RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000100"

# Service clients


def test_a_service_client_is_used_as_it_is():
    client = FakeServiceClient()

    assert services.open_service_client(client) is client


def test_a_callable_is_called_anew_for_each_client():
    made = []

    def make():
        made.append(FakeServiceClient())
        return made[-1]

    opened = [services.open_service_client(make) for _ in range(2)]

    assert opened == made
    assert opened[0] is not opened[1]


def test_a_class_is_a_callable_that_makes_one():
    services.check_service_client(FakeServiceClient)

    assert isinstance(services.open_service_client(FakeServiceClient), FakeServiceClient)


def test_a_callable_that_returns_something_else_is_an_error_that_says_so():
    with pytest.raises(TypeError, match=r"'dict'.*create_training_client_from_state"):
        services.open_service_client(dict)


@pytest.mark.parametrize(
    "given", [None, "a client", 3, object()], ids=lambda given: type(given).__name__
)
def test_what_can_make_no_clients_is_refused(given):
    with pytest.raises(TypeError, match="create_training_client_from_state"):
        services.check_service_client(given)


@pytest.mark.parametrize("given", [FakeServiceClient(), FakeServiceClient, lambda: None])
def test_checking_neither_calls_nor_makes_anything(given):
    assert services.check_service_client(given) is None


# Creation

BOTH_WAYS = pytest.mark.parametrize(
    "name",
    ["create_training_client_from_state", "create_training_client_from_state_with_optimizer"],
)


class Future:
    """As the official SDK's since 0.38: stands for a client and can be waited for."""

    def __init__(self, client):
        self.client = client
        self.waits = 0

    def result(self):
        self.waits += 1
        return self.client


@BOTH_WAYS
def test_a_future_of_a_client_is_waited_for(name):
    future = Future("the client")

    class Service:
        def create_training_client_from_state(self, path):
            return future

        create_training_client_from_state_with_optimizer = create_training_client_from_state

    assert getattr(services, name)(Service(), PATH) == "the client"
    assert future.waits == 1


@BOTH_WAYS
def test_options_reach_a_method_that_takes_them(name):
    service = FakeServiceClient()

    getattr(services, name)(service, PATH, user_metadata={"team": "a"}, unknown=1)

    assert service.created == [(PATH, name.endswith("optimizer"))]
    assert service.metadata == [{"team": "a"}]


@BOTH_WAYS
def test_options_that_a_method_does_not_take_are_left_out(name):
    calls = []

    class Service:
        def create_training_client_from_state(self, path):
            calls.append(path)

        create_training_client_from_state_with_optimizer = create_training_client_from_state

    getattr(services, name)(Service(), PATH, user_metadata={"team": "a"})

    assert calls == [PATH]


def test_a_method_that_takes_any_keyword_gets_all_options():
    calls = []

    class Service:
        def create_training_client_from_state(self, path, **options):
            calls.append(options)

    services.create_training_client_from_state(Service(), PATH, user_metadata={}, more=2)

    assert calls == [{"user_metadata": {}, "more": 2}]


def test_a_method_without_a_readable_signature_gets_the_path_only():
    class Service:
        create_training_client_from_state = str

    with pytest.raises(ValueError, match="signature"):
        inspect.signature(str)
    made = services.create_training_client_from_state(Service(), PATH, user_metadata={})

    assert made == PATH


def test_what_the_service_client_raises_comes_through():
    service = FakeServiceClient()
    service.fail(ConnectionResetError("gone"))

    with pytest.raises(ConnectionResetError):
        services.create_training_client_from_state(service, PATH)


def test_a_rest_client_is_the_service_clients_own_and_waited_for():
    class Service:
        def create_rest_client(self):
            return Future("the REST client")

    assert services.create_rest_client(Service()) == "the REST client"


def test_the_id_of_a_client_is_its_model_id():
    client = FakeServiceClient().create_training_client_from_state(PATH)

    assert services.model_id_of(client) == client.model_id


@pytest.mark.parametrize(
    "client", [object(), SimpleNamespace(model_id=None), SimpleNamespace(model_id="")]
)
def test_a_client_without_an_id_is_an_error_that_says_so(client):
    with pytest.raises(TypeError, match="model_id"):
        services.model_id_of(client)


# Closing


def closing(close):
    return type("Service", (), {"close": close})()


def test_a_status_is_told_where_close_takes_one():
    told = []

    services.close_service_client(
        closing(lambda self, status, detail=None: told.append(status)), "x"
    )
    services.close_service_client(closing(lambda self: told.append(None)), "y")
    services.close_service_client(object(), "z")

    assert told == ["x", None]


def test_the_end_of_the_session_is_waited_for_but_not_for_ever():
    waits = []
    ending = SimpleNamespace(result=lambda *, timeout: waits.append(timeout))

    services.close_service_client(closing(lambda self, status: ending), "success")

    [seconds] = waits
    assert 0 < seconds <= 10


def test_what_close_raises_comes_through():
    def close(self):
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        services.close_service_client(closing(close), "errored")
