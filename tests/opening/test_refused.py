"""What an opening that is refused leaves: nothing."""

from __future__ import annotations

import threading

import pytest
from support.accounts import Service

import tinkex
from tinkex.errors import RunHeldError


def threads():
    return {each for each in threading.enumerate() if each.name.startswith("tinkex")}


@pytest.fixture
def real(monkeypatch, account):
    """Monitors have threads, and ask an account of fakes."""
    make = tinkex.Monitor

    def monitor(policy, **options):
        account_of = {"rest_module": account, "rest_client_fun": lambda service: service}
        return make(policy, **options, **account_of)

    monkeypatch.setattr("tinkex.shortcuts.Monitor", monitor)


@pytest.mark.usefixtures("real")
def test_no_thread_is_left_of_an_opening_that_is_refused(account, tmp_path):
    journal, others = tmp_path / "tinkex.db", threads()
    with tinkex.open_run("sft", Service(account), journal=journal, base_model="any"):
        before = threads()
        for _ in range(3):
            with (
                pytest.raises(RunHeldError),
                tinkex.open_run("sft", Service(account), journal=journal, base_model="any"),
            ):
                pass
        assert threads() <= before
    assert threads() <= others


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("opening", [tinkex.open_run, tinkex.resume])
def test_nor_of_one_that_may_recover_nothing(account, tmp_path, opening):
    others = threads()
    options = {"journal": tmp_path / "tinkex.db", "policy": {"enabled": False}}
    with (
        pytest.raises(tinkex.errors.RecoveryDisabledError),
        opening("sft", Service(account), **options),
    ):
        pass

    assert threads() <= others
