"""Servers on this machine for the REST client, good ones and bad ones, and what reads errors."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import urllib3

from tinkex.config import Config
from tinkex.errors import RestError

from .recorder import PATIENCE

KEY = "tml-0123456789abcdef-secret"
RUN = "3f0c1e2d:train:0"
PATH = f"tinker://{RUN}/weights/000050"
RUN_JSON = {"training_run_id": RUN, "base_model": "m", "corrupted": False}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


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


def say(*pieces):
    def behave(server, connection):
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)

    return behave


def reset(server, connection):
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


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
