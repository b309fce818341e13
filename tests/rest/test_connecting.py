"""The bound of a call holds while a name is looked up and its addresses are tried."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import ExitStack

import pytest
from support.http_servers import KEY, RUN, config_of, failure, in_thread
from support.recorder import PATIENCE

from tinkex import rest
from tinkex.config import Config
from tinkex.errors import ApiConnectionError, ApiTimeoutError
from tinkex.rest import connecting, sockets


def to(*ports):
    """The addresses of a name: this machine, with one port after the other."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]


@pytest.fixture
def names(monkeypatch):
    """Decides what look-ups of names find; numbers are left alone."""
    real = socket.getaddrinfo

    def stub(find):
        def getaddrinfo(host, port, *args, **kwargs):
            return find() if host == "localhost" else real(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return stub


@pytest.fixture
def silent():
    """The port of a listener that accepts nothing and whose queue is full: it drops a SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def named(**options):
    return Config(KEY, "http://localhost:9", **options)


# Addresses


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_addresses_that_drop_everything_share_the_bound_of_the_call(
    names, client, silent, monkeypatch
):
    clock, waited = Clock(), []

    class Silent(selectors.DefaultSelector):
        def select(self, timeout=None):
            waited.append(timeout)
            clock.now += timeout
            return []

    monkeypatch.setattr(selectors, "DefaultSelector", Silent)
    for module in (sockets, connecting):
        monkeypatch.setattr(module, "monotonic", clock)
    names(lambda: to(*[silent] * 8))

    failure(lambda: client.get_training_run(named(), RUN, timeout=5.0), ApiTimeoutError)

    assert len(waited) == 8
    assert sum(waited) == pytest.approx(5.0)


def test_a_silent_address_leaves_time_for_the_next(names, client, stub, silent):
    names(lambda: to(silent, stub.server.server_port))

    run = client.get_training_run(named(connect_timeout=0.6), RUN, timeout=0.6)

    assert run.training_run_id == RUN


def test_an_address_that_refuses_costs_nothing(names, client, stub):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    names(lambda: to(port, port, stub.server.server_port))

    assert client.get_training_run(named(), RUN, timeout=PATIENCE).training_run_id == RUN


def test_a_silent_proxy_is_a_server_that_does_not_answer_in_time(client, silent, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent}")
    config = Config(KEY, "https://tinker.invalid", connect_timeout=0.05)

    failure(lambda: client.get_training_run(config, RUN, timeout=PATIENCE), ApiTimeoutError)


def test_close_ends_a_call_that_waits_for_a_connection(names, client, silent, monkeypatch):
    begun = threading.Event()

    class Told(socket.socket):
        def connect_ex(self, address):
            begun.set()
            return super().connect_ex(address)

    monkeypatch.setattr(connecting.socket, "socket", Told)
    names(lambda: to(silent, silent))
    config = named(connect_timeout=4 * PATIENCE)
    call = in_thread(lambda: failure(lambda: client.get_training_run(config, RUN, timeout=60.0)))
    assert begun.wait(PATIENCE)

    client.close()

    assert "closed" in str(call.result(PATIENCE))


# Names


def test_a_name_that_is_looked_up_for_ever_holds_a_call_no_longer_than_its_bound(names, client):
    release, asked = threading.Event(), []

    def find():
        asked.append(threading.current_thread())
        release.wait(4 * PATIENCE)
        return to(9)

    names(find)
    try:
        calls = [
            in_thread(lambda: failure(lambda: client.get_training_run(named(), RUN, timeout=0.2)))
            for _ in range(6)
        ]
        errors = [call.result(PATIENCE) for call in calls]
    finally:
        release.set()
    asked[0].join(PATIENCE)

    assert {type(error) for error in errors} == {ApiTimeoutError}
    assert [thread.name for thread in asked] == ["tinkex-resolve"]
    assert asked[0].daemon


def test_close_ends_a_call_that_waits_for_a_name(names):
    client, release, asked = rest.RestClient(), threading.Event(), threading.Event()
    threads = []

    def find():
        threads.append(threading.current_thread())
        asked.set()
        release.wait(4 * PATIENCE)
        return to(9)

    names(find)
    try:
        config = named(connect_timeout=4 * PATIENCE)
        call = in_thread(
            lambda: failure(lambda: client.get_training_run(config, RUN, timeout=60.0))
        )
        assert asked.wait(PATIENCE)
        client.close()
        assert "closed" in str(call.result(PATIENCE))
    finally:
        release.set()
        threads[0].join(PATIENCE)


def test_an_unknown_name_is_a_connection_error_that_says_so(names, client):
    def find():
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    names(find)

    for _ in range(2):
        error = failure(lambda: client.get_training_run(named(), RUN), ApiConnectionError)
        assert "gaierror" in str(error)
        assert "no such name" in str(error)


def test_a_name_is_looked_up_again_for_the_next_connection(names, client, stub):
    asked = []

    def find():
        asked.append(1)
        return to(stub.server.server_port)

    names(find)
    for key in ("one-key", "another-key"):
        client.get_training_run(Config(key, "http://localhost:9"), RUN)

    assert len(asked) == 2


def test_where_no_thread_is_to_be_had_that_is_a_connection_error(names, client, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    names(lambda: to(9))
    monkeypatch.setattr(connecting.threading.Thread, "start", start)

    failure(lambda: client.get_training_run(named(), RUN), ApiConnectionError)


def test_a_number_is_not_looked_up_elsewhere(client, stub):
    before = set(threading.enumerate())

    client.get_training_run(config_of(stub), RUN)

    assert not [t for t in set(threading.enumerate()) - before if t.name == "tinkex-resolve"]
