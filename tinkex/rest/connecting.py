"""Opens connections within a bound: the look-up of a name and all its addresses share the time."""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from time import monotonic
from typing import Any, Protocol

#: What `socket.getaddrinfo` returns.
Addresses = list[tuple[Any, ...]]

_UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK}

# The look-ups under way, one for each process, host and port, however many wait for it. Each
# step on it is atomic, so that no lock can be left behind in a forked child.
_lookups: dict[tuple[int, str, int], Future[Addresses | Exception]] = {}


class Waiting(Protocol):
    """What waits for a connection, and may be ended by another thread meanwhile."""

    @property
    def ended(self) -> Exception | None:
        """The error with which another thread ended the wait, if one did."""

    def attach(self, connection: socket.socket, *, spare: bool = False) -> None:
        """Remember a socket on which is waited."""

    def on_end(self, wake: Callable[[], object]) -> None:
        """Have `wake` called when the wait is to end."""


def opened(
    host: str,
    port: int,
    seconds: float,
    waiting: Waiting,
    *,
    options: Sequence[tuple[Any, ...]] = (),
    source: tuple[str, int] | None = None,
) -> socket.socket:
    """Open a connection in at most so many seconds; `OSError` where that fails.

    Each address has an equal share of the time that is left, so that none which is silent keeps
    the next one from being tried.
    """
    deadline = monotonic() + seconds
    found = _addresses(host, port, seconds, waiting)
    failed: OSError = OSError("the name has no address")
    for index, (family, kind, protocol, _, address) in enumerate(found):
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError(f"timed out, {index} of {len(found)} addresses were tried")
        if waiting.ended is not None:
            break
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:  # such as a family that this machine does not have
            failed = error
            continue
        try:
            for option in options:
                connection.setsockopt(*option)
            if source is not None:
                connection.bind(source)
            connection.setblocking(False)
            begun = connection.connect_ex(address)
            # Only now can another thread end the wait. A duplicate: wrapping in TLS detaches the
            # original from this socket object.
            waiting.attach(connection.dup(), spare=True)
            _wait_until_open(connection, begun, left / (len(found) - index))
        except OSError as error:
            connection.close()
            failed = error
        except BaseException:  # an interrupt: the socket is closed, and it goes on
            connection.close()
            raise
        else:
            return connection
    raise failed


def _wait_until_open(connection: socket.socket, begun: int, seconds: float) -> None:
    if begun in _UNDER_WAY:
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_WRITE)
            if not selector.select(seconds):
                raise TimeoutError("timed out")
        begun = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if begun:
        raise OSError(begun, os.strerror(begun))


def _addresses(host: str, port: int, seconds: float, waiting: Waiting) -> Addresses:
    """The addresses of a host; a name is looked up on a thread of its own, since that may hang."""
    host = host.strip("[]")
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return _looked_up(host, port)
    key = (os.getpid(), host, port)
    future: Future[Addresses | Exception] = Future()
    lookup = _lookups.setdefault(key, future)
    if lookup is future:
        try:
            threading.Thread(
                target=_look_up, args=(key, future), name="tinkex-resolve", daemon=True
            ).start()
        except RuntimeError as error:  # no thread is to be had
            _lookups.pop(key, None)
            future.set_result(OSError(str(error)))
    over = threading.Event()
    lookup.add_done_callback(lambda _: over.set())
    waiting.on_end(over.set)
    over.wait(seconds)
    if not lookup.done():
        raise TimeoutError(f"the address of {host} was not found in {seconds:g} s")
    found = lookup.result()
    if isinstance(found, Exception):
        raise copy(found)  # each waiting thread has its own, with its own stack frames
    return found


def _look_up(key: tuple[int, str, int], future: Future[Addresses | Exception]) -> None:
    _, host, port = key
    found: Addresses | Exception
    try:
        found = _looked_up(host, port)
    except Exception as error:
        found = error.with_traceback(None)
    _lookups.pop(key, None)
    future.set_result(found)


def _looked_up(host: str, port: int) -> Addresses:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
