"""The pytest plugin: fixtures to rehearse a training script.

Each run of pytest loads it where tinkex is installed, so each fixture imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..rehearsal import RehearsalServer
    from . import FakeScheduler, RecoveryEvents


@pytest.fixture
def tinkex_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsalServer]:
    """A started `RehearsalServer` on 127.0.0.1, which clients of the test use by themselves.

    TINKER_BASE_URL and TINKER_API_KEY are set for that, no proxy is used for 127.0.0.1, and the
    locks of runs lie in a folder of the test. The environment is as before when it has ended.
    """
    with _server_class()() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environ.items():
            patch.setenv(name, value)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, f"{direct},127.0.0.1")
        yield server


def _server_class() -> type[RehearsalServer]:
    try:
        from ..rehearsal import RehearsalServer  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
    else:
        return RehearsalServer
    needs = f"{missing} is not installed; the fixture tinkex_server needs an extra"
    pytest.fail(f'{needs}: pip install "tinkex[rehearsal]"', pytrace=False)


@pytest.fixture
def fake_scheduler() -> FakeScheduler:
    """A new `tinkex.testing.FakeScheduler`, whose time stands still."""
    from . import FakeScheduler  # noqa: PLC0415 (most tests need none)

    return FakeScheduler()


@pytest.fixture
def recovery_events() -> Iterator[RecoveryEvents]:
    """All events of monitors during the test, as `tinkex.testing.RecoveryEvents`."""
    from ..signals import subscribe  # noqa: PLC0415 (most tests need none)
    from . import RecoveryEvents  # noqa: PLC0415

    events = RecoveryEvents()
    with subscribe(events):
        yield events
