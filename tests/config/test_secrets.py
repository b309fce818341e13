"""The API key is in nothing that tinkex raises, publishes, logs or shows."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType, FunctionType, MethodType, ModuleType, TracebackType
from types import SimpleNamespace as Bag

import pytest

from tinkex import Config, Monitor, Policy, RecoveryExecutor, errors, rest, signals
from tinkex.errors import ApiStatusError, ConfigError, RestError, ServiceError
from tinkex.service import SdkRest
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

KEY = "tml-0123456789abcdef-secret/with+signs"
RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000050"
POLICY = Policy(enabled=True, poll_interval=10.0, backoff=1.0, max_attempts=2)

#: What is not looked into: code, stack frames (they hold whatever the caller had), and the
#: parts that the caller handed in.
OPAQUE = (FunctionType, MethodType, ModuleType, FrameType, TracebackType, type, Monitor)


def places_of(secret, thing, where="it", seen=None):
    """Where a secret is in all that can be reached from a thing."""
    seen = {} if seen is None else seen
    if id(thing) in seen or isinstance(thing, OPAQUE):
        return []
    seen[id(thing)] = thing
    if isinstance(thing, bytes):
        thing = thing.decode("latin-1")
    if isinstance(thing, str):
        return [where] if secret in thing else []
    found = [f"{how} of {where}" for how in (str, repr) if secret in how(thing)]
    for name, part in parts_of(thing):
        found += places_of(secret, part, f"{where}.{name}", seen)
    return found


def parts_of(thing):
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                yield name, getattr(thing, name)
    if isinstance(thing, BaseException):
        for name in ("args", "__cause__", "__context__", "__notes__", "exceptions"):
            yield name, getattr(thing, name, None)
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield f"[{key!r}]", value
            yield "key", key
    elif isinstance(thing, tuple | list | set | frozenset):
        for index, value in enumerate(thing):
            yield f"[{index}]", value


def assert_silent(secret, *things):
    for thing in things:
        assert places_of(secret, thing) == []


def http_error(text="the server said no", status=None):
    """An error as HTTP libraries raise them: it holds the request, and that the key."""

    class HTTPStatusError(Exception):
        pass

    HTTPStatusError.__module__ = "httpx"
    error = HTTPStatusError(text)
    error.request = Bag(headers={"X-API-Key": KEY}, url="https://tinker.invalid")
    error.response = Bag(status_code=status, request=error.request)
    if status is not None:
        error.status_code = status
    return error


def raised_from(error, cause):
    """An error as it looks when it was raised while another was being handled."""
    try:
        try:
            raise cause
        except type(cause):
            raise error  # noqa: B904 (the context is what this is about)
    except type(error) as caught:
        return caught


#: What a service client or a rest module of one's own may raise.
LEAKY = {
    "its text has the key": lambda: RuntimeError(f"401 for key {KEY}"),
    "it holds a request": http_error,
    "it has a status and holds a request": lambda: http_error(status=500),
    "it came from one that holds a request": lambda: raised_from(
        ConnectionError("no connection"), http_error()
    ),
    "it came from one whose text has the key": lambda: raised_from(
        ValueError("bad"), RuntimeError(KEY)
    ),
    "its argument has the key": lambda: RuntimeError({"headers": {"X-API-Key": KEY}}),
    "it is one of tinkex itself": lambda: ApiStatusError.of(500, f"no such key {KEY}"),
    "it is one of tinkex with a cause": lambda: raised_from(
        ApiStatusError.of(500, "no"), http_error()
    ),
}

leaky = pytest.mark.parametrize("make", LEAKY.values(), ids=LEAKY)


class Told:
    def __init__(self):
        self.events = []

    def __call__(self, sender, *, event):
        self.events.append(event)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.fixture
def bench():
    """A monitor on fakes whose service client holds the key, and all that it says."""
    made = Bag(time=FakeScheduler(), rest=FakeRest(), service=FakeServiceClient(), told=Told())
    made.failures = []
    policy = replace(POLICY, on_failure=lambda run_id, error: made.failures.append(error))
    made.monitor = Monitor(
        policy,
        rest_module=made.rest,
        scheduler=made.time,
        executor=InlineExecutor(),
        rest_client_fun=lambda service: Bag(config=Config(KEY)),
    )
    with signals.subscribe(made.told, sender=made.monitor), made.monitor:
        yield made


# Polls and recoveries


@leaky
def test_a_poll_error_has_no_key(bench, log, make):
    bench.rest.set_run(RUN)
    handle = bench.monitor.monitor_run(RUN, bench.service)
    bench.rest.fail(make(), times=3)

    bench.time.advance(30.0)

    assert [event.name for event in bench.told.events].count("poll_error") == 1
    assert_silent(KEY, *bench.told.events, handle.status(), repr(handle), log.text)
    assert KEY not in handle._repr_html_()


@leaky
def test_a_failed_recovery_has_no_key(bench, log, make):
    bench.rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)
    handle = bench.monitor.monitor_run(RUN, bench.service)
    bench.service.fail(make(), times=9)

    bench.time.advance(60.0)
    with pytest.raises(errors.TinkexError) as waited:
        handle.wait(0.0)

    assert handle.state == "exhausted"
    assert len(bench.failures) == 1
    assert_silent(KEY, *bench.told.events, *bench.failures, waited.value, handle.status(), log.text)
    assert_silent(KEY, handle.lineage, repr(bench.monitor), bench.monitor.status())


@leaky
def test_a_future_of_an_executor_has_no_key(log, make):
    class Refuses:
        def __init__(self):
            self.api_key = KEY

        def create_training_client_from_state_with_optimizer(self, path):
            raise make()

    executor = RecoveryExecutor(InlineExecutor(), rest_module=FakeRest(), scheduler=FakeScheduler())

    policy = replace(POLICY, max_attempts=1)
    future = executor.recover(RUN, Refuses(), policy, last_checkpoint=PATH)
    error = future.exception(timeout=0)

    assert error is not None
    assert_silent(KEY, error, log.text)


@leaky
def test_a_listing_of_checkpoints_that_fails_has_no_key(bench, log, make):
    def list_checkpoints(config, run_id):
        raise make()

    bench.rest.list_checkpoints = list_checkpoints
    bench.rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)
    bench.monitor.monitor_run(RUN, bench.service)

    bench.time.advance(60.0)

    assert_silent(KEY, *(e for e in bench.told.events if e.name != "completed"), log.text)


@leaky
def test_a_receiver_that_raises_while_an_error_is_told_logs_no_key(bench, log, make):
    def raises(sender, *, event):
        raise ValueError("not today")

    bench.rest.set_run(RUN)
    bench.monitor.monitor_run(RUN, bench.service)
    bench.rest.fail(make())
    with signals.subscribe(raises, sender=bench.monitor):
        bench.time.advance(10.0)
        bench.rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)
        bench.service.fail(make(), times=9)
        bench.time.advance(60.0)

    assert "not today" in log.text
    assert_silent(KEY, log.text)


def test_an_account_that_is_paused_and_resumed_tells_no_key(bench, log):
    bench.rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)
    bench.service.fail(http_error(f"402 for {KEY}", status=402))
    bench.monitor.monitor_run(RUN, bench.service)

    bench.time.advance(120.0)

    names = [event.name for event in bench.told.events]
    assert {"paused", "resumed"} <= set(names)
    assert_silent(KEY, *(e for e in bench.told.events if e.name != "completed"), log.text)


def test_what_is_shown_instead_tells_what_it_was(bench):
    bench.rest.set_run(RUN)
    bench.monitor.monitor_run(RUN, bench.service)
    bench.rest.fail(http_error(f"no key {KEY} here", status=503))

    bench.time.advance(10.0)
    [error] = [event.error for event in bench.told.events if event.name == "poll_error"]

    assert isinstance(error, ServiceError)
    assert (error.kind, error.status) == ("HTTPStatusError", 503)
    assert str(error) == "HTTPStatusError: no key *** here"


def test_what_holds_no_key_is_published_as_it_is(bench):
    plain = raised_from(ValueError("bad"), KeyError("worse"))
    bench.rest.set_run(RUN)
    bench.monitor.monitor_run(RUN, bench.service)
    bench.rest.fail(plain)

    bench.time.advance(10.0)
    [error] = [event.error for event in bench.told.events if event.name == "poll_error"]

    assert error is plain


@leaky
def test_polls_through_the_sdk_raise_no_key(log, make):
    def get_training_run(run_id):
        raise make()

    client = SdkRest(Bag(get_training_run=get_training_run))
    service = FakeServiceClient()
    told = Told()
    time = FakeScheduler()
    monitor = Monitor(
        POLICY,
        rest_module=client,
        scheduler=time,
        rest_client_fun=lambda service: Bag(config=Config(KEY)),
    )
    with signals.subscribe(told, sender=monitor), monitor:
        monitor.monitor_run(RUN, service)
        time.advance(10.0)

    assert "poll_error" in [event.name for event in told.events]
    assert_silent(KEY, *told.events, log.text)


# Over HTTP


class Echo:
    """A server that answers with a status and repeats the key that it was sent."""

    def __init__(self):
        self.status = 500
        echo = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                echo.answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, handler):
        key = handler.headers["X-API-Key"]
        detail = json.dumps({"detail": f"the key {key} may not do this; it is {key!r}"}).encode()
        handler.send_response(self.status, f"no {key}")
        handler.send_header("X-Echo", key)
        handler.send_header("Location", f"https://elsewhere.invalid/?key={key}")
        handler.send_header("Content-Length", str(len(detail)))
        handler.end_headers()
        handler.wfile.write(detail)

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10.0)


@pytest.fixture
def echo():
    echo = Echo()
    yield echo
    echo.close()


CALLS = {
    "get_training_run": lambda config: rest.get_training_run(config, RUN, timeout=0.5),
    "list_training_runs": lambda config: rest.list_training_runs(config, timeout=0.5),
    "list_checkpoints": lambda config: rest.list_checkpoints(config, RUN, timeout=0.5),
    "get_weights_info": lambda config: rest.get_weights_info(config, PATH, timeout=0.5),
}

calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
@pytest.mark.parametrize("status", [200, 302, 401, 402, 403, 404, 422, 429, 500, 503])
def test_an_answer_that_repeats_the_key_raises_an_error_without_it(echo, log, call, status):
    echo.status = status

    with pytest.raises(RestError) as raised:
        call(Config(KEY, echo.url))

    assert_silent(KEY, raised.value, pickle.loads(pickle.dumps(raised.value)), log.text)


@calls
def test_an_error_of_the_connection_has_no_key(log, call):
    with pytest.raises(RestError) as raised:
        call(Config(KEY, "http://127.0.0.1:9", headers={"X-Trace": "a1b2c3d4e5f6"}))

    assert_silent(KEY, raised.value, log.text)
    assert_silent("a1b2c3d4e5f6", raised.value, log.text)


def test_an_error_raised_while_another_is_handled_does_not_bring_the_key_in(log):
    def report():
        try:
            raise KeyError("a step that failed")
        except KeyError:
            CALLS["get_training_run"](Config(KEY, "http://127.0.0.1:9"))

    with pytest.raises(RestError) as raised:
        report()

    assert_silent(KEY, raised.value, log.text)


def test_a_monitor_over_http_tells_no_key(echo, log):
    config = Config(KEY, echo.url)
    told, time = Told(), FakeScheduler()
    monitor = Monitor(POLICY, scheduler=time, rest_client_fun=lambda _: Bag(config=config))
    with signals.subscribe(told, sender=monitor), monitor:
        handle = monitor.monitor_run(RUN, FakeServiceClient())
        for status in (500, 403, 200):
            echo.status = status
            time.advance(70.0)

    assert "poll_error" in [event.name for event in told.events]
    assert_silent(KEY, *told.events, handle.status(), repr(handle), log.text)


# Configs


@pytest.mark.parametrize(
    "make",
    [
        lambda: Config(KEY + " "),
        lambda: Config(KEY + "\n"),
        lambda: Config(KEY + "\N{SNOWMAN}"),
        lambda: Config([KEY]),
        lambda: Config(KEY, f"https://{KEY}@tinker.invalid"),
        lambda: Config(KEY, f"https://tinker.invalid/?key={KEY}"),
        lambda: Config(KEY, f"https://tinker.invalid/{KEY}"),
        lambda: Config(KEY, f"https://tinker.invalid/#{KEY}"),
        lambda: Config(KEY, f"https://[{KEY}"),
        lambda: Config(KEY, f"https://tinker.invalid:{KEY}"),
        lambda: Config(KEY, f"ftp://tinker.invalid/{KEY}"),
        lambda: Config(KEY, KEY),
        lambda: Config(KEY, [KEY]),
        lambda: Config(KEY, connect_timeout=KEY),
        lambda: Config(KEY, read_timeout=KEY),
        lambda: Config(KEY, access_scope=KEY),
        lambda: Config(KEY, headers=KEY),
        lambda: Config(KEY, headers=[KEY]),
        lambda: Config(KEY, headers={"X-API-Key": KEY}),
        lambda: Config(KEY, headers={"X-Other": KEY + "\n"}),
        lambda: Config(KEY, headers={KEY: "\n"}),
        lambda: Config.from_env(api_key=KEY, base_url="http://tinker.invalid"),
    ],
)
def test_a_config_error_has_no_key(make):
    with pytest.raises(ConfigError) as raised:
        make()

    assert_silent(KEY, raised.value, pickle.loads(pickle.dumps(raised.value)))


def test_a_config_neither_shows_nor_pickles_its_key():
    config = Config(KEY, headers={"Authorization": f"Bearer {KEY}"})

    shown = (repr(config), str(config), f"{config}", pickle.dumps(replace(config, headers=None)))

    assert_silent(KEY, *shown)
    assert pickle.loads(pickle.dumps(config)).api_key is None


def test_a_service_client_for_another_server_is_refused_without_its_key(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    service = FakeServiceClient()
    service.api_key = service._api_key = None

    monitor = Monitor(POLICY)
    with pytest.raises(ConfigError) as raised:
        monitor.monitor_run(RUN, service)

    assert_silent(KEY, raised.value)


def test_nothing_that_is_shown_of_a_monitor_has_the_key(bench, log):
    bench.rest.set_run(RUN, corrupted=True, last_checkpoint=PATH)
    handle = bench.monitor.monitor_run(RUN, bench.service, metadata={"team": "a"})
    bench.time.advance(30.0)

    shown = (
        repr(bench.monitor),
        bench.monitor._repr_html_(),
        repr(handle),
        handle._repr_html_(),
        bench.monitor.status(),
        handle.lineage,
    )

    assert handle.status().recoveries == 1
    assert_silent(KEY, *shown, log.text)


@pytest.mark.parametrize("kind", errors.TinkexError.__subclasses__())
def test_what_is_pickled_of_an_error_is_its_own_alone(kind):
    error = raised_from(kind.__new__(kind, "text"), http_error(KEY))

    assert KEY.encode() not in pickle.dumps(error)
