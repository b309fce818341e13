"""A client keeps the connections of the accounts that are used, and lets others go."""

from __future__ import annotations

import json
import threading

import pytest
from support.http_servers import KEY, RUN, RUN_JSON, config_of, in_thread
from support.recorder import PATIENCE

from tinkex import rest
from tinkex.config import Config
from tinkex.rest import accounts
from tinkex.rest import client as client_module


class Counting:
    """Serves any number of requests per connection, and knows how many connections are open."""

    def __init__(self):
        self.changed = threading.Condition()
        self.open = 0
        self.hung = threading.Event()

    def __call__(self, server, connection):
        self.count(1)
        try:
            while asked := connection.recv(65536):
                if b"/hang?" in asked:
                    self.hung.set()
                    server.release.wait(PATIENCE)
                body = json.dumps(RUN_JSON).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
        finally:
            self.count(-1)

    def count(self, more):
        with self.changed:
            self.open += more
            self.changed.notify_all()

    def comes_to(self, number):
        with self.changed:
            assert self.changed.wait_for(lambda: self.open == number, PATIENCE), self.open


@pytest.fixture
def counting(raw):
    counted = Counting()
    counted.server = raw(counted)
    return counted


def keyed(server, number):
    return Config(f"tml-key-number-{number:06d}", server.url)


def test_renewed_keys_leave_few_connections_open(counting, client):
    for number in range(3 * accounts.MOST_UNUSED):
        client.get_training_run(keyed(counting.server, number), RUN)

    counting.comes_to(accounts.MOST_UNUSED)


def test_the_accounts_that_were_used_last_are_kept(counting, client):
    first = keyed(counting.server, 0)
    client.get_training_run(first, RUN)
    for number in range(1, 3 * accounts.MOST_UNUSED):
        client.get_training_run(keyed(counting.server, number), RUN)
        client.get_training_run(first, RUN)

    assert counting.server.accepted == 3 * accounts.MOST_UNUSED


def test_an_account_nobody_uses_for_minutes_is_closed(counting, client, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(client_module, "monotonic", lambda: now[0])
    for number in range(5):
        client.get_training_run(keyed(counting.server, number), RUN)
    counting.comes_to(5)

    now[0] += accounts.LONGEST_UNUSED + 1.0
    client.get_training_run(keyed(counting.server, 5), RUN)

    counting.comes_to(1)


def test_an_account_that_is_in_use_is_not_closed(counting, client, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(client_module, "monotonic", lambda: now[0])
    long = in_thread(lambda: client.get_training_run(keyed(counting.server, 0), "hang"))
    assert counting.hung.wait(PATIENCE)

    for number in range(1, 2 * accounts.MOST_UNUSED):
        now[0] += accounts.LONGEST_UNUSED + 1.0
        client.get_training_run(keyed(counting.server, number), RUN)
    counting.comes_to(2)
    counting.server.release.set()

    assert long.result(PATIENCE).base_model == "m"


def test_configs_that_differ_in_time_limits_share_their_connections(counting, client):
    for seconds in (1.0, 2.0):
        client.get_training_run(config_of(counting.server, read_timeout=seconds), RUN)

    assert counting.server.accepted == 1


def test_configs_that_differ_in_headers_do_not(counting, client):
    for value in ("a", "b"):
        client.get_training_run(config_of(counting.server, headers={"X-Team": value}), RUN)

    assert counting.server.accepted == 2


def test_a_client_that_is_looked_into_shows_no_key(counting, client):
    client.get_training_run(config_of(counting.server, headers={"X-Other": "secret-too"}), RUN)

    for shown in (repr(vars(client)), repr(vars(vars(client)["_accounts"]))):
        assert KEY not in shown
        assert "secret-too" not in shown


def test_a_project_of_the_config_is_asked_for_in_lists_alone(stub):
    client = rest.RestClient()
    for project, sent in (("proj/1 &", "&project_id=proj%2F1%20%26"), (None, "")):
        config = config_of(stub, project_id=project)
        stub.will((200, {}, b'{"training_runs": []}'))
        client.list_training_runs(config, limit=3)
        stub.will((200, {}, json.dumps(RUN_JSON).encode()))
        client.get_training_run(config, RUN)

        listed, single = [path for _, path, *_ in stub.requests[-2:]]
        assert listed == f"/api/v1/training_runs?limit=3&offset=0&access_scope=owned{sent}"
        assert "project_id" not in single
    client.close()
