"""The fixtures of the tests of the REST client."""

from __future__ import annotations

import os

import pytest
from support.http_servers import RUN_JSON, RawServer, Stub, as_json

from tinkex import rest


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
