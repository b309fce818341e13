"""The most requests per second that the server can answer, to show that it is not the limit.

`python -m tests.benchmarks.ceiling URL SECONDS` asks on eight connections, one request at a time
on each, with as little work as Python allows, and prints answers per second.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from urllib.parse import urlsplit

from .account import run_id
from .variants import CONNECTIONS, PAGE_SIZE

__all__ = ["ceiling"]


def ceiling(url, path, seconds):
    """Answers per second to the same request."""
    parts = urlsplit(url)
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    poll = select.epoll()
    sockets = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((parts.hostname, parts.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
    buffer = memoryview(bytearray(1 << 20))
    size = _answer_size(next(iter(sockets.values())), request, buffer)
    left = dict.fromkeys(sockets, size)
    for connection in sockets.values():
        connection.sendall(request)
    answers = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for number, _ in poll.poll():
            connection = sockets[number]
            left[number] -= connection.recv_into(buffer)
            if not left[number]:
                answers += 1
                left[number] = size
                connection.send(request)
    for connection in sockets.values():
        connection.close()
    return answers / (time.perf_counter() - began)


def _answer_size(connection, request, buffer):
    connection.sendall(request)
    got = connection.recv_into(buffer)
    head = bytes(buffer[:got]).split(b"\r\n\r\n", 1)[0]
    size = len(head) + 4 + int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0])
    while got < size:
        got += connection.recv_into(buffer)
    return size


def _main(url, seconds):
    runs = "/api/v1/training_runs"
    found = {
        "runs": ceiling(url, f"{runs}/{run_id(7)}?access_scope=owned", seconds),
        "pages": ceiling(url, f"{runs}?limit={PAGE_SIZE}&offset=0", seconds),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
