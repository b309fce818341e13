"""`open_run` with a journal: what the server does not keep is there, and its lease decides."""

from __future__ import annotations

import sqlite3

import pytest
from support.accounts import Account, Service, elsewhere, first_step
from support.journals import change
from support.sites import account_of

import tinkex
from tinkex import Journal
from tinkex.errors import RunHeldError, TinkexError

NAME = "sft-7"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tinkex.db"


def train(run, steps, save_every=2):
    """Train one segment up to a step; give the step at which it began."""
    segment = next(run.segments())
    with segment:
        for step in segment.steps(steps):
            segment.client.forward_backward([step])
            segment.client.optim_step()
            if (step + 1) % save_every == 0:
                segment.save_state(f"{step + 1:06d}", step=step + 1, data=[step])
    return segment


class Plain(Account):
    """A server that keeps no metadata, of runs nor of checkpoints."""

    keeps_metadata = False

    def _keep(self, path, metadata):
        super()._keep(path, None)


class Older(Service):
    """The service client of an SDK that gives runs no metadata."""

    def create_lora_training_client(self, base_model, rank=32):
        return super().create_lora_training_client(base_model, rank)


@pytest.mark.parametrize(("account", "service"), [(Plain, Service), (Account, Older)])
def test_a_run_without_metadata_is_found_by_its_name(opened, path, account, service):
    account = account()
    with opened(NAME, service(account), journal=path) as run:
        first = run.run_id
        assert train(run, 5).start_step == 0
    with opened(NAME, service(account), journal=path) as run:
        segment = train(run, 6)
        assert (segment.start_step, segment.data) == (4, [3])
        assert run.root_id == first
        second = run.run_id
    with opened(NAME, service(account), journal=path) as run:
        segment = next(run.segments())
        assert (segment.start_step, segment.data) == (6, [5])
        assert [each.run_id for each in run.lineage] == [first, second]


def test_without_a_journal_it_is_a_clear_error(opened):
    with pytest.raises(TypeError, match=r"no metadata.*give a journal"):
        opened(NAME, Older(Account())).__enter__()


def test_the_journal_decides_at_once_where_it_knows_the_newest_run(
    opened, world, account, path, monkeypatch, tmp_path
):
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
    elsewhere(monkeypatch, tmp_path)
    began = world.fake.now()
    with opened(NAME, Service(account), journal=path) as run:
        assert first_step(run) == 2
    assert world.fake.now() == began


def test_what_another_process_made_without_the_journal_is_newer(
    opened, account, path, monkeypatch, tmp_path
):
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
    with opened(NAME, Service(account)) as run:
        train(run, 4)
        newest = run.run_id
    with opened(NAME, Service(account), journal=path) as run:
        assert run.run_id == newest
        assert first_step(run) == 4
    with Journal(path) as journal:
        assert "completed" in [each.kind for each in journal.history()]


def test_an_owner_that_lives_elsewhere_has_it(opened, world, account, path, monkeypatch, tmp_path):
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
    change(path, "INSERT INTO owner VALUES ('other', 'far', 'boot', 7, '1', 0, 0)")
    change(path, "UPDATE lease SET owner_id = 'other'")
    statement = "UPDATE owner SET beat = 1 WHERE owner_id = 'other'"
    world.fake(3.0, lambda: change(path, statement)).start()

    with pytest.raises(RunHeldError, match="process 7 of far"):
        opened(NAME, Service(account), journal=path).__enter__()
    with opened(NAME, Service(account), journal=path, takeover=True) as run:
        assert first_step(run) == 2


def test_a_lease_that_was_taken_for_nothing_is_given_back(opened, account, path):
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
    with pytest.raises(ValueError, match="base_model"):
        opened(NAME, Service(account), journal=path, base_model="another").__enter__()

    db = sqlite3.connect(path)
    assert db.execute("SELECT owner_id FROM lease").fetchall() == [(None,)]
    db.close()


def test_every_run_that_was_made_is_named(opened, account, path):
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
        root = account.rows[run.run_id]["user_metadata"]["tinkex_root"]
    account.add("stray:train:0", {"tinkex_name": NAME, "tinkex_root": root})
    with opened(NAME, Service(account), journal=path) as run:
        first_step(run)
        made = [each.run_id for each in run.lineage]

    with Journal(path) as journal:
        history = journal.history()
    named = {each.run_id for each in history}
    named |= {each.body.get("successor_id") for each in history}
    assert {*made, "stray:train:0"} <= named


def test_the_budget_of_recoveries_counts_on(opened, account, path, monkeypatch):
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
        account.corrupted.add(run.run_id)
        run._parts.sweeps.make()
        assert len(run.lineage) == 2
    with opened(NAME, Service(account), journal=path) as run:
        assert len(run._record.history.incidents) == 1


def test_resume_finds_the_newest_run_by_the_first_ones_id(opened, world, path, monkeypatch):
    account = Plain()
    with opened(NAME, Service(account), journal=path) as run:
        first = run.run_id
        train(run, 2)
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 4)
        second = run.run_id
    with tinkex.resume(first, Service(account), journal=path) as run:
        assert run.run_id == second
        assert first_step(run) == 4


@pytest.mark.parametrize("account", [Plain, Account])
def test_a_run_that_has_saved_nothing_is_made_anew(opened, path, account):
    account = account()
    with opened(NAME, Service(account), journal=path) as run:
        first = run.run_id
        train(run, 1)
    with opened(NAME, Service(account), journal=path) as run:
        assert run.run_id != first
        assert train(run, 3).start_step == 0
    with opened(NAME, Service(account), journal=path) as run:
        assert train(run, 4).start_step == 2


def test_what_saved_nothing_is_not_brought_back(opened, world, account, path):
    for _ in range(2):
        with opened(NAME, Service(account), journal=path) as run:
            train(run, 1)
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
        newest = run.run_id
    parts = {"rest_module": account, "rest_client_fun": account_of, "scheduler": world.fake}
    with tinkex.Monitor({"enabled": True}, journal=path, **parts) as monitor:
        found = monitor.resume(Service(account))
    assert [each.run_id for each in found] == [newest]


@pytest.mark.parametrize("options", [{"base_model": "other"}, {"rank": 8}], ids=repr)
def test_another_model_under_the_same_name_is_an_error_where_only_the_journal_knows_it(
    opened, path, options
):
    account = Plain()
    with opened(NAME, Service(account), journal=path) as run:
        train(run, 2)
    with pytest.raises(ValueError, match=NAME):
        opened(NAME, Service(account), journal=path, **options).__enter__()
    with opened(NAME, Service(account), journal=path) as run:
        assert first_step(run) == 2


@pytest.mark.parametrize("account", [Plain, Account])
def test_the_run_of_another_name_is_not_taken_for_a_new_one(opened, path, account):
    account = account()
    with opened("first", Service(account), journal=path) as run:
        train(run, 2)
        client = run.client
    with pytest.raises(TinkexError, match="made:train:1"):
        opened(NAME, Service(account), journal=path, create=lambda *_: client).__enter__()
    with opened("first", Service(account), journal=path) as run:
        assert (first_step(run), run.status().generation) == (2, 1)


def test_a_run_that_was_made_before_is_not_taken_for_a_new_one(opened, account, path):
    made = []

    def create(service, metadata):
        if not made:
            made.append(service._made("own:train:0", metadata))
        return made[0]

    with opened(NAME, Service(account), create=create) as run:
        train(run, 1)
    for options in ({}, {"journal": path}):
        with pytest.raises(TinkexError, match="own:train:0"):
            opened(NAME, Service(account), create=create, **options).__enter__()
