"""Bounds that hold against any server, calls that are cut or closed, and TLS."""

from __future__ import annotations

import ssl
import time

import pytest
import trustme
from support.http_servers import (
    KEY,
    RUN,
    RUN_JSON,
    as_json,
    config_of,
    dribble,
    dribble_body,
    dribble_gzip,
    failing,
    failure,
    hang,
    in_thread,
)
from support.recorder import PATIENCE

from tinkex import rest
from tinkex.config import Config
from tinkex.errors import ApiConnectionError, ApiServerError, ApiTimeoutError

# Bounds, cutting and closing


def test_a_silent_server_is_waited_for_no_longer_than_the_read_timeout(stub, client, waits):
    stub.will(stub.hang)

    error = failure(
        lambda: client.get_training_run(config_of(stub, read_timeout=0.05), RUN), ApiTimeoutError
    )

    assert isinstance(error, TimeoutError)
    assert (len(stub.requests), len(waits)) == (3, 2)


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
def authority(tmp_path):
    """A certificate authority of its own, with the file that makes it trusted."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    return made, str(tmp_path / "authority.pem")


def test_tls_is_verified_spoken_and_ended_by_close(stub, client, authority, monkeypatch):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca, trusted = authority
    ca.issue_cert("127.0.0.1").configure_cert(context)
    stub.server.socket = context.wrap_socket(stub.server.socket, server_side=True)
    url = stub.url.replace("http", "https")
    stub.will(as_json(RUN_JSON), stub.hang)

    error = failure(lambda: client.get_training_run(Config(KEY, url), RUN), ApiConnectionError)
    assert "certificate verify failed" in str(error)

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", trusted)
    trusting = rest.RestClient()
    assert trusting.get_training_run(Config(KEY, url), RUN).training_run_id == RUN
    stub.arrived.clear()
    call = in_thread(lambda: failure(lambda: trusting.get_training_run(Config(KEY, url), RUN)))
    assert stub.arrived.wait(PATIENCE)
    trusting.close()
    assert type(call.result(PATIENCE / 2)) is ApiConnectionError
