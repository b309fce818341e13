"""The key is in nothing that can be reached from what users get: events, errors, handles, logs."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import sys
import threading
import traceback
import weakref
from types import SimpleNamespace as Bag

import pytest
from support.http_servers import Stub, as_json
from support.reach import places_of
from support.recorder import Recorder

from tinkex import Config, Monitor, Policy, RecoveryExecutor, rest, signals
from tinkex.config.secret import Secret
from tinkex.errors import ApiConnectionError, ConfigError, RestError, TinkexError
from tinkex.testing import FakeScheduler, FakeServiceClient, InlineExecutor

KEY = "tml-0123456789abcdef-secret/with+signs"
HEADER = "another-secret-0123456789"
RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000050"


class Service(FakeServiceClient):
    """Holds the key, as that of the SDK does, and fails with it in hand."""

    def __init__(self):
        super().__init__()
        self._api_key = KEY


def echo(status):
    """An answer that repeats the key in its header and its body; an error other headers too.

    In what was asked for a header's value is left: it may be a normal word.
    """
    detail = f"no such key {KEY}" if status == 200 else f"no such key {KEY} {HEADER}"
    return as_json({"detail": detail}, status, X_Echo=KEY, X_Other=HEADER)


def run_as(**fields):
    return as_json({"training_run_id": RUN, "base_model": "m", **fields}, X_Echo=KEY)


@pytest.fixture
def stub():
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


def assert_nowhere(*things, handed_in=()):
    gc.collect()
    assert places_of(KEY, things, handed_in=handed_in) == []
    assert places_of(HEADER, things, handed_in=handed_in) == []


def test_the_walk_itself_finds_what_is_hidden_anywhere():
    def made():
        hidden = [KEY]
        return lambda: hidden

    places = [made(), Bag(a=(1, {2: KEY.encode()})), made().__call__, iter([KEY])]
    with pytest.raises(ValueError, match="no") as caught:
        exec(RAISES, {"__name__": "elsewhere", "KEY": KEY})
    assert [len(places_of(KEY, [place])) for place in places] == [1] * 4
    assert places_of(KEY, [caught.value])


RAISES = """
def raises():
    local = {"headers": KEY}
    raise ValueError("no")
raises()
"""


def test_whatever_a_monitor_meets_leads_to_no_key(stub, log):
    told, failures, time = Recorder(), [], FakeScheduler()
    config = Config(KEY, stub.url, headers={"Authorization": HEADER})
    service = Service()
    policy = Policy(
        enabled=True,
        poll_interval=10.0,
        backoff=1.0,
        max_attempts=2,
        on_failure=lambda run_id, error: failures.append(error),
    )
    executor = RecoveryExecutor(InlineExecutor(), scheduler=time)
    monitor = Monitor(
        policy, scheduler=time, executor=executor, rest_client_fun=lambda _: Bag(config=config)
    )
    with signals.subscribe(told, sender=monitor), monitor:
        run = monitor.monitor_run(RUN, service, metadata={"team": "a"})
        for answer in (echo(403), run_as(), echo(500), (200, {}, b"no JSON"), run_as(corrupted=3)):
            stub.will(answer)
            time.advance(70.0)
        stub.will(run_as(corrupted=True, last_checkpoint={"tinker_path": PATH}))
        service.fail(RuntimeError(f"refused: {KEY}"), times=9)
        time.advance(600.0)
        with pytest.raises(TinkexError) as waited:
            run.wait(0.0)
        names = set(told.names)

        # Frames of the call that was just made hold the handle; they are walked too.
        assert_nowhere(
            *told.events, *failures, waited.value, run.status(), run.lineage, handed_in=[service]
        )
        assert_nowhere(*log.records, log.text, handed_in=[service])
        assert_nowhere(run, monitor, executor, rest, handed_in=[service])

    assert names >= {"poll_error", "detected", "failed", "exhausted"}
    assert run.state == "stopped"


@pytest.mark.parametrize("status", [200, 302, 401, 404, 422, 500])
def test_an_error_of_a_call_leads_to_no_key_through_its_frames(stub, status):
    stub.will(echo(status))
    client = rest.RestClient(wait=lambda _: False)
    config = Config(KEY, stub.url, headers={"Authorization": HEADER})

    with pytest.raises(RestError) as raised:
        client.get_training_run(config, RUN)

    assert raised.value.__traceback__ is not None
    assert_nowhere(raised.value, client)
    client.close()


def shown(error):
    """A traceback with the locals of its frames, but for those of tests."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    told.stack[:] = [each for each in told.stack if each.filename != __file__]
    return "".join(told.format())


def test_a_traceback_of_a_closed_client_shows_no_key(stub):
    client = rest.RestClient()
    config = Config(KEY, stub.url, headers={"Authorization": HEADER})
    client.close()

    with pytest.raises(ApiConnectionError) as raised:
        client.get_training_run(config, RUN)

    assert KEY not in shown(raised.value)
    assert HEADER not in shown(raised.value)
    assert_nowhere(raised.value)


def test_an_interrupt_within_a_request_leads_to_no_key(stub, monkeypatch):
    stub.will(echo(200))
    client = rest.RestClient()
    config = Config(KEY, stub.url, headers={"Authorization": HEADER})

    def interrupt(*args, **kwargs):
        headers = sys._getframe(1).f_locals
        assert headers
        raise KeyboardInterrupt

    monkeypatch.setattr("http.client.HTTPConnection.putheader", interrupt)
    with pytest.raises(KeyboardInterrupt) as raised:
        client.get_training_run(config, RUN)

    assert KEY not in shown(raised.value)
    assert_nowhere(raised.value)
    client.close()


@pytest.mark.parametrize("url", ["http://elsewhere.invalid", "nonsense", "https://a b"])
def test_an_error_of_a_config_that_was_found_leads_to_no_key(monkeypatch, url):
    from tinkex.config.credentials import credentials_of

    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_BASE_URL", url)
    service = Service()
    service._base_url = url
    makers = (
        Config.from_env,
        lambda: credentials_of(service),
        lambda: credentials_of(service, Config("another-key")),
    )
    for make in makers:
        with pytest.raises(ConfigError) as raised:
            make()
        assert KEY not in shown(raised.value)
        assert_nowhere(raised.value, handed_in=[service])


def test_a_config_is_used_all_the_same():
    config = Config(KEY, headers={"Authorization": HEADER})

    assert config.api_key == KEY
    assert config.headers == {"Authorization": HEADER}
    assert_nowhere(config)


def test_a_secret_lets_its_value_go_and_travels_nowhere():
    value = threading.Event()
    secret, held = Secret([value]), weakref.ref(value)

    assert secret.reveal() == [value]
    assert repr(secret) == "***"
    for travels in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            travels(secret)
    del value, secret
    gc.collect()
    assert held() is None
