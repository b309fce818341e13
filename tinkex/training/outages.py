"""Notices that a server was down while a run was trained: the run may be back at an older state."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

from requests.utils import get_environ_proxies

from ..config import Config
from ..credentials import secrets_of, without_secrets
from ..errors import AlreadyPendingError, ApiConnectionError, MonitorStoppedError, in_words
from ..policy import Policy
from ..polling.sweeper import Sweeper
from ..recovery.controller import Controller
from ..recovery.holds import DOWN, Breaker, Holds
from ..recovery.incident import Incident
from ..rest.sockets import connected, cut, has_ended
from ..runs.changes import Withdrawn
from ..runs.ledger import Effect, Ledger
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runtime.daemon_pool import DaemonPool
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..signals import Cause, RolledBack
from ..types import Checkpoint
from .evidence import Batch, Finding, Watched
from .futures import Races, is_superseded

logger = logging.getLogger(__name__)

#: Seconds between two connections that are opened to look, at the least, and for one to open.
LOOK_EVERY = 1.0

#: Seconds until a server that is back is polled a second time.
FIRST_PAUSE = 0.1

#: What is logged of a run when an outage is settled.
_WAS_DOWN = "run %s: its server was down; %s: %s"

#: How many runs are looked at together.
LOOKS_AT_ONCE = 8


@dataclass(slots=True, eq=False)
class _Server:
    """A server, its open connection, and the runs trained on it by their record.

    `is_down` from the beginning of an outage until it is settled; `woken` is set when the thread
    has something to do.
    """

    base_url: str
    trained: dict[Record, Watched] = field(default_factory=dict)
    connection: socket.socket | None = None
    is_down: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True, eq=False)
class Outages:
    """Notices that a server was down, holds the requests of its runs, and looks at their weights.

    A bare connection to each server on which a run is trained is kept open, without a request. It
    closes when the server's process ends. A proxy that closes idle connections accepts the next
    one at once, and means nothing; where that is refused, the server is down. Polls that fail
    twice in a row tell it too. When the server answers again, the weights of each run are compared
    with those of its saves.

    Threads: every method is safe from any thread; each server has one named `tinkex-outage`.
    """

    policy: Policy
    _: KW_ONLY
    runs: RunMap
    clock: Clock
    waits: Waits
    races: Races
    sweeper: Sweeper
    controller: Controller
    holds: Holds[Incident]
    # Guarded by _lock: _servers by base URL, with all that is in them, and _threads.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _servers: dict[str, _Server] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _closed: threading.Event = field(default_factory=threading.Event)
    _pool: DaemonPool = field(default_factory=lambda: DaemonPool(LOOKS_AT_ONCE, "tinkex-look"))

    def watch(self, record: Record, run_id: str, client: Any, ledger: Ledger) -> Watched | None:
        """A generation begins to be trained; it is looked after until the monitor stops."""
        config = record.config
        if not isinstance(config, Config):
            return None
        thread = None
        with self._lock:
            if self._closed.is_set():
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
                kept = self.policy.fallback_checkpoints + 1
                known = Watched(record, run_id, ledger, client, kept)
                if server.is_down:
                    self.races.hold(record)
                    known.hold(in_flight=False)
                server.trained[record] = known
        if thread is not None:
            with suppress(RuntimeError):  # no thread is to be had: then only errors tell
                thread.start()
        return known

    def poll_failed(self, record: Record, error: BaseException, since: float) -> None:
        """Polls of a run failed twice in a row, the first at `since`, in monotonic seconds.

        Where requests were answered meanwhile, it is the polls that fail, and not the server.
        """
        config = record.config
        with self._lock:
            server = self._servers.get(config.base_url) if isinstance(config, Config) else None
            if server is None or record not in server.trained or server.is_down:
                return
            if any(each.answered_at > since for each in server.trained.values()):
                return
        self._went_down(server, error)
        server.woken.set()
        with self._lock:
            cut(server.connection)

    def close(self) -> None:
        """Look no more; let go what is held."""
        with self._lock:
            self._closed.set()
            servers = list(self._servers.values())
            for server in servers:
                cut(server.connection)
                server.woken.set()
        self._pool.shutdown(wait=False)
        for server in servers:
            self._settled(server)
        self.waits.notify()

    def join(self, timeout: float) -> None:
        """Wait for the threads of what is closed, at most `timeout` seconds each."""
        self._pool.join(timeout)
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout)

    def _look(self, server: _Server) -> None:
        # A connection past a proxy says nothing.
        is_behind = bool(get_environ_proxies(server.base_url))
        was_up, last = False, float("-inf")
        while not self._closed.is_set():
            connection, is_down = (None, False) if is_behind else connected(server.base_url)
            try:
                if is_down and was_up and not server.is_down:
                    shown = ApiConnectionError(f"{server.base_url}: the server went down")
                    self._went_down(server, shown)
                elif server.is_down and not is_down:
                    self._came_back(server, connection)
            except Exception:
                logger.exception("%s: its outage could not be dealt with", server.base_url)
            was_up = was_up or connection is not None
            if connection is not None and server.is_down:
                connection.close()  # it is not settled yet: once more
                connection = None
            if connection is not None:
                self._wait_for_end(server, connection)
            # The first time that a connection ends it is opened again at once.
            now = self.clock.monotonic()
            if is_behind and not self._closed.is_set():
                server.woken.wait()
                server.woken.clear()
            elif connection is None or now - last < LOOK_EVERY:
                self._closed.wait(LOOK_EVERY)
            last = now

    def _wait_for_end(self, server: _Server, connection: socket.socket) -> None:
        """Wait until the connection is closed, by the server, by an outage or by `close`."""
        with connection, suppress(OSError):
            with self._lock:
                server.connection = connection
                if self._closed.is_set() or server.woken.is_set():
                    server.woken.clear()
                    return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.settimeout(None)
            while connection.recv(1024):
                pass
        with self._lock:
            server.connection = None

    def _went_down(self, server: _Server, error: BaseException) -> None:
        """Hold the requests of the server's runs, and the attempts to recover them."""
        with self._lock:
            if server.is_down or self._closed.is_set():
                return
            server.is_down = True
            trained = list(server.trained.values())
        for watched in trained:
            self.races.hold(watched.record)
            watched.hold(in_flight=self.races.are_unanswered(watched.record))
        for config in {each.record.config for each in trained}:
            self.holds.hold(config, error, reason=DOWN, polls_fail=True, apply=lambda: None)
        logger.warning(
            "%s: the server is down, requests of its runs wait: %s", server.base_url, error
        )

    def _came_back(self, server: _Server, connection: socket.socket | None) -> None:
        """Poll until the server answers; then look at each of its runs, and let its requests go."""
        pause, held = FIRST_PAUSE, list[Watched]()
        while not self._closed.is_set():
            with self._lock:
                held = [each for each in server.trained.values() if each.is_held]
            silent = [e for e in held if self.holds.breaker(e.record.config) is not Breaker.CLOSED]
            if not silent:
                break
            for config in {each.record.config for each in silent}:
                self.sweeper.poll(next(e.record for e in silent if e.record.config == config))
            self._closed.wait(pause)
            pause = LOOK_EVERY
        if self._closed.is_set():
            return
        looks = [(each, self._pool.submit(partial(self._examined, each))) for each in held]
        until = self.clock.monotonic() + self.policy.confirm_within
        for watched, look in looks:
            look.add_done_callback(lambda _: self.waits.notify())
            self._wait_for(look, max(0.0, until - self.clock.monotonic()))
            late = Finding(f"it could not be seen within {self.policy.confirm_within:g} s")
            found = look.result() if look.done() else late
            if found.is_fine and connection is not None and has_ended(connection):
                found = Finding("it was gone again while the weights were looked at")
            self._settle(watched, found)
        self._settled(server)

    def _wait_for(self, look: Future[Finding], timeout: float) -> None:
        self.waits.wait(lambda: look.done() or self._closed.is_set(), timeout)

    def _settled(self, server: _Server) -> None:
        """Let the requests and the results of a server's runs go."""
        with self._lock:
            server.is_down = False
            trained = list(server.trained.values())
        for watched in trained:
            self._release(watched)

    def _release(self, watched: Watched) -> None:
        watched.is_held = False
        self.races.release(watched.record)
        self.waits.notify()

    def _examined(self, watched: Watched) -> Finding:
        """What the weights of a run say; on a thread where foreign code may run."""
        record, mark = watched.record, watched.mark
        if is_superseded(record, watched.run_id) or not (mark.updates or mark.has_gradient):
            return Finding("there is nothing to lose", is_fine=True)
        source = record.history.source

        def answer(batch: Batch) -> Any:
            return watched.client.forward(*batch.args, **batch.kwargs).result()

        try:
            found = watched.examine(source.tinker_path if source else "", answer)
        except Exception as error:
            shown = without_secrets(error, secrets_of(record.service, record.config))
            return Finding(f"the weights cannot be compared: {in_words(shown)}")
        seen = {path for path, _ in watched.ledger.saves()}
        last = record.last_checkpoint
        others = {*record.history.known, *([last.tinker_path] if last else [])} - seen
        others = {each for each in others if each.startswith(f"tinker://{watched.run_id}/")}
        if found.is_fine and others:
            return Finding(f"what was saved by other means cannot be compared: {min(others)}")
        return found

    def _settle(self, watched: Watched, found: Finding) -> None:
        """Do what the weights of a run say."""
        record, run_id = watched.record, watched.run_id
        if self._closed.is_set() or is_superseded(record, run_id):
            return
        left = None if found.is_fine or found.back_at is not None else self._left(record)
        if found.is_fine or left is not None:
            self._release(watched)
            is_quiet = found.is_fine or self.policy.on_doubt == "ignore"
            level, follows = logging.INFO if is_quiet else logging.WARNING, left or "it goes on"
            logger.log(level, _WAS_DOWN, run_id, found.evidence, follows)
            return
        for path in watched.ledger.unanswered():
            # A server that is back with an older state has saved that, if anything.
            self.runs.apply(record, Withdrawn(run_id=run_id, path=path))
        is_open, follows = watched.ledger.is_open(), "it is restored where its loop saved"
        if not is_open:
            watched.ledger.submit(run_id, Effect.GRADIENT)
        logger.warning(_WAS_DOWN, run_id, found.evidence, follows)
        if is_open:
            self._restore(watched, found)

    def _restore(self, watched: Watched, found: Finding) -> None:
        record, run_id = watched.record, watched.run_id
        error = ApiConnectionError(f"the server was down: {found.evidence}")
        proof = None
        if found.back_at is not None:
            proof = RolledBack(
                run_id=run_id,
                metadata=record.metadata,
                time=self.clock.utc(),
                checkpoint=Checkpoint.from_path(found.back_at) if found.back_at else None,
                evidence=found.evidence,
            )
        with suppress(AlreadyPendingError, MonitorStoppedError):
            self.controller.recover(record, Cause.ROLLED_BACK, run_id, error, proof)

    def _left(self, record: Record) -> str | None:
        """Why a run is left as it is in doubt; `None` where it is restored."""
        history = record.history
        if self.policy.on_doubt != "recover":
            return f"the policy field on_doubt={self.policy.on_doubt!r} has it left as it is"
        if not (history.cursors or history.has_resume_step or history.cursor(history.source)):
            return "no checkpoint has a step to go back to, it is left as it is"
        if self.controller.is_budget_spent(record):
            return "it was recovered too often to be restored once more"
        return None
