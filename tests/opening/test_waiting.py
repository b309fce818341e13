"""While an owner of another machine is waited for, it goes on: what it did meanwhile counts."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.accounts import BEGAN, FIRST, Account, Service, elsewhere, first_step
from support.world import weights

from tinkex.errors import RunHeldError

LATER = "later:train:0"


class Living(Account):
    """An account in which something happens at each look of whoever waits."""

    def __init__(self):
        super().__init__()
        self.happens = lambda: None

    def get_training_run(self, config, run_id):
        self.happens()
        return super().get_training_run(config, run_id)


@pytest.fixture
def account(opened, monkeypatch, tmp_path):
    """There another machine has made a run, and has not saved yet."""
    account = Living()
    with opened("sft-7", Service(account)):
        pass
    elsewhere(monkeypatch, tmp_path)
    return account


def recovers(account):
    """The owner that is waited for has restored its run, and saved."""
    if LATER in account.listed:
        return
    told = dict(account.rows[FIRST]["user_metadata"])
    told |= {"tinkex_generation": "1", "tinkex_recovered_from": FIRST}
    told["tinkex_checkpoint"] = weights("000020", FIRST)
    account.add(LATER, told, base_model="any", lora_rank=32)
    account.save(LATER, 24)


def test_a_run_that_saves_for_the_first_time_is_gone_on_with(opened, account):
    account.happens = lambda: account.saved or account.save(FIRST, 20)
    service = Service(account)

    with opened("sft-7", service) as run:
        assert first_step(run) == 20

    assert service.options == []


def test_a_generation_that_is_made_is_gone_on_with_once_it_is_silent(opened, account, world):
    account.save(FIRST, 20)
    account.happens = lambda: recovers(account)
    before = world.fake.now()

    with opened("sft-7", Service(account), held_wait=400.0) as run:
        assert first_step(run) == 24
        assert account.rows[run.run_id]["user_metadata"]["tinkex_generation"] == "2"

    # The silence of the run that it has replaced proves nothing.
    assert world.fake.now() - before >= 240


def test_an_owner_that_trains_a_generation_that_it_made_is_not_taken_over(opened, account, world):
    account.save(FIRST, 20)

    def trains():
        recovers(account)
        moment = BEGAN + timedelta(seconds=world.fake.now() // 60)
        account.rows[LATER]["last_request_time"] = moment.isoformat()

    account.happens = trains
    service = Service(account)

    with pytest.raises(RunHeldError, match="elsewhere"), opened("sft-7", service):
        pass

    assert service.created == service.options == []
