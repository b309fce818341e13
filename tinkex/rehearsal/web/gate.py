"""`Gate`, the ASGI layer before the routes: it counts requests, adds faults and checks keys."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .faults import Fault, FaultBook

#: The name in a request's scope under which the gate stores the owner of its key.
_OWNER = "tinkex.owner"
#: The paths that need no key.
_OPEN = frozenset({"/api/v1/healthz"})


class Connections:
    """The TCP connections that clients opened.

    Threads: `count` is safe from any; the rest is for the server's thread only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._count = 0
        self._open: dict[tuple[str, int], asyncio.Transport] = {}

    @property
    def count(self) -> int:
        """How many were accepted so far."""
        with self._lock:
            return self._count

    def opened(self, transport: asyncio.Transport) -> None:
        """Remember a connection that was accepted."""
        with self._lock:
            self._count += 1
        self._open[_peer(transport)] = transport

    def closed(self, transport: asyncio.Transport) -> None:
        """Forget a connection."""
        self._open.pop(_peer(transport), None)

    def cut(self, client: tuple[str, int]) -> None:
        """Drop the connection of `client` without an answer."""
        if transport := self._open.get(client):
            transport.abort()

    def protocol(self) -> type[H11Protocol]:
        """Make the protocol class that reports its connections here."""
        connections = self

        class CountedProtocol(H11Protocol):
            """HTTP/1.1 whose connections are counted and can be cut."""

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                connections.opened(transport)
                self._counted = transport
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                connections.closed(self._counted)
                super().connection_lost(exc)

        return CountedProtocol


class Gate:
    """The ASGI application around the routes.

    Threads: called on the server's thread; `requests()` is safe from any.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[BaseRoute],
        *,
        owners: Mapping[str, str],
        faults: FaultBook,
        connections: Connections,
        closing: asyncio.Event,
    ) -> None:
        self._app = app
        self._routes = routes
        self._owners = owners
        self._faults = faults
        self._connections = connections
        self._closing = closing
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._requests: Counter[str] = Counter()

    def requests(self) -> Counter[str]:
        """Count the requests so far by "METHOD /route/template"."""
        with self._lock:
            return Counter(self._requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return
        template = self._template(scope)
        with self._lock:
            self._requests[f"{scope['method']} {template}"] += 1
        fault = self._faults.take(f"{scope['method']} {scope['path']}")
        if fault is None:
            await self._serve(scope, receive, send)
        else:
            await self._suffer(fault, scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in _OPEN:
            key = dict(scope["headers"]).get(b"x-api-key", b"").decode("latin-1")
            if key not in self._owners:
                await _key_refused(missing=not key)(scope, receive, send)
                return
            scope[_OWNER] = self._owners[key]
        with suppress(ClientDisconnect):  # its client has ended: none hears an answer
            await self._app(scope, receive, send)

    async def _suffer(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        match fault.kind:
            case "status" | "garbage":
                status, headers, body = fault.answer()
                await Response(body, status, headers)(scope, receive, send)
                return
            case "slow":
                await self._pause(fault.seconds)
                await self._serve(scope, receive, send)
                return
            case "hang":
                await self._pause(fault.seconds)
            case "lost":
                await self._serve(scope, receive, _unheard)
            case "cut":
                pass
        self._connections.cut(scope["client"])
        # If this returned before uvicorn knows of the disconnect, it would answer with 500.
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _pause(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return

    def _template(self, scope: Scope) -> str:
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is Match.FULL:
                return route.path
        return "(unknown)"


def owner_of(request: Request) -> str:
    """The owner of the key with which `request` was made."""
    return str(request.scope[_OWNER])


async def _unheard(message: Message) -> None:
    """Take an answer and do not send it."""


def _key_refused(*, missing: bool) -> Response:
    if missing:
        return JSONResponse({"detail": "Missing API key"}, 401)
    return JSONResponse({"detail": "Invalid API key"}, 403)


def _peer(transport: asyncio.Transport) -> tuple[str, int]:
    host, port = transport.get_extra_info("peername")[:2]
    return str(host), int(port)
