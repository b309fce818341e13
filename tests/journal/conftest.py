"""A journal's file, and monitors that follow each other on it."""

from __future__ import annotations

import pytest
from support.world import RUN


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tinkex.db"


@pytest.fixture
def life(world, path):
    """Makes monitors on one journal, as processes that follow each other."""

    def made(**policy):
        world.rest.set_run(RUN)
        return world.monitor(options={"journal": path}, **policy)

    return made
