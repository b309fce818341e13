"""The connection settings: what they take, and that the key stays inside."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback

import pytest

from tinkex.config import DEFAULT_BASE_URL, Config
from tinkex.errors import ConfigError

KEY = "tml-0123456789abcdef-secret"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)


def test_a_key_is_all_it_needs():
    config = Config(KEY)

    assert config.base_url == DEFAULT_BASE_URL
    assert (config.connect_timeout, config.read_timeout) == (5.0, 10.0)
    assert config.recovery is None
    assert dict(config.headers) == {}
    assert config.access_scope == "owned"
    assert config.require_key() == KEY


def test_only_key_and_base_url_are_positional():
    with pytest.raises(TypeError):
        Config(KEY, DEFAULT_BASE_URL, 3.0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://example.org", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("https://example.org/services/x//", "https://example.org/services/x"),
        ("HTTPS://example.org:8443/a", "https://example.org:8443/a"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.8.9.1:1", "http://127.8.9.1:1"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_a_base_url_is_kept_without_its_last_slash(given, kept):
    assert Config(KEY, given).base_url == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "//example.org",
        "http://example.org",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://2130706433",
        "http://10.0.0.1",
        "ftp://localhost",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@example.org",
        "https://user:word@example.org",
        "http://localhost@example.org",
        "http://localhost\\@example.org",
        "https://example.org?",
        "https://example.org/?a=b",
        "https://example.org/#x",
        "https://example.org/a b",
        "https://example.org/\n",
        "https://exämple.org",
        "https://example.org:port",
        "https://example.org:99999",
        "https://[::1",
        None,
        5,
    ],
)
def test_a_base_url_that_is_not_safe_is_refused(url):
    with pytest.raises(ConfigError, match="base_url") as caught:
        Config(KEY, url)

    assert "word" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("key", [None, "", "  ", "\n"])
def test_a_missing_key_says_where_to_put_it(key):
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        Config(key)


@pytest.mark.parametrize(
    "key",
    [
        f"{KEY}\n",
        f" {KEY}",
        f"{KEY} x",
        f"{KEY}\r\nA: b",
        f"{KEY}\x00",
        f"{KEY}é",
        f"{KEY}\u2028",
        KEY.encode(),
        5,
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError, match="api_key") as caught:
        Config(key)

    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout"])
@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        0.0,
        float("nan"),
        float("inf"),
        -float("inf"),
        10**400,
        1e9,
        True,
        False,
        "5",
        None,
        [],
        1j,
    ],
)
def test_a_timeout_that_cannot_be_waited_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        Config(KEY, **{name: value})


def test_a_timeout_is_kept_as_a_float():
    config = Config(KEY, connect_timeout=1, read_timeout=0.25)

    assert (config.connect_timeout, config.read_timeout) == (1.0, 0.25)
    assert isinstance(config.connect_timeout, float)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "a"},
        {"x-api-key": "a"},
        {"Content-Length": "1"},
        {"Host": "a"},
        {"": "a"},
        {"A b": "a"},
        {"A:": "a"},
        {"A\r\nB": "a"},
        {5: "a"},
        {"A": "a\r\nB: c"},
        {"A": "a\n"},
        {"A": " a"},
        {"A": ""},
        {"A": 5},
        {"A": "\u2028"},
        {"A": "b", "a": "c"},
        [("A", "b")],
        "A: b",
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers):
    with pytest.raises(ConfigError, match="header"):
        Config(KEY, headers=headers)


def test_headers_are_a_copy_that_cannot_be_changed():
    given = {"X-Team": "a b"}

    config = Config(KEY, headers=given)
    given["X-Team"] = "c"

    assert config.headers == {"X-Team": "a b"}
    with pytest.raises(TypeError):
        config.headers["X-Team"] = "d"


@pytest.mark.parametrize("scope", ["mine", "", None, 5, ["owned"]])
def test_an_unknown_access_scope_is_refused(scope):
    with pytest.raises(ConfigError, match="owned, accessible"):
        Config(KEY, access_scope=scope)


def test_a_config_is_compared_and_hashed_by_value():
    one = Config(KEY, headers={"A": "b"}, recovery={"enabled": True})
    same = Config(KEY, headers={"A": "b"}, recovery={"enabled": True})

    assert one == same
    assert len({one, same}) == 1
    assert one != dataclasses.replace(one, read_timeout=3)
    assert one != dataclasses.replace(one, headers={"A": "c"})
    assert one.recovery == {"enabled": True}


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config(KEY).api_key = "other"


def test_the_environment_is_read_when_asked(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_BASE_URL", "http://localhost:1/")

    assert Config.from_env() == Config(KEY, "http://localhost:1")
    assert Config.from_env(base_url="http://[::1]").base_url == "http://[::1]"
    assert Config.from_env(api_key="other", read_timeout=3.0).api_key == "other"


def test_an_empty_variable_is_no_variable(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "")
    monkeypatch.setenv("TINKER_BASE_URL", "")

    assert Config.from_env(api_key=KEY) == Config(KEY)
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        Config.from_env()
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        Config.from_env(api_key=None)


def test_an_unknown_argument_is_named(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", KEY)

    with pytest.raises(ConfigError, match="has no base_uri; it has api_key, base_url"):
        Config.from_env(base_uri="http://localhost")


def test_the_key_is_in_no_text_and_no_pickle():
    config = Config(KEY, headers={"Authorization": "Bearer another-secret"})

    for text in (repr(config), str(config), f"{config}", repr([config])):
        assert KEY not in text
        assert "another-secret" not in text
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert KEY.encode() not in pickle.dumps(config, protocol)
        assert b"another-secret" not in pickle.dumps(config, protocol)


def test_the_key_is_in_no_message_when_arguments_are_mixed_up():
    for attempt in (
        lambda: Config("https://example.org", KEY),
        lambda: Config(KEY, f"https://example.org/{KEY}"),
        lambda: Config(KEY, f"https://{KEY}:x@example.org"),
        lambda: Config(KEY, f"https://example.org/?key={KEY}"),
        lambda: Config(KEY, read_timeout=KEY),
        lambda: Config(KEY, access_scope=KEY),
        lambda: Config(KEY, headers={"X-API-Key": KEY}),
        lambda: Config(KEY, headers={"A": f"{KEY}\n"}),
        lambda: Config(KEY, headers=KEY),
        lambda: Config([KEY]),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert KEY not in "".join(traceback.format_exception_only(caught.value))
        assert KEY not in str(caught.value.__dict__)


def test_an_unpickled_config_asks_for_the_key_again():
    config = Config(
        KEY, "http://localhost:1", read_timeout=3, headers={"A": "b"}, recovery={"x": 1}
    )

    unpickled = pickle.loads(pickle.dumps(config))

    assert unpickled.api_key is None
    assert KEY not in repr(unpickled)
    with pytest.raises(ConfigError, match=r"dataclasses\.replace"):
        unpickled.require_key()
    assert dataclasses.replace(unpickled, api_key=KEY, headers={"A": "b"}) == config
    with pytest.raises(TypeError):
        unpickled.headers["A"] = "c"
    assert pickle.loads(pickle.dumps(unpickled)) == unpickled


def test_a_copy_keeps_the_key():
    config = Config(KEY)

    assert copy.copy(config) is config
    assert copy.deepcopy({"config": config})["config"].api_key == KEY


def test_the_project_is_read_from_the_environment(no_environment, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    assert Config.from_env().project_id is None
    monkeypatch.setenv("TINKER_PROJECT_ID", "")
    assert Config.from_env().project_id is None
    monkeypatch.setenv("TINKER_PROJECT_ID", "p-1")
    assert Config.from_env().project_id == "p-1"
    assert Config.from_env(project_id="p-2").project_id == "p-2"
    assert Config(KEY).project_id is None


@pytest.mark.parametrize("project", ["", 7, "a\nb", "x" * 513, ["p"]])
def test_a_project_that_cannot_be_sent_is_refused(project):
    with pytest.raises(ConfigError, match="project_id"):
        Config(KEY, project_id=project)
