"""The REST client's sessions: connections, accounts, proxies, forks, and what importing does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.http_servers import KEY, PATH, RUN, RUN_JSON, as_json, config_of, failing, failure

import tinkex
from tinkex import rest
from tinkex.config import Config
from tinkex.errors import ApiConnectionError, ApiNotFoundError, ApiStatusError


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


def refuse_tunnels(asked):
    """A proxy that notes what it is asked for and lets nothing through."""

    def behave(server, connection):
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    return behave


def test_a_proxy_of_the_environment_is_used(raw, client, monkeypatch):
    def find(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    asked = []
    monkeypatch.setenv("https_proxy", raw(refuse_tunnels(asked)).url)
    config = Config(KEY, "https://tinker.invalid")

    failure(lambda: client.get_training_run(config, RUN), ApiConnectionError)
    before = len(asked)
    monkeypatch.setenv("no_proxy", "tinker.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", find)
    failure(lambda: rest.RestClient().get_training_run(config, RUN), ApiConnectionError)

    assert all(each.startswith(b"CONNECT tinker.invalid:443 ") for each in asked)
    assert len(asked) == before > 0
    assert KEY.encode() not in b"".join(asked)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_reached_by_no_proxy(stub, raw, client, monkeypatch, host):
    asked = []
    proxy = raw(refuse_tunnels(asked)).url
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)

    client.get_training_run(Config(KEY, stub.url.replace("127.0.0.1", host)), RUN)

    assert asked == []


def test_a_proxy_that_cannot_be_used_is_a_connection_error(client, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    config = Config(KEY, "https://tinker.invalid")

    failure(lambda: client.get_training_run(config, RUN), ApiConnectionError)


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
