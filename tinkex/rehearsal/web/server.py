"""`RehearsalServer`, the embedded server: start, stop, and its functions for Python callers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...arguments import checked_whole
from ..engine.backend import Backend
from ..engine.records import AppliedStep, FailureMode, Refusal, RunInfo, SessionEnd
from ..engine.sampling import Samplers
from ..engine.state import State, Trap
from ..engine.store import CheckpointStore
from ..engine.training import Trainer
from .catalog import CatalogRoutes
from .faults import Fault, FaultBook, FaultHandle
from .gate import Connections, Gate
from .host import HOST, Host
from .routes import FutureStyle, TrainingRoutes
from .sampling import SamplingRoutes
from .sessions import SessionRoutes
from .wire import refusal_response

#: The default key and its owner.
DEFAULT_KEYS: Mapping[str, str] = MappingProxyType({"tml-rehearsal": "owner"})


class RehearsalServer:
    """A server of the Tinker API on 127.0.0.1, with a small model that really trains.

    `directory` is where checkpoints lie; by default a temporary one, deleted at `close`. It is made
    where it is missing; what is there and is no directory raises `NotADirectoryError`.
    `api_keys` maps keys to the owners of their runs. `create_model_via_load_weights` and
    `proto_compress_fwdbwd` are flags that clients read at start, `client_config` holds further
    ones. `unknown_run_status` 404 answers with JSON, 500 with plain text. `failed_futures` is
    the answer for a failed request: an HTTP "status", or an "answer" with an error in it.
    With a `seed`, each server makes the same session ids.

    Threads: every method is safe from any thread. Requests are served on one daemon thread,
    `tinkex-rehearsal`, on which the model is trained too.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        port: int = 0,
        api_keys: Mapping[str, str] = DEFAULT_KEYS,
        create_model_via_load_weights: bool = True,
        proto_compress_fwdbwd: bool = False,
        client_config: Mapping[str, Any] | None = None,
        unknown_run_status: int = 404,
        failed_futures: FutureStyle = "status",
        seed: int | None = None,
    ) -> None:
        if not api_keys or not all(key.startswith("tml-") for key in api_keys):
            raise ValueError('api_keys must hold at least one key, each beginning with "tml-"')
        if directory is not None and Path(directory).exists() and not Path(directory).is_dir():
            raise NotADirectoryError(f"directory must be one, or not be there yet: {directory}")
        self._owners = dict(api_keys)
        self._port = port
        self._client_config: dict[str, Any] = {
            "pjwt_auth_enabled": False,
            "create_model_via_load_weights": create_model_via_load_weights,
            "proto_compress_fwdbwd": proto_compress_fwdbwd,
            **(client_config or {}),
        }
        self._future_style: FutureStyle = failed_futures
        self._state = State(seed=seed, unknown_run_status=unknown_run_status)
        self._store = CheckpointStore(None if directory is None else Path(directory))
        self._samplers = Samplers(self._state, self._store)
        self._trainer = Trainer(self._state, self._store, self._samplers)
        self._faults = FaultBook()
        self._connections = Connections()
        self._backend = Backend(self._state, self._trainer, self._samplers)
        self._requests: Counter[str] = Counter()
        self._build()
        # Held during the whole of start and stop, so that they do not overlap.
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._host: Host | None = None
        self._closed = False

    def start(self) -> Self:
        """Listen, and return the server itself; a second start does nothing."""
        with self._lock:
            if self._closed:
                raise RuntimeError("this rehearsal server was closed; make a new one")
            if self._host is None:
                self._listen_locked()
        return self

    def stop(self) -> None:
        """Go down: connections are cut, and new ones refused, until `start` is called again."""
        with self._lock:
            host, self._host = self._host, None
            if host is not None:
                host.stop()
                self._requests += self._gate.requests()
                # What waited on the old event loop cannot wait on the next one.
                self._build()

    def _listen_locked(self) -> None:
        protocol = self._connections.protocol()
        host = Host(self._gate, port=self._port, protocol=protocol, closing=self._closing)
        host.start()
        self._host, self._port = host, host.port

    def close(self) -> None:
        """Stop, end hanging requests, delete the temporary directory; may be called twice."""
        with self._lock:
            host, self._host, self._closed = self._host, None, True
            if host is not None:
                host.stop()
            self._store.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # What clients need

    @property
    def url(self) -> str:
        """The base URL; known after the start."""
        if self._port == 0:
            raise RuntimeError("the rehearsal server has no URL before start()")
        return f"http://{HOST}:{self._port}"

    @property
    def api_key(self) -> str:
        """The first of the keys."""
        return next(iter(self._owners))

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that make clients use this server."""
        return {"TINKER_BASE_URL": self.url, "TINKER_API_KEY": self.api_key}

    # What goes wrong

    def corrupt(
        self,
        run_id: str,
        *,
        break_newest: int = 0,
        flag: bool = True,
        mode: FailureMode = "fail",
        ends_session: SessionEnd | None = None,
    ) -> None:
        """Corrupt a run for good: from now on its training calls fail, or hang.

        With `flag` the API says `corrupted: true`. The files of the newest `break_newest`
        training checkpoints are cut short. `ends_session` ends the session of the run too.
        `KeyError` if there is no such run.
        """
        self._trainer.corrupt(
            run_id, break_newest=break_newest, flag=flag, mode=mode, ends_session=ends_session
        )

    def corrupt_at(
        self,
        run_id: str | None,
        step: int,
        *,
        break_newest: int = 0,
        flag: bool = True,
        mode: FailureMode = "fail",
        ends_session: SessionEnd | None = None,
    ) -> None:
        """Corrupt a run just before it applies optimizer step `step`; the step is not applied.

        It happens once: a successor passes the same step. `None` means the first run that comes
        to that step, so it can be called before there is a run.

        Raises:
            TypeError, ValueError: `step` is no whole number, or below 0.
        """
        trap = Trap(
            run_id=run_id,
            step=checked_whole("step", step),
            break_newest=break_newest,
            flag=flag,
            mode=mode,
            ends_session=ends_session,
        )
        self._state.set_trap(trap)

    def end_session(self, session_id: str, how: SessionEnd = "gone") -> None:
        """End a session: its calls, and those of its runs and samplers, are refused.

        "gone" is answered with 404, "finished" with 400, "poisoned" with 410. New sessions can be
        opened. `KeyError` if there is no such session.
        """
        with self._state.changed:
            self._state.known_session(session_id).fail(how)

    def roll_back(self, run_id: str, *, refuse_unanswered: bool = False) -> None:
        """Put a run of a stopped server back to its newest training checkpoint.

        In silence, as real servers do, or with the requests that were not answered refused by a
        410. One without a checkpoint stays as it is. `KeyError` if there is no such run.
        """
        name = self._trainer.roll_back(run_id)
        if refuse_unanswered:
            self._backend.refuse(run_id, f"Server restored from checkpoint {name}.")

    def forget(self, run_id: str) -> None:
        """Delete a run: the API does not know it or its checkpoints any more."""
        with self._state.changed:
            self._state.known_run(run_id).forgotten = True
            self._state.changed.notify_all()

    def expire(self, tinker_path: str) -> None:
        """Set a checkpoint's expiry to one second ago; it stays in the lists."""
        with self._state.changed:
            self._state.checkpoint(tinker_path).keep_for(-1.0)

    def break_checkpoint(self, tinker_path: str) -> None:
        """Cut the file of a checkpoint short, so that loading it fails."""
        with self._state.changed:
            self._state.checkpoint(tinker_path).broken = True
        self._store.truncate(tinker_path)

    def add_fault(self, fault: Fault) -> FaultHandle:
        """Make a fault active until it hit `times` requests or its handle is removed."""
        return self._faults.add(fault)

    # What happened

    def steps(self, run_id: str | None = None) -> tuple[AppliedStep, ...]:
        """List the optimizer steps applied to one run or to all, in order."""
        return self._state.steps(run_id)

    def runs(self) -> tuple[RunInfo, ...]:
        """Describe all runs ever made, oldest first."""
        return self._state.infos()

    def run(self, run_id: str) -> RunInfo:
        """Describe one run; `KeyError` if there is none of that id."""
        with self._state.changed:
            return self._state.known_run(run_id).info()

    @property
    def training_clients_created(self) -> int:
        """How many runs were made in all, from nothing or from a checkpoint."""
        with self._state.changed:
            return len(self._state.runs)

    @property
    def requests(self) -> Counter[str]:
        """How many requests came, by "METHOD /route/template"; those with faults count too."""
        return self._requests + self._gate.requests()

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted."""
        return self._connections.count

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until `predicate()` is true; it is called after each step, save, run and corruption.

        The server's state is locked during the call, so it must be quick. Returns whether it
        was true within `timeout` seconds.
        """
        return self._state.wait_for(predicate, timeout)

    def _build(self) -> None:
        self._closing = asyncio.Event()
        training = TrainingRoutes(
            self._backend,
            self._state,
            client_config=self._client_config,
            future_style=self._future_style,
            closing=self._closing,
        )
        routes = [
            *training.table(),
            *SessionRoutes(self._state).table(),
            *SamplingRoutes(self._backend, self._samplers).table(),
            *CatalogRoutes(self._state, self._store).table(),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={Refusal: _refused, HTTPException: _no_route},
        )
        self._gate = Gate(
            app,
            routes,
            owners=self._owners,
            faults=self._faults,
            connections=self._connections,
            closing=self._closing,
        )


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    return refusal_response(error)


async def _no_route(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
