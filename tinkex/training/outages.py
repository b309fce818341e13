"""Notices that a server was down while a run was trained: the run may be back at an older state."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies

from ..config import Config
from ..errors import AlreadyPendingError, ApiConnectionError, MonitorStoppedError
from ..policy import Policy
from ..polling.sweeper import Sweeper
from ..recovery.controller import Controller
from ..recovery.holds import DOWN, Breaker, Holds
from ..recovery.incident import Incident
from ..runs.ledger import Effect, Ledger
from ..runs.record import Record
from ..runtime.scheduler import Clock
from ..signals import Cause

logger = logging.getLogger(__name__)

#: Seconds between two connections that are opened to look, at the least, and for one to open.
LOOK_EVERY = 1.0
CONNECT_TIMEOUT = 5.0

#: Seconds until a server that is back is polled a second time.
FIRST_PAUSE = 0.1

_PORTS = {"https": 443, "http": 80}


@dataclass(slots=True, eq=False)
class _Server:
    """A server, its open connection, the runs trained on it, and those that wait for it."""

    base_url: str
    trained: dict[Record, Ledger] = field(default_factory=dict)
    waiting: list[Record] = field(default_factory=list)
    connection: socket.socket | None = None


@dataclass(slots=True, eq=False)
class Outages:
    """Keeps a bare connection to each server on which a run is trained, without a request.

    It closes when the server's process ends. A proxy that closes idle connections accepts the
    next one at once, and means nothing; where that is refused, the server is down. What it comes
    back with cannot be known: servers were seen to come back with an older checkpoint, and to say
    nothing of it. So the runs that are trained on it are restored where their loops last saved.

    Threads: every method is safe from any thread; each server has one named `tinkex-outage`.
    """

    policy: Policy
    _: KW_ONLY
    clock: Clock
    sweeper: Sweeper
    controller: Controller
    holds: Holds[Incident]
    # Guarded by _lock: _servers by base URL, with all that is in them, and _threads.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _servers: dict[str, _Server] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _closed: threading.Event = field(default_factory=threading.Event)

    def watch(self, record: Record, ledger: Ledger) -> None:
        """A run begins to be trained; it is looked after until the monitor stops."""
        config = record.config
        if not isinstance(config, Config) or self.policy.on_doubt == "ignore":
            return
        with self._lock:
            if self._closed.is_set():
                return
            server = self._servers.get(config.base_url)
            if server is not None:
                server.trained[record] = ledger
                return
            if get_environ_proxies(config.base_url):
                return  # a connection past the proxy says nothing
            server = self._servers[config.base_url] = _Server(config.base_url, {record: ledger})
            thread = threading.Thread(
                target=self._look, args=(server,), name="tinkex-outage", daemon=True
            )
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
        with suppress(RuntimeError):  # no thread is to be had: then only polls tell
            thread.start()

    def close(self) -> None:
        """Look no more."""
        with self._lock:
            self._closed.set()
            for server in self._servers.values():
                _cut(server.connection)

    def join(self, timeout: float) -> None:
        """Wait for the threads of what is closed, at most `timeout` seconds each."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout)

    def _look(self, server: _Server) -> None:
        was_up = is_down = False
        last = float("-inf")
        while not self._closed.is_set():
            refused = False
            connection: socket.socket | None = None
            try:
                connection = socket.create_connection(
                    _address(server.base_url), CONNECT_TIMEOUT, all_errors=True
                )
            except ExceptionGroup as group:
                # Of one address or another; what else fails is our own network, most likely.
                refused = group.subgroup((ConnectionRefusedError, ConnectionResetError)) is not None
            except (OSError, UnicodeError):
                pass  # no such host
            if connection is not None:
                was_up = True
                if is_down:
                    is_down = False
                    self._came_back(server)
                self._wait_for_end(server, connection)
            elif refused and was_up and not is_down:
                is_down = True
                try:
                    self._went_down(server)
                except Exception:
                    logger.exception("%s: its outage could not be dealt with", server.base_url)
            # The first time that a connection ends it is opened again at once.
            now = self.clock.monotonic()
            if connection is None or now - last < LOOK_EVERY:
                self._closed.wait(LOOK_EVERY)
            last = now

    def _wait_for_end(self, server: _Server, connection: socket.socket) -> None:
        """Wait until the connection is closed, by the server or by `close`."""
        with connection, suppress(OSError):
            with self._lock:
                server.connection = connection
                if self._closed.is_set():
                    return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.settimeout(None)
            while connection.recv(1024):
                pass
        with self._lock:
            server.connection = None

    def _went_down(self, server: _Server) -> None:
        """Restore the runs that may have lost something, as soon as the server answers."""
        with self._lock:
            trained = list(server.trained.items())
        shown = ApiConnectionError(f"{server.base_url}: the server went down")
        waiting = []
        for record, ledger in trained:
            if ledger.has_changed() and not ledger.is_open():
                logger.warning(
                    "run %s: %s; the next loop goes back to its save", record.run_id, shown
                )
                ledger.submit(record.run_id, Effect.GRADIENT)
            elif ledger.has_changed() and self._doubt(record, shown):
                waiting.append(record)
        with self._lock:
            server.waiting = waiting

    def _doubt(self, record: Record, error: ApiConnectionError) -> bool:
        """Have a run restored, where the policy says so and it can be; return whether."""
        run_id, history = record.run_id, record.history
        has_step = history.cursors or history.has_resume_step or history.cursor(history.source)
        left: str | None = None
        if self.policy.on_doubt == "warn":
            left = "the policy field on_doubt has it left as it is"
        elif not has_step:
            left = "no checkpoint has a step to go back to"
        elif self.controller.is_budget_spent(record):
            left = "it was recovered too often to be restored once more"
        follows = left or "it is restored"
        logger.warning(
            "run %s: %s; it may come back with an older state: %s", run_id, error, follows
        )
        if left is not None:
            return False
        # First the hold: no attempt is to be spent on a server that is down.
        self.holds.hold(record.config, error, reason=DOWN, polls_fail=True, apply=lambda: None)
        with suppress(AlreadyPendingError, MonitorStoppedError):
            self.controller.recover(record, Cause.ROLLED_BACK, run_id, error)
        return True

    def _came_back(self, server: _Server) -> None:
        """Poll until the server answers, which lets the recoveries begin."""
        with self._lock:
            waiting, server.waiting = server.waiting, []
        pause = FIRST_PAUSE
        while waiting and not self._closed.is_set():
            self.sweeper.poll(waiting[0])
            self._closed.wait(pause)
            pause = LOOK_EVERY
            waiting = [r for r in waiting if self.holds.breaker(r.config) is not Breaker.CLOSED]


def _address(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _cut(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
