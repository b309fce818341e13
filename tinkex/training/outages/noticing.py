"""Notices that a server was down while a run was trained: the run may be back at an older state."""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from ...config import Config
from ...config.credentials import retold, secrets_of
from ...errors import ApiConnectionError
from ...polling.sweeper import Sweeper
from ...recovery.error_kinds import is_own_network
from ...recovery.holds import DOWN, Breaker, Holds
from ...recovery.incident import Incident
from ...rest.sockets import connected, cut, has_ended
from ...rest.transport import proxies_for
from ...runs.effects import Effect
from ...runs.record import Record
from ...runs.state import RunState
from ...runtime.scheduler import Clock
from ...runtime.waits import Waits
from ..submitting.futures import Races
from .evidence import Watched
from .settling import Settling

if TYPE_CHECKING:
    from ..ledger import Ledger

logger = logging.getLogger(__name__)

#: Seconds between two connections that are opened to look, at the least, and for one to open.
LOOK_EVERY = 1.0

#: Seconds until a server that is back is polled a second time.
FIRST_PAUSE = 0.1


@dataclass(slots=True, eq=False)
class _Server:
    """A server, its open connection, and the runs trained on it by their record.

    `is_down` from the beginning of an outage until it is settled, the last one at `settled_at`, in
    monotonic seconds; `is_network`: as far as is known it is our own network that is gone.
    `woken` is set when the thread has something to do.
    """

    base_url: str
    trained: dict[Record, Watched] = field(default_factory=dict)
    connection: socket.socket | None = None
    is_down: bool = False
    is_network: bool = False
    settled_at: float = -math.inf
    woken: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True, eq=False)
class Outages:
    """Notices that a server was down, and holds the requests of its runs until that is settled.

    A bare connection to each server on which a run is trained is kept open, without a request. It
    closes when the server's process ends. A proxy that closes idle connections accepts the next
    one at once, and means nothing; where that is refused, the server is down. Polls that fail
    twice in a row tell it too, and so does a request whose connection failed. When the server
    answers again, its runs are settled. Where it is our own network that was gone, nothing is to be
    settled: requests only wait until it is back.

    Of each run the first batch after its last `kept` saves is kept. A run that is stopped while
    it is held stays held.

    Threads: every method is safe from any thread; each server has one named `tinkex-outage`.
    """

    settling: Settling
    _: KW_ONLY
    kept: int
    clock: Clock
    waits: Waits
    races: Races
    sweeper: Sweeper
    holds: Holds[Incident]
    # Guarded by _lock: _servers by base URL, with each change of what is in them, and _threads.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _servers: dict[str, _Server] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def watch(self, record: Record, run_id: str, client: Any, ledger: Ledger) -> Watched | None:
        """A generation begins to be trained; it is looked after until the monitor stops."""
        config = record.config
        if not isinstance(config, Config):
            return None
        thread = None
        with self._lock:
            if self.settling.closed.is_set():
                return None
            server = self._servers.get(config.base_url)
            if server is None:
                server = self._servers[config.base_url] = _Server(config.base_url)
                thread = threading.Thread(
                    target=self._look, args=(server,), name="tinkex-outage", daemon=True
                )
                self._threads = [each for each in self._threads if each.is_alive()]
                self._threads.append(thread)
            known = server.trained.get(record)
            if known is None or known.ledger is not ledger:
                known = Watched(record, run_id, ledger, client, self.kept)
                if server.is_down:
                    self.races.hold(record)
                    known.hold(in_flight=False)
                server.trained[record] = known
        if thread is not None:
            try:
                thread.start()
            except RuntimeError:  # no thread is to be had: what would wait would never be let go
                with self._lock:
                    del self._servers[config.base_url]
                return None
        return known

    def poll_failed(self, record: Record, error: BaseException, since: float) -> None:
        """Polls of a run failed twice in a row, the first at `since`, in monotonic seconds.

        Where requests were answered meanwhile, it is the polls that fail, and not the server.
        """
        with self._lock:
            server = self._up_locked(record)
            if server is None or any(e.answered_at > since for e in server.trained.values()):
                return
        self._begin(server, error, is_network=is_own_network(error))

    def request_failed(self, record: Record, error: BaseException, since: float) -> None:
        """The connection of a request failed that was submitted at `since`, in monotonic seconds.

        Where that was before an outage was settled, it says nothing of another one.
        """
        with self._lock:
            server = self._up_locked(record)
            if server is None or since <= server.settled_at:
                return
        # In its own words only: the error itself goes on to the caller, with its stack frames.
        shown = retold(error, secrets_of(record.service, record.config))
        self._begin(server, shown, is_network=is_own_network(error))

    def _up_locked(self, record: Record) -> _Server | None:
        """The server on which a run is trained, unless it is down."""
        config = record.config
        server = self._servers.get(config.base_url) if isinstance(config, Config) else None
        is_known = server is not None and record in server.trained and not server.is_down
        return server if is_known else None

    def _begin(self, server: _Server, error: BaseException, *, is_network: bool) -> None:
        """An outage begins that the open connection did not tell."""
        self._went_down(server, error, is_network=is_network)
        server.woken.set()
        if not is_network:  # else the connection may outlive it, and show that the server did too
            with self._lock:
                cut(server.connection)

    def moved(self, record: Record) -> None:
        """A run's state is another one: where it was stopped, it is not looked after any more."""
        if record.state is not RunState.STOPPED or not self._servers:
            return
        with self._lock:
            found = [each.trained.pop(record, None) for each in self._servers.values()]
        self._give_up(each for each in found if each is not None)

    def close(self) -> None:
        """Look no more: the monitor is about to stop, and what is held is held until it has."""
        with self._lock:
            self.settling.closed.set()
            trained = [each for s in self._servers.values() for each in s.trained.values()]
            for server in self._servers.values():
                cut(server.connection)
                server.woken.set()
        self.settling.close()
        self._give_up(trained)

    def _give_up(self, stopped: Iterable[Watched]) -> None:
        """Have the next loop, of another monitor, go back to its save where that is needed."""
        for each in stopped:
            if each.is_held and each.has_something_to_lose():
                each.ledger.submit(each.run_id, Effect.GRADIENT)

    def join(self, timeout: float) -> None:
        """Wait for the threads of what is closed, at most `timeout` seconds each."""
        self.settling.join(timeout)
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout)

    def _look(self, server: _Server) -> None:
        # A connection past a proxy says nothing.
        is_behind = bool(proxies_for(server.base_url))
        was_up, last = False, float("-inf")
        while not self.settling.closed.is_set():
            connection, is_down = (None, False) if is_behind else connected(server.base_url)
            try:
                is_gone = connection is None and not is_behind
                if is_gone and was_up and not server.is_down:
                    # Its end is what the server did, whatever became of the way to it since.
                    shown = ApiConnectionError(f"{server.base_url}: the server went down")
                    self._went_down(server, shown, is_network=False)
                elif server.is_down and not is_down:
                    self._came_back(server, connection)
                was_up = was_up or connection is not None
                if connection is not None and server.is_down:
                    connection.close()  # it is not settled yet: once more
                    connection = None
                if connection is not None:
                    self._wait_for_end(server, connection)
            except Exception:
                if not self.settling.closed.is_set():
                    logger.exception("%s: its outage could not be dealt with", server.base_url)
            # The first time that a connection ends it is opened again at once.
            now = self.clock.monotonic()
            if is_behind and not self.settling.closed.is_set():
                server.woken.wait()
                server.woken.clear()
            elif connection is None or now - last < LOOK_EVERY:
                self.settling.closed.wait(LOOK_EVERY)
            last = now

    def _wait_for_end(self, server: _Server, connection: socket.socket) -> None:
        """Wait until the connection is closed, by the server, by an outage or by `close`."""
        with connection, suppress(OSError):
            with self._lock:
                server.connection = connection
                if self.settling.closed.is_set() or server.woken.is_set():
                    server.woken.clear()
                    return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            while not self._is_over(server, connection):
                pass
        with self._lock:
            server.connection = None
            server.is_network = False  # it did not outlive that: the server may not have either

    def _is_over(self, server: _Server, connection: socket.socket) -> bool:
        """Wait a little; whether the connection was closed meanwhile."""
        connection.settimeout(LOOK_EVERY)
        try:
            return not connection.recv(1024)
        except TimeoutError:
            if server.is_down and server.is_network:  # else it is about to be cut
                self._came_back(server, connection)
            return False

    def _went_down(self, server: _Server, error: BaseException, *, is_network: bool) -> None:
        """Hold the requests of the server's runs, and the attempts to recover them."""
        with self._lock:
            if server.is_down or self.settling.closed.is_set():
                return
            server.is_down, server.is_network = True, is_network
            trained = list(server.trained.values())
        for watched in trained:
            self.races.hold(watched.record)
            watched.hold(in_flight=self.races.are_unanswered(watched.record))
        for config in {each.record.config for each in trained}:
            self.holds.hold(config, error, reason=DOWN, polls_fail=True, apply=lambda: None)
        what = "our own network is gone" if is_network else "the server is down"
        logger.warning("%s: %s, requests of its runs wait: %s", server.base_url, what, error)

    def _came_back(self, server: _Server, connection: socket.socket | None) -> None:
        """Poll until the server answers; then settle its runs, and let their requests go."""
        pause, held = FIRST_PAUSE, list[Watched]()
        while not self.settling.closed.is_set():
            with self._lock:
                held = [each for each in server.trained.values() if each.is_held]
            silent = [e for e in held if self.holds.breaker(e.record.config) is not Breaker.CLOSED]
            if not silent:
                break
            for config in {each.record.config for each in silent}:
                self.sweeper.poll(next(e.record for e in silent if e.record.config == config))
            self.settling.closed.wait(pause)
            pause = LOOK_EVERY
        if self.settling.closed.is_set():
            return

        def is_gone() -> bool:
            return connection is not None and has_ended(connection)

        if not server.is_network or is_gone():
            self.settling.settle(held, is_gone)
        else:
            logger.info("%s: our own network is back", server.base_url)
        self._settled(server)

    def _settled(self, server: _Server) -> None:
        """Let the requests and the results of a server's runs go."""
        with self._lock:
            if self.settling.closed.is_set():
                return
            server.is_down, server.settled_at = False, self.clock.monotonic()
            trained = list(server.trained.values())
        for watched in trained:
            self.settling.release(watched)
