"""A run that could not be made leaves nothing open."""

from __future__ import annotations

import pytest
from support.sites import Site, account_of

import tinkex
from tinkex import Config, Policy
from tinkex.errors import TinkexError
from tinkex.testing import FakeServiceClient, FakeTrainingClient


class Service(FakeServiceClient):
    """A service client of an empty account, which tells whether it was closed."""

    config = Config("tml-one", "https://tinker.invalid")

    def __init__(self):
        super().__init__()
        made.append(self)

    def close(self, status="success"):
        closed.append((self, status))


made: list[Service] = []
closed: list[tuple[Service, str]] = []


class RefusedError(Exception):
    """What a server answers."""


def refused(service, metadata):
    raise RefusedError


def interrupted(service, metadata):
    raise KeyboardInterrupt


def unnamed(service, metadata):
    return FakeTrainingClient("fake:unnamed")


@pytest.fixture(autouse=True)
def nothing_yet(monkeypatch, world):
    made.clear()
    closed.clear()
    make = tinkex.Monitor
    options = {"rest_module": Site([]), "rest_client_fun": account_of, "scheduler": world.fake}
    monkeypatch.setattr("tinkex.shortcuts.Monitor", lambda policy: make(policy, **options))


@pytest.mark.parametrize(
    ("create", "error"),
    [(refused, RefusedError), (interrupted, KeyboardInterrupt), (unnamed, TinkexError)],
)
def test_the_service_client_of_a_run_that_was_not_made_is_closed(create, error):
    policy = Policy(enabled=True)
    with pytest.raises(error), tinkex.open_run("sft-7", Service, create=create, policy=policy):
        pass

    assert closed == [(made[0], "errored")]


def test_one_of_the_callers_own_is_not():
    with pytest.raises(RefusedError), tinkex.open_run("sft-7", Service(), create=refused):
        pass

    assert closed == []
