"""Of many that open one name at the same moment, each on a machine of its own, one goes on."""

from __future__ import annotations

import copy
import threading
from contextlib import ExitStack

import pytest
from support.accounts import Account, Service
from support.recorder import PATIENCE
from support.sites import account_of

import tinkex
from tinkex.errors import RunHeldError, SegmentSupersededError
from tinkex.opening import here

NAME = "sft-7"


class Shared(Account):
    """An account that many threads use."""

    def __init__(self):
        super().__init__()
        self.lock = threading.RLock()

    def list_training_runs(self, config, *, limit, offset):
        with self.lock:
            return super().list_training_runs(config, limit=limit, offset=offset)

    def keep(self, checkpoint):
        with self.lock:
            super().keep(checkpoint)


class Machine(Service):
    """Makes its run when all others are about to make theirs."""

    def __init__(self, account, about_to_make, made):
        super().__init__(account)
        self.about_to_make, self.made = about_to_make, made

    def create_lora_training_client(self, base_model, rank=32, user_metadata=None):
        self.about_to_make.wait(PATIENCE)
        return self._kept(lambda: self._new(base_model, rank, user_metadata))

    def _new(self, base_model, rank, user_metadata):
        return super().create_lora_training_client(base_model, rank, user_metadata)

    def _create(self, path, user_metadata, *, with_optimizer):
        self.about_to_make.wait(PATIENCE)
        make = super()._create
        return self._kept(lambda: make(path, user_metadata, with_optimizer=with_optimizer))

    def _kept(self, make):
        with self.account.lock:
            client = make()
        self.made.wait(PATIENCE)
        return client


class PerMachine:
    """What each machine, a thread here, knows of its own openings."""

    def __init__(self, where):
        self.where = where

    def __getattr__(self, name):
        return getattr(self.where.table, name)


@pytest.fixture
def account():
    return Shared()


@pytest.fixture
def on_machines(account, monkeypatch, tmp_path):
    """Open the name on so many machines at once; give their outcomes when all are there.

    `is_late`: some may look before others have made their runs.
    """
    make, where = tinkex.Monitor, threading.local()
    monkeypatch.setattr("tinkex.lineage.owners._folders", lambda: [where.folder])
    monkeypatch.setattr(here, "_table", PerMachine(where))

    def monitor(policy):
        # A module of its own, so that what the machines recover is not made once for all.
        return make(policy, rest_module=copy.copy(account), rest_client_fun=account_of)

    monkeypatch.setattr("tinkex.shortcuts.Monitor", monitor)

    def begin(count, *, is_late, then):
        about_to_make = threading.Barrier(count)
        made = threading.Barrier(1 if is_late else count)
        opened, turn = threading.Barrier(count), threading.Lock()
        outcomes = {}

        def trains(number):
            where.folder, where.table = tmp_path / str(number), here._Table()
            service = Machine(account, about_to_make, made)
            with ExitStack() as stack:
                try:
                    opening = tinkex.open_run(NAME, service, base_model="any", takeover=True)
                    run = stack.enter_context(opening)
                    segment = next(run.segments())
                    assert segment.client.model_id == run.run_id
                except RunHeldError:
                    outcomes[number] = "held"
                opened.wait(PATIENCE)
                for _ in range(2 if number not in outcomes else 0):
                    with turn:
                        outcomes[number] = then(run, segment)
                opened.wait(PATIENCE)

        threads = [threading.Thread(target=trains, args=(each,)) for each in range(count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(3 * PATIENCE)
        return [outcomes.get(each) for each in range(count)]

    return begin


def saves(run, segment):
    """What comes of a save, which looks before it is sent."""
    try:
        with segment if not segment.entered else ExitStack():
            segment.save_state(f"{len(run.client.saved):06d}", step=segment.start_step)
    except SegmentSupersededError:
        return "held"
    return "held" if run.state == "following" else "goes on"


@pytest.mark.parametrize("is_late", [False, True], ids=["all at once", "one after the other"])
@pytest.mark.parametrize("count", [2, 8])
def test_of_those_that_make_a_run_one_goes_on(on_machines, account, count, is_late):
    outcomes = on_machines(count, is_late=is_late, then=saves)

    assert sorted(outcomes) == ["goes on", *["held"] * (count - 1)]
    assert len(account.listed) == 40 + count


@pytest.mark.parametrize("is_late", [False, True], ids=["all at once", "one after the other"])
@pytest.mark.parametrize("count", [2, 8])
def test_of_those_that_restore_a_run_one_goes_on(on_machines, account, count, is_late):
    told = {"tinkex_root": "root", "tinkex_owner": "gone", "tinkex_generation": "0"}
    account.add("gone:train:0", {"tinkex_name": NAME, **told})
    account.save("gone:train:0", 7)

    outcomes = on_machines(count, is_late=is_late, then=saves)

    assert sorted(outcomes) == ["goes on", *["held"] * (count - 1)]
