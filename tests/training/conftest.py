"""A server that goes down and comes back at once, and threads beside the test's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.outages import Listener

from tinkex.training.outages import noticing


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setattr(noticing, "LOOK_EVERY", 0.01)
    made = Listener()
    yield made
    made.stop()


@pytest.fixture
def elsewhere():
    with ThreadPoolExecutor(4) as pool:
        yield pool
