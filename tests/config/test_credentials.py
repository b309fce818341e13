"""The credentials of service clients: where they are found, and errors that hold them."""

from __future__ import annotations

import pickle

import pytest

from tinkex.config import DEFAULT_BASE_URL, Config, credentials
from tinkex.config.secret import Secret
from tinkex.errors import (
    ApiConnectionError,
    ApiStatusError,
    CheckpointMissingError,
    ConfigError,
    ServiceError,
    TinkexError,
    causes,
)

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
    config = credentials.credentials_of(client).config

    assert (config.api_key, config.base_url) == (KEY, URL)


def test_the_clients_own_pair_goes_before_the_fallback_and_the_environment(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", ENV_KEY)
    monkeypatch.setenv("TINKER_BASE_URL", OTHER_URL)

    config = credentials.credentials_of(
        Client(_api_key=KEY, _base_url=URL), Config(CONFIG_KEY, OTHER_URL)
    ).config

    assert (config.api_key, config.base_url) == (KEY, URL)


@pytest.mark.parametrize(
    ("env_url", "expected"), [(None, DEFAULT_BASE_URL), (OTHER_URL, OTHER_URL)]
)
def test_a_key_alone_goes_where_the_sdk_would_send_it(monkeypatch, env_url, expected):
    if env_url:
        monkeypatch.setenv("TINKER_BASE_URL", env_url)

    config = credentials.credentials_of(Client(_api_key=KEY)).config

    assert (config.api_key, config.base_url) == (KEY, expected)


def test_a_client_that_says_nothing_gets_the_fallback():
    fallback = Config(CONFIG_KEY, OTHER_URL, headers={"X-Team": "a"})

    assert credentials.credentials_of(Client(), fallback).config is fallback


def test_a_client_that_says_nothing_gets_the_environment(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", ENV_KEY)
    monkeypatch.setenv("TINKER_BASE_URL", OTHER_URL)

    config = credentials.credentials_of(Client()).config

    assert (config.api_key, config.base_url) == (ENV_KEY, OTHER_URL)


@pytest.mark.parametrize(
    "client", [Client(), object(), lambda: None, 3], ids=lambda client: type(client).__name__
)
def test_without_any_key_there_is_a_config_error(client):
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        credentials.credentials_of(client)


@pytest.mark.parametrize("has_fallback", [True, False], ids=["config", "environment"])
def test_a_key_is_never_sent_to_a_url_that_it_was_not_given_for(monkeypatch, has_fallback):
    monkeypatch.setenv("TINKER_API_KEY", ENV_KEY)
    fallback = Config(CONFIG_KEY, URL) if has_fallback else None

    with pytest.raises(ConfigError) as caught:
        credentials.credentials_of(Client(_base_url=OTHER_URL), fallback)

    assert OTHER_URL in str(caught.value)
    assert ENV_KEY not in str(caught.value)
    assert CONFIG_KEY not in str(caught.value)


def test_a_url_that_is_that_of_the_key_at_hand_is_no_contradiction():
    fallback = Config(CONFIG_KEY, URL)

    assert credentials.credentials_of(Client(_base_url=URL + "/"), fallback).config is fallback


def test_the_callers_settings_hold_for_the_clients_own_key_too():
    fallback = Config(
        CONFIG_KEY, URL, read_timeout=33.0, access_scope="accessible", headers={"X-Team": "a"}
    )

    config = credentials.credentials_of(Client(_api_key=KEY, _base_url=URL), fallback).config

    assert config.api_key == KEY
    assert (config.read_timeout, config.access_scope) == (33.0, "accessible")
    assert dict(config.headers) == {"X-Team": "a"}


def test_headers_of_one_server_are_not_sent_to_another():
    fallback = Config(CONFIG_KEY, OTHER_URL, headers={"X-Secret": "of-elsewhere"})

    config = credentials.credentials_of(Client(_api_key=KEY, _base_url=URL), fallback).config

    assert dict(config.headers) == {}


@pytest.mark.parametrize("odd", [3, None, b"tml-bytes", ""], ids=repr)
def test_what_is_no_text_is_no_key(odd):
    fallback = Config(CONFIG_KEY, URL)

    assert credentials.credentials_of(Client(_api_key=odd), fallback).config is fallback


class Projected:
    """As the official SDK's service client: it may have a project, or say that it has none."""

    def __init__(self, project):
        self._api_key, self._project_id = KEY, project


def test_the_project_is_the_service_clients_own_else_the_environments(monkeypatch):
    monkeypatch.setenv("TINKER_PROJECT_ID", "of-the-environment")
    without = Projected(None)
    del without._project_id

    found = [
        credentials.credentials_of(service).config.project_id
        for service in (Projected("its-own"), Projected(None), without)
    ]

    assert found == ["its-own", None, "of-the-environment"]


def test_the_project_of_a_given_config_goes_before_the_environments(monkeypatch):
    monkeypatch.setenv("TINKER_PROJECT_ID", "of-the-environment")
    given = Config(CONFIG_KEY, project_id="given")

    assert credentials.credentials_of(Projected(None), given).config.project_id == "given"
    assert credentials.credentials_of(Projected("own"), given).config.project_id == "own"
    bare = credentials.credentials_of(Projected(None), Config(CONFIG_KEY))
    assert bare.config.project_id is None


def test_the_texts_to_hide_are_the_keys_of_both():
    client = Client(_api_key=KEY)

    assert set(credentials.secrets_of(client, Config(CONFIG_KEY)).reveal()) == {KEY, CONFIG_KEY}
    assert credentials.secrets_of(object(), None).reveal() == ()


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
    assert credentials.without_secrets(error, Secret((KEY,))) is error


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
    shown = credentials.without_secrets(error, Secret(()))

    assert isinstance(shown, ServiceError)
    assert shown.status == 401
    assert shown.kind == "RequestHeldError"
    assert str(error) in str(shown)
    assert list(causes(shown)) == [shown]
    assert KEY not in repr(vars(shown))


def test_the_name_of_the_category_is_kept():
    error = RequestHeldError("refused")
    error.category = type("Category", (), {"value": "user"})()

    assert credentials.without_secrets(error).category == "user"


@pytest.mark.parametrize("place", ["itself", "cause"])
def test_a_key_in_a_message_is_blotted_out(place):
    error = RuntimeError(f"refused: X-API-Key {KEY} is not known")
    if place == "cause":
        error = chain(RuntimeError("it failed"), error)

    shown = credentials.without_secrets(error, Secret((KEY,)))

    assert isinstance(shown, ServiceError)
    assert KEY not in "".join(map(str, causes(shown)))
    assert KEY.encode() not in pickle.dumps(shown)


def test_an_error_of_ours_with_a_key_in_its_message_is_replaced_too():
    shown = credentials.without_secrets(ApiConnectionError(f"no route with {KEY}"), Secret((KEY,)))

    assert KEY not in str(shown)


def test_a_network_error_is_still_told_from_others_after_it_was_replaced():
    error = chain(
        RuntimeError("wrapped"), chain(ConnectionResetError("gone"), RequestHeldError("x"))
    )

    assert credentials.without_secrets(error).kind == "ConnectionResetError"
