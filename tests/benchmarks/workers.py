"""Starts the measured processes and reads their results."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any, Self

from .control import PACKAGE, ROOT, Control

__all__ = ["TookTooLongError", "Worker", "ceiling", "probe"]


class TookTooLongError(Exception):
    """Raised when a process did not answer in time; it was ended."""


class _Process:
    """A Python process that answers with lines of JSON."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as this)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )

    def tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout)
        if not ready:
            raise TookTooLongError(f"no answer in {timeout:g} s")
        line = stdout.readline()
        if not line:
            self._stderr.seek(0)
            raise RuntimeError(f"a process ended early: {self._stderr.read()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()


class Worker:
    """One variant in its own process, which makes one sweep per request.

    Args:
        name: One of `VARIANTS`.
        control: The server, set up for `runs` runs.
        runs: How many it polls.
        patience: The most seconds that a sweep may take.
    """

    def __init__(self, name: str, control: Control, runs: int, *, patience: float) -> None:
        self.name = name
        self.sweeps: list[dict[str, Any]] = []
        self.connections = 0
        self._control = control
        self._patience = patience
        self._process = _Process("variants", name, control.url, str(runs))

    def __enter__(self) -> Self:
        try:
            self._process.answer(120)
        except BaseException:
            self._process.end()
            raise
        return self

    def sweep(self) -> None:
        """Request one sweep; keep its times and the server's counts."""
        # To the floor all rows are the same; between two sweeps of tinkex they move on once.
        self._control("reset", moves=int(self.name != "floor"))
        self._process.tell()
        found = self._process.answer(self._patience)
        counts = self._control("counts")
        self.connections += counts["connections"]
        self.sweeps.append({**found, "counts": counts})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.end()


def probe(name: str, url: str, *, patience: float = 180.0, **arguments: Any) -> dict[str, Any]:
    """Run a probe in its own process and return its result."""
    return _answer_of(_Process("probes", name, url, json.dumps(arguments)), patience)


def ceiling(url: str, seconds: float) -> dict[str, Any]:
    """Measure the server's limit for `seconds` in each way, from one more process."""
    return _answer_of(_Process("ceiling", url, str(seconds)), 60.0)


def _answer_of(process: _Process, patience: float) -> dict[str, Any]:
    try:
        return process.answer(patience)
    finally:
        process.end()
