"""The service client module: credentials, creation, and errors that hold secrets."""

from __future__ import annotations

import inspect
import pickle
from datetime import UTC, datetime

import pytest

from tinkex import service as services
from tinkex.config import DEFAULT_BASE_URL, Config
from tinkex.errors import (
    ApiConnectionError,
    ApiStatusError,
    ApiTimeoutError,
    CheckpointMissingError,
    ConfigError,
    ServiceError,
    TinkexError,
    causes,
)
from tinkex.testing import FakeServiceClient
from tinkex.types import Checkpoint, TrainingRun

RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000100"
KEY = "tml-of-the-client-0123456789"
ENV_KEY = "tml-of-the-environment-0123456789"
CONFIG_KEY = "tml-of-the-config-0123456789"
URL = "https://tinker.example"
OTHER_URL = "https://elsewhere.example"

pytestmark = pytest.mark.usefixtures("no_environment")


class Holder:
    """As the official SDK's session holder."""

    def __init__(self, key=None, url=None, **constructor):
        self._api_key = key
        self._base_url = url
        self._constructor_kwargs = constructor


class Client:
    """As the official SDK's service client: what it knows lies in it, its property costs."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    @property
    def holder(self):
        raise AssertionError("the property that opens a session was asked")

    api_client = holder


# Credentials


@pytest.mark.parametrize(
    "client",
    [
        Client(_api_key=KEY, _base_url=URL),
        Client(api_key=KEY, base_url=URL),
        Client(_holder_kwargs={"api_key": KEY, "base_url": URL}),
        Client(_session_holder=Holder(KEY, URL)),
        Client(_rest_holder=Holder(KEY, URL)),
        Client(_session_holder=Holder(KEY, None, base_url=URL)),
        Client(_session_holder=Holder(KEY, URL), _api_key="tml-of-before", _base_url=OTHER_URL),
    ],
    ids=["private", "public", "kwargs", "session", "rest", "constructor", "holder goes first"],
)
def test_key_and_url_are_read_where_they_lie_and_no_property_is_asked(client):
    config = services.credentials_of(client).config

    assert (config.api_key, config.base_url) == (KEY, URL)


def test_the_clients_own_pair_goes_before_the_fallback_and_the_environment(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", ENV_KEY)
    monkeypatch.setenv("TINKER_BASE_URL", OTHER_URL)

    config = services.credentials_of(
        Client(_api_key=KEY, _base_url=URL), Config(CONFIG_KEY, OTHER_URL)
    ).config

    assert (config.api_key, config.base_url) == (KEY, URL)


@pytest.mark.parametrize(
    ("env_url", "expected"), [(None, DEFAULT_BASE_URL), (OTHER_URL, OTHER_URL)]
)
def test_a_key_alone_goes_where_the_sdk_would_send_it(monkeypatch, env_url, expected):
    if env_url:
        monkeypatch.setenv("TINKER_BASE_URL", env_url)

    config = services.credentials_of(Client(_api_key=KEY)).config

    assert (config.api_key, config.base_url) == (KEY, expected)


def test_a_client_that_says_nothing_gets_the_fallback():
    fallback = Config(CONFIG_KEY, OTHER_URL, headers={"X-Team": "a"})

    assert services.credentials_of(Client(), fallback).config is fallback


def test_a_client_that_says_nothing_gets_the_environment(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", ENV_KEY)
    monkeypatch.setenv("TINKER_BASE_URL", OTHER_URL)

    config = services.credentials_of(Client()).config

    assert (config.api_key, config.base_url) == (ENV_KEY, OTHER_URL)


@pytest.mark.parametrize(
    "client", [Client(), object(), lambda: None, 3], ids=lambda client: type(client).__name__
)
def test_without_any_key_there_is_a_config_error(client):
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        services.credentials_of(client)


@pytest.mark.parametrize("has_fallback", [True, False], ids=["config", "environment"])
def test_a_key_is_never_sent_to_a_url_that_it_was_not_given_for(monkeypatch, has_fallback):
    monkeypatch.setenv("TINKER_API_KEY", ENV_KEY)
    fallback = Config(CONFIG_KEY, URL) if has_fallback else None

    with pytest.raises(ConfigError) as caught:
        services.credentials_of(Client(_base_url=OTHER_URL), fallback)

    assert OTHER_URL in str(caught.value)
    assert ENV_KEY not in str(caught.value)
    assert CONFIG_KEY not in str(caught.value)


def test_a_url_that_is_that_of_the_key_at_hand_is_no_contradiction():
    fallback = Config(CONFIG_KEY, URL)

    assert services.credentials_of(Client(_base_url=URL + "/"), fallback).config is fallback


def test_the_callers_settings_hold_for_the_clients_own_key_too():
    fallback = Config(
        CONFIG_KEY, URL, read_timeout=33.0, access_scope="accessible", headers={"X-Team": "a"}
    )

    config = services.credentials_of(Client(_api_key=KEY, _base_url=URL), fallback).config

    assert config.api_key == KEY
    assert (config.read_timeout, config.access_scope) == (33.0, "accessible")
    assert dict(config.headers) == {"X-Team": "a"}


def test_headers_of_one_server_are_not_sent_to_another():
    fallback = Config(CONFIG_KEY, OTHER_URL, headers={"X-Secret": "of-elsewhere"})

    config = services.credentials_of(Client(_api_key=KEY, _base_url=URL), fallback).config

    assert dict(config.headers) == {}


@pytest.mark.parametrize("odd", [3, None, b"tml-bytes", ""], ids=repr)
def test_what_is_no_text_is_no_key(odd):
    fallback = Config(CONFIG_KEY, URL)

    assert services.credentials_of(Client(_api_key=odd), fallback).config is fallback


def test_the_texts_to_hide_are_the_keys_of_both():
    client = Client(_api_key=KEY)

    assert set(services.secrets_of(client, Config(CONFIG_KEY))) == {KEY, CONFIG_KEY}
    assert services.secrets_of(object(), None) == ()


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


@pytest.mark.parametrize("client", [object(), Client(model_id=None), Client(model_id="")])
def test_a_client_without_an_id_is_an_error_that_says_so(client):
    with pytest.raises(TypeError, match="model_id"):
        services.model_id_of(client)


# Errors


class RequestHeldError(Exception):
    """As the errors of HTTP libraries: the request in it holds the key."""

    def __init__(self, message, status_code=None):
        super().__init__(message)
        self.status_code = status_code
        self.request = {"headers": {"X-API-Key": KEY}}


def chain(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        chain(ValueError("plain"), KeyError("plain too")),
        CheckpointMissingError(RUN),
        ApiStatusError.of(402),
    ],
    ids=repr,
)
def test_an_error_without_a_secret_is_shown_as_it_is(error):
    assert services.without_secrets(error, [KEY]) is error


@pytest.mark.parametrize(
    "error",
    [
        RequestHeldError("refused", 401),
        chain(RuntimeError("wrapped"), RequestHeldError("refused", 401)),
        chain(TinkexError("wrapped"), RequestHeldError("refused", 401)),
    ],
    ids=["itself", "as a cause", "as the cause of one of ours"],
)
def test_an_error_that_holds_a_request_is_replaced_with_all_it_came_from(error):
    shown = services.without_secrets(error, [])

    assert isinstance(shown, ServiceError)
    assert shown.status == 401
    assert shown.kind == "RequestHeldError"
    assert str(error) in str(shown)
    assert list(causes(shown)) == [shown]
    assert KEY not in repr(vars(shown))


def test_the_name_of_the_category_is_kept():
    error = RequestHeldError("refused")
    error.category = type("Category", (), {"value": "user"})()

    assert services.without_secrets(error).category == "user"


@pytest.mark.parametrize("place", ["itself", "cause"])
def test_a_key_in_a_message_is_blotted_out(place):
    error = RuntimeError(f"refused: X-API-Key {KEY} is not known")
    if place == "cause":
        error = chain(RuntimeError("it failed"), error)

    shown = services.without_secrets(error, [KEY])

    assert isinstance(shown, ServiceError)
    assert KEY not in "".join(map(str, causes(shown)))
    assert KEY.encode() not in pickle.dumps(shown)


def test_an_error_of_ours_with_a_key_in_its_message_is_replaced_too():
    shown = services.without_secrets(ApiConnectionError(f"no route with {KEY}"), [KEY])

    assert KEY not in str(shown)


def test_a_network_error_is_still_told_from_others_after_it_was_replaced():
    error = chain(
        RuntimeError("wrapped"), chain(ConnectionResetError("gone"), RequestHeldError("x"))
    )

    assert services.without_secrets(error).kind == "ConnectionResetError"


# The SDK's own REST client as a rest module


class Answer:
    def __init__(self, data):
        self.data = data

    def result(self, timeout):
        if isinstance(self.data, Exception):
            raise self.data
        return self

    def model_dump(self, mode):
        assert mode == "json"
        return self.data


class SdkClient:
    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return Answer(self.answer)

        return call


def test_the_sdks_runs_become_ours():
    sdk = SdkClient({"training_run_id": RUN, "corrupted": True, "base_model": "a/b"})

    run = services.SdkRest(sdk).get_training_run(None, RUN)

    assert isinstance(run, TrainingRun)
    assert (run.training_run_id, run.corrupted) == (RUN, True)
    assert sdk.calls == [("get_training_run", (RUN,), {})]


def test_the_sdks_pages_become_ours():
    sdk = SdkClient({"training_runs": [{"training_run_id": RUN}], "cursor": {"total_count": 9}})

    page = services.SdkRest(sdk).list_training_runs(None, limit=5, offset=2)

    assert [run.training_run_id for run in page.training_runs] == [RUN]
    assert page.total_count == 9
    assert sdk.calls == [("list_training_runs", (), {"limit": 5, "offset": 2})]


def test_the_sdks_checkpoints_become_ours():
    sdk = SdkClient({"checkpoints": [{"tinker_path": PATH, "time": "2026-01-02T03:04:05Z"}]})

    (checkpoint,) = services.SdkRest(sdk).list_checkpoints(None, RUN)

    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.tinker_path == PATH
    assert checkpoint.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raised", "kind", "status"),
    [
        (RequestHeldError("no such run", 404), ApiStatusError, 404),
        (TimeoutError(), ApiTimeoutError, None),
        (chain(RuntimeError("x"), RequestHeldError("no route")), ApiConnectionError, None),
        (ValueError("a bug"), ValueError, None),
    ],
)
def test_the_sdks_errors_become_ours_without_the_request_in_them(raised, kind, status):
    rest = services.SdkRest(SdkClient(raised))

    with pytest.raises(kind) as caught:
        rest.get_training_run(None, RUN)

    assert getattr(caught.value, "status", None) == status
    assert not any(hasattr(cause, "request") for cause in causes(caught.value))
