"""What the tests of live views stand on."""

from __future__ import annotations

import pytest
from support.screens import Screen
from support.world import RUN, weights

from tinkex import view


@pytest.fixture
def screens(monkeypatch):
    """The screens of the views that are made."""
    made = []

    def make():
        made.append(Screen())
        return made[-1]

    monkeypatch.setattr(view, "screen_here", make)
    return made


@pytest.fixture
def monitor(world):
    """A monitor of one run, on the fake scheduler."""
    made = world.monitor()
    world.rest.set_run(RUN, last_checkpoint=weights("000100"))
    made.monitor_run(RUN, world.service)
    return made
