"""The fixtures of many tests: a world of fakes, a bench of real threads, a bare environment."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.lives import WatchedRest
from support.real_threads import Bench
from support.world import World

from tinkex import signals

# Workers and the processes of tests import the same modules many times: compiled once, even if the
# environment says otherwise, they take a third less of the suite's time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Each client of the official SDK reads all certificates that it trusts: half of the work of making
# one. A server that tests ask over TLS has a certificate that they name themselves.
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent / "data")

# Threads of the official SDK may outlive the test that made them, and what they log is of no other.
logging.getLogger("tinker").propagate = False
logging.getLogger("tinker").setLevel(logging.CRITICAL)

TESTS = Path(__file__).parent

_looked_up = socket.getaddrinfo


def _look_up(host, *args, **kwargs):
    """No such host at once, as it must be: a name server that is slow would hold up a thread."""
    if str(host).endswith(".invalid"):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _looked_up(host, *args, **kwargs)


socket.getaddrinfo = _look_up

#: What takes the longest comes first.
FIRST = ("long", "scenario", "large")

#: Not counted in the coverage: whole stories, whose servers and clients take twice as long where
#: they are measured. What is counted is what the tests of the wings reach by themselves.
STORIES = {"cli", "end_to_end", "rehearsal"}


def pytest_addoption(parser, pluginmanager):
    """Let the options of pyproject.toml stand where pytest-xdist is missing or left out."""
    if not pluginmanager.hasplugin("xdist"):
        for option in ("--numprocesses", "--dist"):
            parser.addoption(option, help="only with pytest-xdist")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Some workers more than there are cores: many tests wait for a server, and need none."""
    return min(len(os.sched_getaffinity(0)) + 2, 8) if hasattr(os, "sched_getaffinity") else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Begin the longest tests first, whatever the order, so that none is left at the end.

    The many stories of `model` are only told where that mark is asked for.
    """
    if config.pluginmanager.hasplugin("_cov"):
        for item in items:
            if item.path.relative_to(TESTS).parts[0] in STORIES:
                item.add_marker(pytest.mark.no_cover)
    if "model" not in config.option.markexpr:
        asked = [item for item in items if not item.get_closest_marker("model")]
        config.hook.pytest_deselected(items=[item for item in items if item not in asked])
        items[:] = asked
    items.sort(key=lambda item: not any(map(item.get_closest_marker, FIRST)))


@pytest.fixture
def world():
    made = World()
    with signals.subscribe(made.events):
        yield made


@pytest.fixture
def watched(world):
    """A world whose rest module notes when each poll comes."""
    world.rest = WatchedRest(world.fake)
    return world


@pytest.fixture
def no_environment(monkeypatch):
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    monkeypatch.delenv("TINKER_PROJECT_ID", raising=False)


@pytest.fixture(scope="session")
def states(tmp_path_factory):
    """Folders that are made where one is needed: to make one for each test, pytest counts all."""
    folder = tmp_path_factory.mktemp("states")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def locks_of_its_own(monkeypatch, states):
    """No test meets the locks of another, or of this user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(next(states)))


@pytest.fixture
def bench():
    with ExitStack() as stack:
        made = Bench(stack)
        yield made
    # What was hung is free now: a test leaves no thread to the next one.
    made.join(*made.threads())
