"""`Host`, which runs uvicorn on a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HOST = "127.0.0.1"
THREAD_NAME = "tinkex-rehearsal"
#: How long `start` waits until the server serves, in seconds.
START_TIMEOUT = 10.0
#: How long requests in progress may take to end at `stop`, in seconds.
GRACE = 2
#: How long `stop` waits for the thread each time, in seconds.
JOIN_TIMEOUT = 5.0


class Host:
    """Serves `app` on loopback; `closing` is set on its event loop before it stops.

    Threads: `start` and `stop` from any thread, not at the same time.
    """

    def __init__(
        self, app: ASGIApp, *, port: int, protocol: type[H11Protocol], closing: asyncio.Event
    ) -> None:
        self._closing = closing
        # The protocol is given, else asyncio leaves Nagle's algorithm on: 40 ms per answer.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((HOST, port))
        except OSError:
            self._socket.close()
            raise
        self._server = _PromptServer(
            closing,
            uvicorn.Config(
                app,
                http=protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE,
            ),
        )
        self._thread = threading.Thread(target=self._serve, name=THREAD_NAME, daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Start, and return when it serves; `RuntimeError` if it does not."""
        self._thread.start()
        if not self._server.serving.wait(START_TIMEOUT) or self._server.loop is None:
            self.stop()
            raise RuntimeError("the rehearsal server did not start; its log says why")

    def stop(self) -> None:
        """Stop serving: first end hanging requests, then connections, then the thread."""
        self._server.should_exit = True
        if self._server.loop is not None and self._thread.is_alive():
            self._server.loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(JOIN_TIMEOUT)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(JOIN_TIMEOUT)
        self._socket.close()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            # After a failed start, `start` must not wait until its timeout.
            self._server.serving.set()


class _PromptServer(uvicorn.Server):
    """A uvicorn server with an event for "it serves"; it stops without polling."""

    def __init__(self, closing: asyncio.Event, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._closing = closing
        self.serving = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then wake `Host.start`."""
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.serving.set()

    async def main_loop(self) -> None:
        """Serve until `closing` is set; uvicorn's own loop checks ten times a second."""
        await self.on_tick(0)
        await self._closing.wait()
