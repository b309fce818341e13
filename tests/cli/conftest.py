"""A terminal whose commands ask a rehearsal server."""

from __future__ import annotations

import pytest
from support.terminals import Terminal

from tinkex.rehearsal import RehearsalServer

#: Wide enough for every table.
WIDE = "240"


@pytest.fixture
def terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", WIDE)
    with RehearsalServer() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield Terminal(server, capsys)
