"""The REST client against servers on this machine: good ones, bad ones and hostile ones."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import urllib3

import tinkex
from tinkex import rest
from tinkex.config import Config
from tinkex.errors import (
    ApiAuthenticationError,
    ApiBillingError,
    ApiConnectionError,
    ApiNotFoundError,
    ApiPermissionError,
    ApiRateLimitError,
    ApiResponseError,
    ApiServerError,
    ApiStatusError,
    ApiTimeoutError,
    ConfigError,
    RestError,
)
from tinkex.types import TinkerPath, TrainingRun

DATA = Path(__file__).parent / "data"
KEY = "tml-0123456789abcdef-secret"
RUN = "3f0c1e2d:train:0"
PATH = f"tinker://{RUN}/weights/000050"
RUN_JSON = {"training_run_id": RUN, "base_model": "m", "corrupted": False}

#: Long enough for a slow machine, and never reached by a test that passes.
PATIENCE = 10.0


class Stub:
    """A server that gives the answers it was told to give, the last one for ever."""

    def __init__(self):
        self.requests = []
        self.connections = set()
        self.answers = []
        self.release = threading.Event()
        self.arrived = threading.Event()
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self):
                stub.serve(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def serve(self, handler):
        length = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(length)
        with self._lock:
            self.requests.append((handler.command, handler.path, dict(handler.headers), body))
            self.connections.add(handler.client_address)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.arrived.set()
        if callable(answer):
            answer(handler)
            return
        status, headers, content = answer
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def will(self, *answers):
        self.answers[:] = answers

    def hang(self, handler):
        self.release.wait(PATIENCE)
        handler.close_connection = True

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(PATIENCE)


class RawServer:
    """A server that hands each connection to a function, to break HTTP in any way."""

    def __init__(self, behave):
        self.behave = behave
        self.accepted = 0
        self.release = threading.Event()
        self.arrived = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self.handle, args=(connection,), daemon=True).start()

    def handle(self, connection):
        with connection, contextlib.suppress(OSError):
            self.behave(self, connection)

    def close(self):
        self.release.set()
        # On Linux, closing alone does not wake a thread in accept().
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(PATIENCE)


def as_json(value, status=200, **headers):
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return status, {"Content-Type": "application/json", **names}, json.dumps(value).encode()


def failing(status, **headers):
    return as_json({"detail": "words"}, status, **headers)


@pytest.fixture
def stub():
    server = Stub()
    server.will(as_json(RUN_JSON))
    yield server
    server.close()


@pytest.fixture
def raw():
    servers = []

    def start(behave):
        servers.append(RawServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def client(waits):
    def wait(seconds):
        waits.append(seconds)
        return False

    made = rest.RestClient(wait=wait)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}:
            monkeypatch.delenv(name)


def config_of(server, **options):
    return Config(KEY, server.url, **options)


def failure(call, kind=RestError):
    with pytest.raises(kind) as caught:
        call()
    assert_holds_no_key(caught.value)
    return caught.value


def assert_holds_no_key(error):
    assert error.__cause__ is None
    assert error.__context__ is None
    assert KEY not in repr(error)
    assert KEY.encode() not in pickle.dumps(error)
    seen = {}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        assert not isinstance(each, requests.RequestException | urllib3.exceptions.HTTPError)
        assert KEY not in str(each)
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set):
            waiting += each
        elif isinstance(each, BaseException):
            waiting += [each.args, each.__dict__, each.__cause__, each.__context__]
            waiting += getattr(each, "__notes__", [])
        elif hasattr(each, "__dict__"):
            waiting.append(vars(each))


def in_thread(function):
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function)
    pool.shutdown(wait=False)
    return future


# What is asked, and how


def test_a_run_is_asked_for_with_key_and_scope(stub, client):
    run = client.get_training_run(config_of(stub, headers={"X-Team": "a"}), RUN)

    assert run == TrainingRun(training_run_id=RUN, base_model="m")
    [(method, path, headers, _)] = stub.requests
    assert (method, path) == (
        "GET",
        "/api/v1/training_runs/3f0c1e2d%3Atrain%3A0?access_scope=owned",
    )
    assert headers["X-API-Key"] == KEY
    assert headers["X-Team"] == "a"
    assert headers["Accept"] == "application/json"
    assert "Authorization" not in headers


def test_a_listing_is_asked_for_in_pages(stub, client):
    stub.will(as_json({"training_runs": [RUN_JSON], "cursor": {"total_count": 7}}))
    config = config_of(stub, access_scope="accessible")

    page = client.list_training_runs(config, limit=100, offset=200)
    client.list_training_runs(config)

    assert page.total_count == 7
    assert page.training_runs[0].training_run_id == RUN
    assert [request[1] for request in stub.requests] == [
        "/api/v1/training_runs?limit=100&offset=200&access_scope=accessible",
        "/api/v1/training_runs?limit=20&offset=0&access_scope=accessible",
    ]


def test_weights_info_is_posted(stub, client):
    stub.will(as_json({"base_model": "m", "lora_rank": 8}))

    for path in (PATH, TinkerPath.parse(PATH)):
        assert client.get_weights_info(config_of(stub), path).lora_rank == 8

    for method, path, headers, body in stub.requests:
        assert (method, path) == ("POST", "/api/v1/weights_info")
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {"tinker_path": PATH}


def test_a_base_url_with_a_path_is_kept(stub, client):
    client.get_training_run(Config(KEY, f"{stub.url}/services/x/"), "r")

    assert stub.requests[0][1] == "/services/x/api/v1/training_runs/r?access_scope=owned"


def checkpoints(first, last):
    return [{"tinker_path": f"tinker://{RUN}/weights/{n}"} for n in range(first, last)]


def test_checkpoints_are_read_to_the_last_page(stub, client):
    stub.will(
        as_json({"checkpoints": checkpoints(0, 100), "cursor": {"total_count": 130}}),
        as_json({"checkpoints": checkpoints(100, 130), "cursor": {"total_count": 130}}),
    )

    found = client.list_checkpoints(config_of(stub), RUN)

    assert [each.checkpoint_id for each in found] == [str(n) for n in range(130)]
    base = "/api/v1/training_runs/3f0c1e2d%3Atrain%3A0/checkpoints"
    assert [request[1] for request in stub.requests] == [base, f"{base}?limit=100&offset=100"]


@pytest.mark.parametrize(
    "cursor", [None, {"total_count": 3}, {"total_count": 9}, {"total_count": "9"}, [], {}]
)
def test_a_server_without_pages_is_asked_no_longer_than_needed(stub, client, cursor):
    stub.will(as_json({"checkpoints": checkpoints(0, 3), "cursor": cursor}))

    found = client.list_checkpoints(config_of(stub), RUN)

    assert [each.checkpoint_id for each in found] == ["0", "1", "2"]
    assert len(stub.requests) == (2 if cursor == {"total_count": 9} else 1)


def test_a_run_without_checkpoints_has_none(stub, client):
    stub.will(as_json({"checkpoints": []}))

    assert client.list_checkpoints(config_of(stub), RUN) == ()


@pytest.mark.parametrize("answer", [{}, {"checkpoints": None}, {"checkpoints": [3]}])
def test_a_list_of_checkpoints_of_another_shape_is_refused(stub, client, answer):
    stub.will(as_json(answer))

    failure(lambda: client.list_checkpoints(config_of(stub), RUN), ApiResponseError)


def test_checkpoints_share_one_bound(stub, client, monkeypatch):
    pages = [
        as_json({"checkpoints": checkpoints(n, n + 1), "cursor": {"total_count": 500}})
        for n in range(3)
    ]
    stub.will(*pages, stub.hang)

    error = failure(
        lambda: client.list_checkpoints(config_of(stub), RUN, timeout=0.3), ApiTimeoutError
    )

    assert "offset=3" in str(error)


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "/",
        "../x",
        "a\n",
        "a\x00",
        "a\ud800",
        "x" * 513,
        None,
        5,
        b"a",
    ],
)
def test_what_cannot_be_a_run_id_is_never_sent(stub, client, run_id):
    config = config_of(stub)

    for call in (client.get_training_run, client.list_checkpoints):
        with pytest.raises(ValueError, match="run id"):
            call(config, run_id)
    assert stub.requests == []


@pytest.mark.parametrize("path", ["", "a\n", "x" * 513, None, 5])
def test_what_cannot_be_a_path_is_never_sent(stub, client, path):
    with pytest.raises(ValueError, match="tinker path"):
        client.get_weights_info(config_of(stub), path)
    assert stub.requests == []


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"limit": -1}, {"limit": True}, {"limit": 1.5}, {"offset": -1}, {"offset": "0"}],
)
def test_what_cannot_be_a_page_is_never_sent(stub, client, options):
    with pytest.raises(ValueError, match="limit should be 1 or more"):
        client.list_training_runs(config_of(stub), **options)
    assert stub.requests == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_bound_that_is_none_is_refused(stub, client, timeout):
    with pytest.raises(ValueError, match="timeout"):
        client.get_training_run(config_of(stub), RUN, timeout=timeout)
    assert stub.requests == []


def test_odd_ids_arrive_as_they_are(stub, client):
    client.get_training_run(config_of(stub), "a b?c#d%2Fe&ü")

    assert stub.requests[0][1].startswith(
        "/api/v1/training_runs/a%20b%3Fc%23d%252Fe%26%C3%BC?access_scope"
    )


def test_an_unpickled_config_is_refused_before_anything_is_sent(stub, client):
    unpickled = pickle.loads(pickle.dumps(config_of(stub)))

    with pytest.raises(ConfigError, match="unpickled"):
        client.get_training_run(unpickled, RUN)
    assert stub.requests == []


# Sessions


def test_connections_are_reused_also_after_errors(stub, client):
    stub.will(as_json(RUN_JSON), failing(404), failing(500), as_json(RUN_JSON))
    config = config_of(stub)

    client.get_training_run(config, RUN)
    failure(lambda: client.get_training_run(config, RUN), ApiNotFoundError)
    client.get_training_run(config, RUN)

    assert len(stub.requests) == 4
    assert len(stub.connections) == 1


def test_many_threads_share_the_client(stub, client):
    config = config_of(stub)

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda n: client.get_training_run(config, f"r{n}"), range(40)))

    assert len(runs) == len(stub.requests) == 40
    assert len(stub.connections) <= 8


def test_each_account_has_its_own_session(stub, client):
    for config in (config_of(stub), Config("tml-another-key", stub.url)):
        client.get_training_run(config, RUN)
        client.get_training_run(config, RUN)

    keys = [headers["X-API-Key"] for _, _, headers, _ in stub.requests]
    assert keys == [KEY, KEY, "tml-another-key", "tml-another-key"]
    assert len(stub.connections) == 2


def test_cookies_are_never_sent_back(stub, client):
    stub.will(as_json(RUN_JSON, Set_Cookie="session=1; Path=/"))

    for _ in range(2):
        client.get_training_run(config_of(stub), RUN)

    assert "Cookie" not in stub.requests[1][2]


def test_netrc_does_not_add_a_login(stub, client, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))

    client.get_training_run(config_of(stub), RUN)

    assert "Authorization" not in stub.requests[0][2]


def test_a_proxy_of_the_environment_is_used(stub, client, monkeypatch):
    monkeypatch.setenv("http_proxy", stub.url)

    client.get_training_run(Config(KEY, "http://127.0.0.1:9/x"), RUN)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    client.get_training_run(config_of(stub), RUN)

    assert stub.requests[0][1].startswith("http://127.0.0.1:9/x/api/v1/training_runs/")
    assert stub.requests[1][1].startswith("/api/v1/training_runs/")


def test_a_proxy_that_cannot_be_used_is_a_connection_error(client, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")

    failure(
        lambda: client.get_training_run(Config(KEY, "http://127.0.0.1:9"), RUN), ApiConnectionError
    )


def test_a_redirect_is_not_followed(stub, client):
    stub.will((307, {"Location": f"{stub.url}/elsewhere"}, b""))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiStatusError)

    assert error.status == 307
    assert f"leads to {stub.url}/elsewhere" in error.detail
    assert len(stub.requests) == 1


def test_a_redirect_to_nowhere_is_a_status_error(stub, client):
    stub.will((302, {}, b""), (304, {"Location": "http://[bad"}, b""))

    for _ in range(2):
        failure(lambda: client.get_training_run(config_of(stub), RUN), ApiStatusError)


def test_module_functions_share_one_client(stub):
    config = config_of(stub)
    stub.will(
        as_json(RUN_JSON),
        as_json({"training_runs": []}),
        as_json({"checkpoints": []}),
        as_json({"base_model": "m"}),
    )

    assert rest.get_training_run(config, RUN, timeout=5).training_run_id == RUN
    assert rest.list_training_runs(config, limit=1, offset=2).rows == []
    assert rest.list_checkpoints(config, RUN) == ()
    assert rest.get_weights_info(config, PATH).base_model == "m"
    assert len(stub.connections) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_connections(stub, client):
    config = config_of(stub)
    client.get_training_run(config, RUN)

    child = os.fork()
    if child == 0:
        try:
            client.get_training_run(config, RUN, timeout=5)
            client.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.get_training_run(config, RUN)

    assert len(stub.requests) == 3
    assert len(stub.connections) == 2


def test_importing_starts_nothing_and_reads_no_environment():
    code = (
        "import os, threading\n"
        "class Watched(dict):\n"
        "    def get(self, key, *rest):\n"
        "        assert 'TINKER' not in str(key); return dict.get(self, key, *rest)\n"
        "os.environ = Watched(os.environ)\n"
        "import tinkex.rest\n"
        "assert threading.active_count() == 1\n"
    )
    root = Path(tinkex.__file__).parents[1]

    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


# Retries


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(stub, client, waits, status):
    stub.will(failing(status), failing(status), as_json(RUN_JSON))

    assert client.get_training_run(config_of(stub), RUN).training_run_id == RUN
    assert len(stub.requests) == 3
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 0.75


def test_a_post_is_tried_again_with_its_body(stub, client):
    stub.will(failing(503), as_json({"base_model": "m"}))

    client.get_weights_info(config_of(stub), PATH)

    assert [json.loads(body) for *_, body in stub.requests] == [{"tinker_path": PATH}] * 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ApiStatusError),
        (401, ApiAuthenticationError),
        (402, ApiBillingError),
        (403, ApiPermissionError),
        (404, ApiNotFoundError),
        (409, ApiStatusError),
        (422, ApiStatusError),
    ],
)
def test_what_will_not_pass_is_tried_once(stub, client, waits, status, kind):
    stub.will(failing(status))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN))

    assert type(error) is kind
    assert (error.status, error.detail, error.retry_after) == (status, "words", None)
    assert f"GET {stub.url}/api/v1/training_runs/3f0c1e2d%3Atrain%3A0" in str(error)
    assert (len(stub.requests), waits) == (1, [])


def test_three_tries_are_all(stub, client, waits):
    stub.will(failing(429))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiRateLimitError)

    assert (error.status, len(stub.requests), len(waits)) == (429, 3, 2)


def test_the_wait_that_the_server_asks_for_is_kept(stub, client, waits):
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=7), usegmt=True)
    stub.will(
        failing(503, Retry_After="3"),
        lambda handler: answer_with_date(handler, date=format_datetime(now), retry_after=later),
        as_json(RUN_JSON),
    )

    client.get_training_run(config_of(stub), RUN)

    assert waits == [3.0, 7.0]


def answer_with_date(handler, *, date, retry_after):
    handler.send_response_only(429)
    if date is not None:
        handler.send_header("Date", date)
    handler.send_header("Retry-After", retry_after)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_a_date_without_the_servers_own_is_held_against_our_clock(stub, client):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1))
    stub.will(lambda handler: answer_with_date(handler, date=None, retry_after=later))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiRateLimitError)

    assert 3500 < error.retry_after <= 3600


def test_a_wait_that_does_not_fit_is_not_begun(stub, client, waits):
    stub.will(failing(503, Retry_After="60"))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiServerError)

    assert error.retry_after == 60.0
    assert (len(stub.requests), waits) == (1, [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2.5", 2.5),
        ("9" * 400, float("inf")),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("Mon, 99 Nov 2026 12:00:00 GMT", None),
        ("Mon, 23 Nov 2015 12:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2015 12:00:00 -0000", 0.0),
    ],
)
def test_every_way_to_say_retry_after_is_understood_or_left(stub, client, text, seconds):
    stub.will(failing(429, Retry_After=text))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiRateLimitError)

    assert error.retry_after == seconds


def test_the_waits_end_where_the_bound_ends(stub, client, waits):
    stub.will(failing(500))

    failure(lambda: client.get_training_run(config_of(stub), RUN, timeout=0.2), ApiServerError)

    assert (len(stub.requests), waits) == (1, [])


def test_a_wait_that_was_woken_ends_the_call(stub):
    stub.will(failing(500))
    client = rest.RestClient(wait=lambda seconds: True)

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiConnectionError)

    assert "closed" in str(error)
    assert len(stub.requests) == 1
    client.close()


def test_an_error_while_another_is_handled_holds_only_the_callers(stub, client):
    stub.will(failing(404))
    own = KeyError("own")

    try:
        raise own
    except KeyError:
        with pytest.raises(ApiNotFoundError) as caught:
            client.get_training_run(config_of(stub), RUN)

    assert caught.value.__context__ is own
    assert own.__context__ is None


# Servers that break


def refused_url():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_refused_connection_is_tried_again(client, waits):
    url = refused_url()

    error = failure(lambda: client.get_training_run(Config(KEY, url), RUN), ApiConnectionError)

    assert "Connection refused" in str(error)
    assert not isinstance(error, ApiTimeoutError)
    assert len(waits) == 2


def test_a_reason_is_not_taken_from_what_the_caller_handles(client):
    config = Config(KEY, refused_url())

    try:
        raise KeyError("own")
    except KeyError:
        with pytest.raises(ApiConnectionError, match="Connection refused"):
            client.get_training_run(config, RUN)


def test_a_host_that_cannot_be_is_a_connection_error(client):
    config = Config(KEY, f"https://{'a' * 70}.invalid")

    failure(lambda: client.get_training_run(config, RUN), ApiConnectionError)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def say(*pieces):
    def behave(server, connection):
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)

    return behave


def reset(server, connection):
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "behave",
    [
        say(),
        reset,
        say(b"\x00\xff\x13garbage\r\n\r\n"),
        say(b"SSH-2.0-OpenSSH_9\r\n"),
        say(b"HTTP/1.1 abc OK\r\n\r\n"),
        say(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
        say(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000 + b"\r\n\r\n"),
        say(HEAD, b"Content-Length: 100\r\n\r\n{}"),
        say(HEAD, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
        say(HEAD, b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}"),
        say(HEAD, b"Content-Length: 10"),
        say(f"{KEY}\r\n\r\n".encode()),
        say(f"HTTP/1.1 {KEY} OK\r\n\r\n".encode()),
    ],
)
def test_broken_http_is_a_connection_error(raw, client, waits, behave):
    server = raw(behave)

    failure(lambda: client.get_training_run(config_of(server), RUN), ApiConnectionError)

    assert server.accepted == 3
    assert len(waits) == 2


def test_a_broken_try_is_mended_by_the_next(raw, client):
    body = json.dumps(RUN_JSON).encode()

    def behave(server, connection):
        connection.recv(65536)
        if server.accepted > 1:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert client.get_training_run(config_of(raw(behave)), RUN).base_model == "m"


@pytest.mark.parametrize(
    "framing", [b"Connection: close\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
def test_bodies_without_a_length_are_read(raw, client, framing):
    body = json.dumps({**RUN_JSON, "base_model": "m" * 100_000}).encode()
    if b"chunked" in framing:
        body = b"%x\r\n%s\r\n3\r\n   \r\n0\r\n\r\n" % (len(body), body)

    run = client.get_training_run(config_of(raw(say(HEAD, framing, body))), RUN)

    assert len(run.base_model) == 100_000


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"Content-Type": "text/html"}, b"<html>\n <b>Log in</b>", "text/html: <html> <b>Log in"),
        ({}, b"", "no content type"),
        ({}, b"{", "not JSON"),
        ({}, b"[1, 2]", "not a JSON object"),
        ({}, b"5", "not a JSON object"),
        ({}, b"null", "not JSON"),
        ({}, b"\xff\xfe\x00\xd8", "not JSON"),
        ({}, b'{"a": "\xff"}', "not JSON"),
        ({}, b"[" * 100_000, "not JSON"),
        ({}, b'{"training_run_id": %s}' % (b"9" * 5000), "not JSON"),
        ({}, b"{}", "training_run_id"),
        ({}, json.dumps({**RUN_JSON, "corrupted": "true"}).encode(), "corrupted"),
        ({"Content-Encoding": "gzip"}, b"not gzip at all", "decompressed"),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"<html>"), "<html>"),
        ({"Content-Type": "text/html"}, f"<p>{KEY}</p>".encode(), r"<p>\*\*\*</p>"),
        ({}, json.dumps({"training_run_id": [KEY]}).encode(), "training_run_id"),
    ],
)
def test_a_body_that_does_not_fit_is_told_in_short(stub, client, waits, headers, body, words):
    stub.will((200, headers, body))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiResponseError)

    assert re.search(words, str(error))
    assert len(str(error)) < 600
    assert waits == []


def test_a_compressed_body_is_read(stub, client):
    content = gzip.compress(json.dumps({**RUN_JSON, "base_model": "m" * 100_000}).encode())
    stub.will((200, {"Content-Encoding": "gzip"}, content))

    assert len(client.get_training_run(config_of(stub), RUN).base_model) == 100_000


def test_a_body_that_is_too_large_is_left(raw, stub, client):
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    stub.will((200, {"Content-Encoding": "gzip"}, bomb))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiResponseError)
    assert "larger than 16777216 bytes" in str(error)

    def endless(server, connection):
        connection.recv(65536)
        connection.sendall(HEAD + b"\r\n")
        while not server.release.is_set():
            connection.sendall(b" " * 1_000_000)

    error = failure(lambda: client.get_training_run(config_of(raw(endless)), RUN), ApiResponseError)
    assert "larger than 16777216 bytes" in str(error)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"detail": "words"}', "words"),
        (b'{"detail": {"message": "words"}}', "words"),
        (b'{"detail": {"code": 5}}', '{"code": 5}'),
        (b'{"message": "words"}', "words"),
        (b'{"error": {"message": "words"}}', "words"),
        (b'{"detail": []}', '{"detail": []}'),
        (b'{"detail": [1]}', "[1]"),
        (
            b'{"detail": [{"loc": ["query", "limit"], "msg": "bad"}, {"msg": "x"}]}',
            "query.limit: bad; x",
        ),
        (b"[1]", "[1]"),
        (b"Internal\n Server  Error", "Internal Server Error"),
        (b"", ""),
        (b"\xff", "\ufffd"),
        (b"x" * 300_000, "x" * 199 + "…"),
        (f"key {KEY} is bad".encode(), "key *** is bad"),
        (json.dumps({"detail": f"{'x' * 190} {KEY}"}).encode(), "x" * 190 + " ***"),
    ],
)
def test_the_servers_words_are_told_in_short(stub, client, body, detail):
    stub.will((400, {}, body))

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiStatusError)

    assert error.detail == detail


def test_a_status_counts_although_its_body_breaks(raw, client):
    server = raw(say(b"HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\nshort"))

    failure(lambda: client.get_training_run(config_of(server), RUN), ApiPermissionError)


def test_an_echo_of_the_key_does_not_get_through(stub, client):
    stub.will(as_json({**RUN_JSON, "base_model": f"m {KEY}", "user_metadata": {"k": KEY}}))

    run = client.get_training_run(config_of(stub), RUN)

    assert (run.base_model, run.user_metadata) == ("m ***", {"k": "***"})


def test_a_key_given_as_run_id_is_not_shown(stub, client):
    stub.will(failing(404))

    failure(lambda: client.get_training_run(config_of(stub), KEY), ApiNotFoundError)


def test_a_key_in_an_odd_spelling_is_not_shown(stub, client):
    key = 'tml-"0123/456%789'
    stub.will((400, {}, json.dumps({"error": {"code": key}}).encode()))

    with pytest.raises(ApiStatusError) as caught:
        client.get_training_run(Config(key, stub.url), key.replace("/", ""))

    assert caught.value.detail == '{"code": "***"}'


def test_a_secret_header_is_not_shown(stub, client):
    stub.will((400, {}, b"bad token abcdefgh12345"))

    error = failure(
        lambda: client.get_training_run(
            config_of(stub, headers={"Authorization": "abcdefgh12345"}), RUN
        ),
        ApiStatusError,
    )

    assert error.detail == "bad token ***"


# Bounds, cutting and closing


def test_a_silent_server_is_waited_for_no_longer_than_the_read_timeout(stub, client, waits):
    stub.will(stub.hang)

    error = failure(
        lambda: client.get_training_run(config_of(stub, read_timeout=0.05), RUN), ApiTimeoutError
    )

    assert isinstance(error, TimeoutError)
    assert (len(stub.requests), len(waits)) == (3, 2)


def dribble(server, connection):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not server.release.wait(0.01):
        connection.sendall(b"a")


def dribble_body(server, connection):
    connection.recv(65536)
    connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n")
    while not server.release.wait(0.01):
        connection.sendall(b" ")


def dribble_gzip(server, connection):
    connection.recv(65536)
    connection.sendall(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 90000\r\n\r\n")
    for byte in gzip.compress(os.urandom(80_000)):
        connection.sendall(bytes([byte]))
        server.release.wait(0.01)


def hang(server, connection):
    connection.recv(65536)
    server.arrived.set()
    server.release.wait(PATIENCE)


@pytest.mark.parametrize("behave", [dribble, dribble_body, dribble_gzip, hang])
def test_the_bound_holds_against_any_server(raw, client, behave):
    server = raw(behave)
    began_at = time.monotonic()

    failure(lambda: client.get_training_run(config_of(server), RUN, timeout=0.3), ApiTimeoutError)

    assert 0.25 < time.monotonic() - began_at < PATIENCE / 2
    assert server.accepted == 1


def test_the_body_of_an_error_is_bound_too(raw, client):
    def behave(server, connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 90000\r\n\r\n")
        while not server.release.wait(0.01):
            connection.sendall(b" ")

    failure(
        lambda: client.get_training_run(config_of(raw(behave)), RUN, timeout=0.3), ApiServerError
    )


def test_a_bound_that_has_passed_sends_nothing(stub, client):
    failure(lambda: client.get_training_run(config_of(stub), RUN, timeout=1e-9), ApiTimeoutError)

    assert stub.requests == []


@pytest.mark.parametrize("behave", [dribble, dribble_body, hang])
def test_close_ends_the_calls_under_way(raw, behave):
    def told(server, connection):
        server.arrived.set()
        behave(server, connection)

    server = raw(told)
    client = rest.RestClient()
    call = in_thread(lambda: failure(lambda: client.get_training_run(config_of(server), RUN)))
    assert server.arrived.wait(PATIENCE)

    client.close()
    client.close()

    error = call.result(PATIENCE / 2)
    assert type(error) is ApiConnectionError
    assert "closed" in str(error)
    later = failure(lambda: client.get_training_run(config_of(server), RUN), ApiConnectionError)
    assert "closed" in str(later)
    assert server.accepted == 1


def test_close_wakes_a_wait_between_two_tries(stub):
    client = rest.RestClient()
    stub.will(failing(503, Retry_After="15"))
    call = in_thread(lambda: failure(lambda: client.get_training_run(config_of(stub), RUN)))
    assert stub.arrived.wait(PATIENCE)

    client.close()

    assert type(call.result(PATIENCE / 2)) is ApiConnectionError
    assert len(stub.requests) == 1


# TLS


def test_close_ends_a_hanging_tls_handshake_at_once(raw, client):
    server = raw(hang)
    config = Config(KEY, f"https://127.0.0.1:{server.port}", connect_timeout=PATIENCE)
    call = in_thread(lambda: failure(lambda: client.get_training_run(config, RUN)))
    assert server.arrived.wait(PATIENCE)

    client.close()

    assert type(call.result(PATIENCE / 2)) is ApiConnectionError


def test_a_hanging_tls_handshake_is_bound(raw, client, waits):
    config = Config(KEY, f"https://127.0.0.1:{raw(hang).port}", connect_timeout=0.1)

    failure(lambda: client.get_training_run(config, RUN), ApiTimeoutError)

    assert len(waits) == 2


def test_a_server_without_tls_is_a_connection_error(stub, client):
    config = Config(KEY, stub.url.replace("http", "https"))

    failure(lambda: client.get_training_run(config, RUN), ApiConnectionError)

    assert stub.requests == []


@pytest.fixture
def certificate(tmp_path):
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not here")
    files = (tmp_path / "cert.pem", tmp_path / "key.pem")
    subprocess.run(
        [
            *(tool, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return files


def test_tls_is_verified_spoken_and_ended_by_close(stub, client, certificate, monkeypatch):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    stub.server.socket = context.wrap_socket(stub.server.socket, server_side=True)
    url = stub.url.replace("http", "https")
    stub.will(as_json(RUN_JSON), stub.hang)

    error = failure(lambda: client.get_training_run(Config(KEY, url), RUN), ApiConnectionError)
    assert "certificate verify failed" in str(error)

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    trusting = rest.RestClient()
    assert trusting.get_training_run(Config(KEY, url), RUN).training_run_id == RUN
    stub.arrived.clear()
    call = in_thread(lambda: failure(lambda: trusting.get_training_run(Config(KEY, url), RUN)))
    assert stub.arrived.wait(PATIENCE)
    trusting.close()
    assert type(call.result(PATIENCE / 2)) is ApiConnectionError


# What real servers answered


def test_every_sample_comes_through(stub, client):
    config = config_of(stub)
    read = {
        "run_get": lambda: client.get_training_run(config, RUN).training_run_id,
        "runs_list": lambda: client.list_training_runs(config).training_runs,
        "run_checkpoints": lambda: client.list_checkpoints(config, RUN),
        "user_checkpoints": lambda: client.list_checkpoints(config, RUN),
        "weights_info": lambda: client.get_weights_info(config, PATH),
    }
    names = [path.name for path in DATA.glob("*.json")]

    for kind, call in read.items():
        found = [name for name in names if kind in name]
        assert found
        for name in found:
            stub.will((200, {"Content-Type": "application/json"}, (DATA / name).read_bytes()))
            assert call()


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name
        for path in DATA.glob("*.json")
        if re.search("session|healthz|capab|config|get_info", path.name)
    ),
)
def test_an_answer_to_another_question_is_refused(stub, client, name):
    config = config_of(stub)
    stub.will((200, {}, (DATA / name).read_bytes()))

    failure(lambda: client.get_training_run(config, RUN), ApiResponseError)
    failure(lambda: client.list_training_runs(config), ApiResponseError)
    failure(lambda: client.list_checkpoints(config, RUN), ApiResponseError)


def recorded():
    for file in sorted(DATA.glob("*_errors.txt")):
        for block in file.read_text().split("## ")[1:]:
            title, command, answer = block.split("\n", 2)
            if answer.startswith("HTTP/"):
                head, _, body = answer.partition("\n\n")
                yield pytest.param(command, head, body.strip(), id=f"{file.stem} {title}")


CLASSES = {
    307: ApiStatusError,
    400: ApiStatusError,
    401: ApiAuthenticationError,
    403: ApiPermissionError,
    404: ApiNotFoundError,
    422: ApiStatusError,
    500: ApiServerError,
}


@pytest.mark.parametrize(("command", "head", "body"), list(recorded()))
def test_every_recorded_answer_has_its_error_or_value(stub, client, command, head, body):
    status = int(head.split()[1])
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    del headers["content-length"]
    stub.will((status, headers, body.encode()))
    config = config_of(stub)
    if "weights_info" in command:
        call = lambda: client.get_weights_info(config, PATH)  # noqa: E731
    elif "/checkpoints" in command:
        call = lambda: client.list_checkpoints(config, RUN)  # noqa: E731
    elif re.search(r"/training_runs/\w", command):
        call = lambda: client.get_training_run(config, RUN)  # noqa: E731
    else:
        call = lambda: client.list_training_runs(config)  # noqa: E731

    if status == 200:
        assert call() is not None
        return
    error = failure(call)

    assert type(error) is CLASSES[status]
    assert error.status == status
    assert len(stub.requests) == (3 if status == 500 else 1)
    if body.startswith("{"):
        said = json.loads(body)["detail"]
        assert (said if isinstance(said, str) else said[0]["msg"]) in error.detail
    elif status == 500:
        assert error.detail == "Internal Server Error"
