"""HTTP connections with a time limit for a whole call, which another thread can end early.

`requests` limits the wait for each piece of an answer, not for the whole: a server that sends
one byte now and then holds a caller for ever. Here each read of a socket waits at most for the
rest of the call's time.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import requests.adapters
import urllib3
import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from ..config import Config
from ..errors import RestError
from .connecting import opened

_BUFFER_BYTES = 64 * 1024

#: Seconds for a bare connection to open.
CONNECT_TIMEOUT = 5.0

_PORTS = {"https": 443, "http": 80}

# The call for which this thread makes a request; urllib3 has no way to pass it to a socket.
_current = threading.local()


class Call:
    """One call of the API with its retries, while it is under way.

    Threads: the calling thread does the work; `end` may be called from any other.
    """

    def __init__(self, where: str, timeout: float, config: Config) -> None:
        self.where = where
        self._config = config
        self._deadline = monotonic() + timeout
        self._response: http.client.HTTPResponse | None = None
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._ended: RestError | None = None
        self._socket: socket.socket | None = None
        self._spare: socket.socket | None = None
        self._wake: Callable[[], object] | None = None

    @property
    def ended(self) -> RestError | None:
        """The error with which another thread ended this call, if one did."""
        return self._ended

    def left(self) -> float:
        """How many seconds are left; negative after the time limit."""
        return self._deadline - monotonic()

    def connect_wait(self) -> float:
        """How many seconds opening a connection may take; `TimeoutError` if none is left."""
        return self._at_most(self._config.connect_timeout)

    def read_wait(self) -> float:
        """How many seconds the next read may wait; `TimeoutError` if none is left."""
        return self._at_most(self._config.read_timeout)

    def _at_most(self, seconds: float) -> float:
        left = self.left()
        if left <= 0:
            raise TimeoutError("the time limit of the whole call has passed")
        return min(seconds, left)

    def end(self, error: RestError) -> None:
        """Make the call raise `error`; a wait for the server ends at once."""
        with self._lock:
            if self._ended is None:
                self._ended = error
            if self._socket is not None:
                _shut(self._socket)
            wake = self._wake
        if wake is not None:
            wake()

    def on_end(self, wake: Callable[[], object]) -> None:
        """Have `end` call this, at once where it was called before."""
        with self._lock:
            self._wake = wake
            is_over = self._ended is not None
        if is_over:
            wake()

    def attach(self, connection: socket.socket, *, spare: bool = False) -> None:
        """Remember the socket on which this call waits; the call itself closes a `spare` one."""
        with self._lock:
            self._drop_spare_locked()
            self._socket = connection
            self._spare = connection if spare else None
            if self._ended is not None:
                _shut(connection)

    def answered_by(self, response: http.client.HTTPResponse) -> None:
        """Remember the answer that this call reads; for the calling thread alone."""
        self._response = response

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """In the `with` block, the sockets that this thread uses belong to this call."""
        _current.call = self
        try:
            yield
        finally:
            _current.call = None
            if self._response is not None:
                # A pooled connection keeps it until the next one, and a server may echo the key.
                self._response.headers = self._response.msg = None  # type: ignore[assignment]  # as it was before it was read
                self._response = None
            with self._lock:
                # From here on the socket may be in the pool, or in use by another call.
                self._socket = None
                self._drop_spare_locked()

    def _drop_spare_locked(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None


def _shut(connection: socket.socket) -> None:
    # Not the TLS socket's own method: that would take TLS away while a reader uses it.
    with suppress(OSError):  # already closed
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _BoundedReader(io.RawIOBase):
    """Reads a socket; each read waits at most for the rest of the call's time."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, call: Call) -> None:
        self._raw = raw
        self._connection = connection
        self._call = call

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._call.read_wait())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    """An answer whose reads, from the status line on, have the current call's time limit."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        call: Call | None = getattr(_current, "call", None)
        if call is not None:
            call.attach(sock)
            call.answered_by(self)
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_BoundedReader(raw, sock, call), _BUFFER_BYTES)


class _Bounded:
    """Opens connections in the current call's time; the call can be ended meanwhile."""

    def _new_conn(self) -> socket.socket:
        call: Call = _current.call
        made: Any = self  # a mixin: urllib3's class is beside it
        try:
            connection = opened(
                made._dns_host,
                made.port,
                call.connect_wait(),
                call,
                options=made.socket_options or (),
                source=made.source_address,
            )
            connection.settimeout(call.connect_wait())  # for a handshake of TLS
        except TimeoutError as error:
            raise ConnectTimeoutError(made, str(error)) from error
        except OSError as error:
            raise NewConnectionError(made, str(error)) from error
        return connection


class _HttpConnection(_Bounded, urllib3.connection.HTTPConnection):
    response_class = _BoundedResponse


class _HttpsConnection(_Bounded, urllib3.connection.HTTPSConnection):
    response_class = _BoundedResponse


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


_POOLS = {"http": _HttpPool, "https": _HttpsPool}


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """A `requests` adapter that uses the connections of this module, to proxies too."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Prepare the pools of connections through a proxy; those of SOCKS are not changed."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def pool_for(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        proxies: dict[str, str],
    ) -> urllib3.HTTPConnectionPool:
        """The pool of connections for a request and all others to its server."""
        made: Any = self.get_connection_with_tls_context(request, verify, proxies=proxies)
        pool: urllib3.HTTPConnectionPool = made
        self.cert_verify(pool, request.url, verify, None)  # type: ignore[no-untyped-call]  # it has none
        return pool


# Bare connections, on which nothing is sent


def connected(base_url: str) -> tuple[socket.socket | None, bool]:
    """A new connection, or whether the server is down; not where our own network is."""
    try:
        address = _address(base_url)
        return socket.create_connection(address, CONNECT_TIMEOUT, all_errors=True), False
    except ExceptionGroup as group:
        # Of one address or another; what else fails is our own network, most likely.
        down = (ConnectionRefusedError, ConnectionResetError, TimeoutError)
        return None, group.subgroup(down) is not None
    except (OSError, UnicodeError):
        return None, False  # no such host


def _address(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection on which nothing is sent."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def cut(connection: socket.socket | None) -> None:
    """End a connection, so that a thread which reads it goes on."""
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
