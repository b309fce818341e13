"""With real threads: handlers of the log that raise or hang silence nobody."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError

import pytest
from support.recorder import PATIENCE

from tinkex.runtime import delivery
from tinkex.runtime.delivery import Delivery


class Handler(logging.Handler):
    """Does something with each line: a caller's own code."""

    def __init__(self, act):
        super().__init__()
        self._act = act

    def emit(self, record):
        self._act()


@pytest.fixture
def log():
    """Have the lines of the log handled by a function."""
    logger, handlers = logging.getLogger("tinkex"), []

    def handle(act):
        handlers.append(Handler(act))
        logger.addHandler(handlers[-1])

    yield handle
    for handler in handlers:
        logger.removeHandler(handler)


@pytest.fixture
def outbox(monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE", 0.05)
    made = Delivery(inline=False, on_idle=lambda: None)
    yield made
    made.close()
    made.join(PATIENCE)


@pytest.fixture
def gate():
    made = threading.Event()
    yield made
    made.set()


def raising(error):
    def function():
        raise error

    return function


def hanging(gate):
    """A function of its own at each call: it is parked by itself."""
    return lambda: gate.wait(3 * PATIENCE)


def assert_comes(outbox, lane):
    came = threading.Event()
    outbox.post(lane, came.set)
    assert came.wait(PATIENCE)


@pytest.mark.parametrize("kind", [OSError, SystemExit, CancelledError])
def test_a_handler_that_raises_ends_no_lane(outbox, log, kind):
    log(raising(kind()))
    called = threading.Event()
    failing = raising(ValueError())

    def failing_receiver():
        if called.is_set():
            again.set()
        called.set()
        failing()

    again = threading.Event()
    outbox.post("a", failing_receiver)
    assert called.wait(PATIENCE)
    outbox.post("a", failing_receiver)

    assert again.wait(PATIENCE)
    assert_comes(outbox, "a")


def test_what_hangs_is_parked_though_a_handler_raised_when_it_was_told_of(outbox, log, gate):
    told = threading.Event()

    def act():
        told.set()
        raise SystemExit

    log(act)
    outbox.post("first", hanging(gate))
    assert told.wait(PATIENCE)

    for number in range(delivery.LANES_AT_ONCE):
        outbox.post(number, hanging(gate))

    assert_comes(outbox, "other")


def test_what_hangs_is_parked_though_a_handler_hangs(outbox, log, gate):
    log(hanging(gate))
    outbox.post("first", hanging(gate))
    assert_comes(outbox, "first")

    for number in range(delivery.LANES_AT_ONCE):
        outbox.post(number, hanging(gate))

    assert_comes(outbox, "other")
