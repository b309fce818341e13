"""Starts the server as a process, and sends the requests that set it up and read its counts."""

from __future__ import annotations

import json
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

__all__ = ["PACKAGE", "ROOT", "Control", "ServerProcess"]

#: The directory in which each process starts, and the package of these modules from there.
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tests.benchmarks"


class Control:
    """Sends requests to the server's control paths; the server does not count them."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def __call__(self, name: str, **query: Any) -> dict[str, Any]:
        """Send one control request, such as `setup`, `counts` or `corrupt`; see the server."""
        self._connection.request("GET", f"/control/{name}?{urlencode(query, quote_via=quote)}")
        found: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return found


class ServerProcess:
    """The server's process; it ends with the `with` block."""

    def __enter__(self) -> Control:
        """Start it; it ends when its standard input ends, so it cannot outlive this process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        return Control(f"http://127.0.0.1:{int(self._process.stdout.readline())}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.communicate(timeout=30)
