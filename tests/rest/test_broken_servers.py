"""Servers that break HTTP, answer nonsense or repeat the key."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket

import pytest
from support.http_servers import (
    HEAD,
    KEY,
    RUN,
    RUN_JSON,
    as_json,
    config_of,
    failing,
    failure,
    reset,
    say,
)

from tinkex.config import Config
from tinkex.errors import (
    ApiConnectionError,
    ApiNotFoundError,
    ApiPermissionError,
    ApiResponseError,
    ApiStatusError,
    ApiTimeoutError,
)


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


def test_a_reason_is_not_taken_from_what_the_http_library_tries_first(stub, client, monkeypatch):
    def getresponse(*args):
        try:
            raise TypeError("no such argument")
        except TypeError:
            raise http.client.RemoteDisconnected("gone") from None

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", getresponse)

    error = failure(lambda: client.get_training_run(config_of(stub), RUN), ApiConnectionError)

    assert str(error).endswith("RemoteDisconnected: gone")


def test_a_host_that_cannot_be_is_a_connection_error(client):
    config = Config(KEY, f"https://{'a' * 70}.invalid")

    failure(lambda: client.get_training_run(config, RUN), ApiConnectionError)


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


# What is packed twice may be far more than the memory holds.
TWICE = gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0)


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
        ({}, b'{"training_run_id": %s}' % (b"9" * 5000), "training_run_id"),
        ({}, b"{}", "training_run_id"),
        ({}, json.dumps({**RUN_JSON, "corrupted": "true"}).encode(), "corrupted"),
        ({"Content-Encoding": "gzip"}, b"not gzip at all", "decompressed"),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"<html>", mtime=0), "<html>"),
        ({"Content-Encoding": "gzip, gzip"}, TWICE, "not JSON"),
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
