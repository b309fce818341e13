"""A cell that is run again goes on with the client of its process, as the next segment would."""

from __future__ import annotations

import gc
from contextlib import suppress
from types import SimpleNamespace

import pytest
from support.accounts import FIRST, Account, Client, Service
from support.forks import in_child
from support.lineages import THIRD, going_on
from support.lineages import Account as OldAccount
from support.sites import refuses
from support.world import RUN, weights

from tinkex.errors import ApiStatusError, RunHeldError
from tinkex.opening import here


def train(segment, steps):
    for step in steps:
        segment.client.forward_backward(step).result()
        segment.client.optim_step().result()


def save(account, run, segment, step):
    segment.save_state(f"{step:06d}", step=step)
    account.save(run.run_id, step)


@pytest.fixture
def cell(opened, account):
    """Opens `sft-7` again in this process, trains `steps`, saves at `at`, and is interrupted."""

    def cell(steps=(), at=None, then=(), **options):
        with (
            suppress(KeyboardInterrupt),
            opened("sft-7", cell.service, again=True, **options) as run,
            next(run.segments()) as segment,
        ):
            cell.began = segment.start_step
            train(segment, steps)
            if at is not None:
                save(account, run, segment, at)
            train(segment, then)
            raise KeyboardInterrupt
        return run

    cell.service = Service(account)
    return cell


def test_it_goes_on_in_place_where_nothing_was_submitted_since_the_last_save(cell, account):
    first = cell([0, 1], at=2)
    again = cell()

    assert (cell.began, again.run_id, again.status().generation) == (2, FIRST, 0)
    assert again.client is first.client
    assert len(account.listed) == 41


def test_it_goes_back_to_the_last_save_where_something_was(cell, account):
    first = cell([0, 1], at=2, then=[2])
    again = cell()

    assert cell.began == 2
    assert again.client is not first.client
    assert [each.cause for each in again.lineage] == ["interrupted", None]
    assert (again.root_id, again.status().generation) == (FIRST, 1)
    assert len(cell.service.created) == 1
    told = [account.rows[each]["user_metadata"] for each in (FIRST, again.run_id)]
    assert told[0]["tinkex_owner"] == told[1]["tinkex_owner"]


def test_nothing_is_waited_for(cell, world, monkeypatch):
    monkeypatch.setattr("tinkex.lineage.owners._folders", list)
    runs = [cell([0], at=1)]
    before = world.fake.now()
    runs += [cell(), cell([1])]

    assert {each.run_id for each in runs} == {FIRST}
    assert world.fake.now() == before


def test_again_and_again_the_lineage_is_one(cell, account):
    runs = [cell([0], at=1, then=[1]) for _ in range(4)]

    assert [each.status().generation for each in runs] == [0, 1, 2, 3]
    assert [each.cause for each in runs[-1].lineage] == [*["interrupted"] * 3, None]
    told = [account.rows[run.run_id]["user_metadata"]["tinkex_generation"] for run in runs]
    assert told == ["0", "1", "2", "3"]


def test_what_was_trained_and_never_saved_is_begun_anew(cell):
    first = cell([0, 1])
    again = cell()

    assert (cell.began, again.status().generation) == (0, 1)
    assert len(cell.service.options) == 2
    assert again.run_id != first.run_id


def test_what_was_not_trained_yet_is_not(cell):
    first = cell()
    again = cell()

    assert (cell.began, again.client) == (0, first.client)


def test_where_the_client_is_gone_it_is_restored(cell, account):
    cell([0, 1], at=2)
    cell.service.clients.clear()
    gc.collect()
    again = cell([2], at=3)

    assert (cell.began, again.status().generation) == (2, 1)
    assert [each.cause for each in again.lineage] == ["restarted", None]


def test_where_another_owner_took_over_its_run_is_gone_on_with(cell, account, opened):
    first = cell([0, 1], at=2)
    told = {**account.rows[FIRST]["user_metadata"], "tinkex_owner": "b", "tinkex_generation": "1"}
    account.add("other-machine:train:0", {**told, "tinkex_recovered_from": FIRST})
    account.save("other-machine:train:0", 7)
    again = cell(takeover=True)

    assert cell.began == 7
    assert again.run_id == "other-machine:train:0"
    assert first.client.model_id == FIRST


def test_what_a_failed_load_of_its_own_left_is_no_other_owner(cell, account):
    first = cell([0, 1], at=2)
    told = {**account.rows[FIRST]["user_metadata"], "tinkex_generation": "1"}
    account.add("failed:train:0", {**told, "tinkex_recovered_from": FIRST})
    again = cell()

    assert again.client is first.client


def test_one_that_is_open_is_held_even_where_no_lock_can_be_had(opened, account, monkeypatch):
    monkeypatch.setattr("tinkex.lineage.owners._folders", list)
    with opened("sft-7", Service(account), again=True) as run:
        with (
            pytest.raises(RunHeldError, match="sft-7"),
            opened("sft-7", Service(account), again=True),
        ):
            pass
        assert run.run_id == FIRST
    with opened("sft-7", Service(account), again=True) as again:
        assert again.client is run.client


def test_steps_go_along_that_no_server_keeps(cell, account, monkeypatch):
    def save_state(client, name):
        return client._answer("save_state", name, weights(name, client.model_id))

    def kept(account, run_id, step):
        account.saves[run_id] = [{"tinker_path": weights(f"{step:06d}", run_id)}]
        account.rows[run_id]["last_checkpoint"] = account.saves[run_id][0]

    monkeypatch.setattr(Client, "save_state", save_state)
    monkeypatch.setattr(Account, "save", kept)
    runs = [cell([0, 1], at=2, then=[2]), cell(), cell(then=[2]), cell()]

    assert cell.began == 2
    assert [each.cause for each in runs[-1].lineage] == ["interrupted", "interrupted", None]


def test_one_that_was_gone_on_with_by_its_id_goes_on_by_any_other(world):
    site = OldAccount()
    for number, run_id in enumerate([RUN, THIRD]):
        with going_on(world, site, run_id) as run:
            with next(run.segments()) as segment:
                train(segment, [30 + number])
                segment.save_state("end", step=31 + number)
            made = world.service.metadata[0]
            site.rows[run.run_id] = {"user_metadata": made, "last_checkpoint": None}
            site.listed[:0] = [run.run_id] if number == 0 else []
            assert segment.start_step == 30 + number

    assert len(world.service.created) == 1


def test_its_service_client_is_closed_by_the_opening_in_which_it_was_replaced(opened, account):
    told = []

    class Own(Service):
        count = 0

        def __init__(self):
            super().__init__(Own.account)
            Own.count += 1
            self.number = Own.count

        def close(self, status):
            told.append((self.number, status))

        def _create(self, path, user_metadata, *, with_optimizer):
            made = super()._create(path, user_metadata, with_optimizer=with_optimizer)
            self.clients.clear()  # as the official one, it keeps none alive
            return made

    Own.account = account
    for then in ([], [1], []):
        with opened("sft-7", Own, again=True) as run, next(run.segments()) as segment:
            if not then and told:
                break
            train(segment, [0])
            save(account, run, segment, 1)
            train(segment, then)
        told.append("left")

    assert told == ["left", "left", (1, "success")]


def test_where_the_list_could_not_be_had_it_goes_on_the_next_time(cell, account, monkeypatch):
    first = cell([0], at=1)
    with monkeypatch.context() as patch:
        patch.setattr(account, "page", refuses(ApiStatusError.of(503)))
        with pytest.raises(ApiStatusError):
            cell()

    assert cell().client is first.client


def test_a_forked_child_has_nothing_of_it(cell, opened, account):
    first = cell([0], at=1)

    def child():
        service = Service(account)
        with opened("sft-7", service, again=True) as run, next(run.segments()) as segment:
            assert segment.client.model_id == run.run_id
            assert run.client is not first.client
        assert len(service.created) == 1

    assert in_child(child) == ""
    assert cell().client is first.client


def interrupt(*args, **options):
    raise KeyboardInterrupt


def test_an_interrupt_while_it_is_locked_leaves_it_free(cell, opened, monkeypatch):
    cell([1], at=1)
    with monkeypatch.context() as patched:
        patched.setattr("os.write", interrupt)
        with pytest.raises(KeyboardInterrupt), opened("sft-7", cell.service, again=True):
            pass
    cell()


def test_an_interrupt_while_it_is_unlocked_leaves_it_free(cell, opened, monkeypatch):
    cell([1], at=1)
    with (
        monkeypatch.context() as patched,
        pytest.raises(KeyboardInterrupt),
        opened("sft-7", cell.service, again=True),
    ):
        patched.setattr("os.unlink", interrupt)
    cell()


def test_an_interrupt_while_it_is_opened_leaves_it_free(cell, opened):
    cell([1], at=1)
    here._table.left["other"] = SimpleNamespace(client=interrupt)
    with pytest.raises(KeyboardInterrupt), opened("sft-7", cell.service, again=True):
        pass
    del here._table.left["other"]
    cell()


def test_an_interrupt_while_what_is_left_is_kept_leaves_it_free(cell, opened, monkeypatch):
    cell([1], at=1)
    with (
        monkeypatch.context() as patched,
        pytest.raises(KeyboardInterrupt),
        opened("sft-7", cell.service, again=True),
    ):
        patched.setattr(here, "replace", interrupt)
    assert cell([1]).run_id != FIRST
    assert cell.began == 1
