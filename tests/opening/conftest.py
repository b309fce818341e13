"""An account of fakes in which runs are opened by name."""

from __future__ import annotations

import pytest
from support.accounts import Account
from support.lineages import in_another_process
from support.sites import account_of

import tinkex
from tinkex import Policy
from tinkex.testing import InlineExecutor


@pytest.fixture
def account():
    return Account()


@pytest.fixture
def opened(world, monkeypatch):
    """`tinkex.open_run` in the world of fakes, in another process each time, unless `again`."""
    make = tinkex.Monitor

    def monitor(policy, **options):
        parts = {
            "rest_module": opened.account,
            "rest_client_fun": account_of,
            "scheduler": world.fake,
            "executor": opened.executor,
        }
        return make(Policy(enabled=True, poll_interval=10.0), **{**options, **parts})

    monkeypatch.setattr("tinkex.shortcuts.Monitor", monitor)

    def opened(name, service, *, again=False, **options):
        if not again:
            in_another_process()
        opened.account = service.account
        return tinkex.open_run(name, service, **{"base_model": "any", **options})

    opened.executor = InlineExecutor()
    return opened
