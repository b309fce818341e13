"""A run that another process of this machine has open is followed: polled, and never recovered."""

from __future__ import annotations

import os
import re
import socket
from contextlib import nullcontext
from functools import partial

import pytest
from support.accounts import FIRST, Account, Service
from support.holders import NAME, Holder, held_elsewhere
from support.lineages import RUN, SECOND, THIRD
from support.lineages import Account as Lineages
from support.sites import account_of, refuses
from support.world import ManualExecutor

import tinkex
from tinkex import signals
from tinkex.errors import ApiServerError, RunHeldError
from tinkex.testing import FakeTrainingClient


@pytest.fixture
def holder():
    made = Holder()
    yield made
    made.kill()


@pytest.fixture
def monitored(world):
    """Monitor a run of an account, in the way of a process that has not opened it."""

    def monitored(account, run_id=FIRST, *, executor=None, journal=None):
        options = {"rest_module": account, "rest_client_fun": account_of}
        if journal is not None:
            options["journal"] = journal
        monitored.service = Service(account)
        monitored.monitor = world.monitor(executor, options=options)
        client = FakeTrainingClient(run_id)
        return monitored.monitor.monitor_run(run_id, monitored.service, client=client)

    return monitored


def theirs(account, run_id=FIRST, owner="they", generation=0, **told):
    """A run of another owner, which was saved."""
    told = {"tinkex_name": NAME, "tinkex_root": "root", "tinkex_owner": owner, **told}
    account.add(run_id, {**told, "tinkex_generation": str(generation)})
    account.save(run_id, 1)
    return account


# Another process


def test_it_is_followed_until_that_process_is_killed(holder, world, monitored):
    account = holder.account
    account.save(holder.run_id, 20)
    run = monitored(account, holder.run_id)
    world.fake.advance(10)
    assert run.state == "following"
    account.corrupted.add(holder.run_id)
    world.fake.advance(60)

    assert (run.status().state, run.status().last_poll is None) == ("following", False)
    assert (monitored.service.created, world.events.names) == ([], ["fenced"])
    who = rf"pid {holder.process.pid}, host {re.escape(socket.gethostname())}, since 20"
    for refused in (run.recover, partial(next, run.segments()), run.wait):
        with pytest.raises(RunHeldError, match=who):
            refused()

    holder.kill()
    world.fake.advance(10)
    assert (run.state, len(monitored.service.created)) == ("healthy", 1)
    assert world.events.names[1:] == [*["detected", "started", "checkpoint_selected"], *MADE]


MADE = ["client_created", "completed"]


def test_it_is_free_where_that_process_has_left_its_block(holder, world, monitored):
    run = monitored(holder.account, holder.run_id)
    world.fake.advance(10)
    assert run.state == "following"
    holder.end()
    world.fake.advance(10)

    assert run.state == "healthy"
    assert next(run.segments()).client.model_id == holder.run_id


def test_a_loop_and_a_recovery_look_before_any_poll(holder, world, monitored):
    holder.account.save(holder.run_id, 20)
    for ask in ("segments", "wait", "recover"):
        run = monitored(holder.account, holder.run_id)
        assert run.state == "healthy"
        with pytest.raises(RunHeldError, match=f"pid {holder.process.pid}"):
            {"segments": lambda run: next(run.segments()), "wait": lambda run: run.wait(5)}.get(
                ask, lambda run: run.recover().result(5)
            )(run)
        assert run.state == "following"

    assert monitored.service.created == []
    assert {"failed", "exhausted"}.isdisjoint(world.events.names)


def test_watch_follows_as_well(holder, world):
    client, service = FakeTrainingClient(holder.run_id), Service(holder.account)
    options = {"rest_module": holder.account, "rest_client_fun": account_of}
    with (
        tinkex.watch(client, service, scheduler=world.fake, **options) as run,
        pytest.raises(RunHeldError, match="pid"),
    ):
        next(run.segments())


def test_a_run_without_a_client_is_held_and_not_only_without_one(holder, world, monitored):
    monitored(holder.account, "other1:train:0")
    run = monitored.monitor.monitor_run(holder.run_id, monitored.service)

    with pytest.raises(RunHeldError, match="pid"):
        run.segments()


# Which runs it has


@pytest.fixture
def account():
    return Account()


def test_to_monitor_a_run_does_no_io(account, monitored, monkeypatch):
    with held_elsewhere():
        monitored(theirs(account), "other1:train:0")
        for name in ("open", "access", "stat"):
            monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("a file is looked at"))
        run = monitored.monitor.monitor_run(FIRST, monitored.service)
        monkeypatch.undo()

        assert (run.state, account.requests) == ("healthy", 0)


@pytest.mark.parametrize("count", [1, 41], ids=["asked for", "listed"])
def test_it_is_followed_once_a_poll_has_told_whose_it_is(account, world, monitored, count):
    with held_elsewhere():
        run = monitored(theirs(account))
        for each in account.listed[: count - 1]:
            monitored.monitor.monitor_run(each, monitored.service)
        world.fake.advance(10)

        assert len(account.lists) == (count > 1)
        assert run.state == "following"
        others = {each.state for each in monitored.monitor.status() if each.run_id != FIRST}
        assert others <= {"healthy"}


@pytest.mark.parametrize("run_id", [RUN, SECOND, THIRD])
def test_any_generation_is_held_also_that_which_tinkex_never_saw(world, monitored, run_id):
    site = Lineages()
    site.corrupted.add(run_id)
    with held_elsewhere(name=None, root=RUN, generation=2):
        run = monitored(site, run_id)
        world.fake.advance(10)

        assert run.state == "following"
    assert monitored.service.created == []
    assert {"checkpoint_selected", "failed", "exhausted"}.isdisjoint(world.events.names)


def test_what_its_owner_has_made_since_is_held(account, world, monitored):
    with held_elsewhere("they", generation=0):
        run = monitored(theirs(account, owner="they", generation=5))
        world.fake.advance(10)

        assert run.state == "following"


@pytest.mark.parametrize("there", ["another machine", "waiting", "another name", "nobody"])
def test_the_run_of_another_machine_s_owner_is_not_held(account, world, monitored, there):
    locks = {
        "another machine": {"owner": "we", "generation": 0},
        "waiting": {"is_claimed": False},
        "another name": {"name": "sft-8"},
    }
    theirs(account, generation=1).corrupted.add(FIRST)
    with held_elsewhere(**locks[there]) if there in locks else nullcontext():
        run = monitored(account)
        world.fake.advance(10)

        assert (run.state, len(monitored.service.created)) == ("healthy", 1)


def test_what_this_process_has_open_is_not_held(account, world, monitored, opened):
    with opened(NAME, Service(account)) as own:
        run = monitored(account, own.run_id)
        world.fake.advance(10)

        assert run.state == "healthy"
        assert next(run.segments()).client.model_id == own.run_id


def test_what_the_parent_of_a_fork_has_open_is_not_its_child_s(account, monitored):
    from support.forks import in_child

    def child():
        run = monitored(account)
        with pytest.raises(RunHeldError):
            next(run.segments())

    theirs(account)
    with held_elsewhere():
        assert in_child(child) == ""


def test_where_nothing_is_open_the_server_is_not_asked_whose_a_run_is(account, monitored):
    with held_elsewhere():
        pass  # its file stays
    run = monitored(theirs(account))

    assert next(run.segments()).client.model_id == FIRST
    assert account.requests == 0


def test_where_the_server_does_not_answer_the_loop_goes_on(account, monitored):
    theirs(account).get_errors[FIRST] = ApiServerError(503, "down")
    with held_elsewhere():
        assert next(monitored(account).segments()).client.model_id == FIRST


def test_with_a_journal_its_lease_decides(account, world, monitored, tmp_path):
    with held_elsewhere():
        run = monitored(theirs(account), journal=tmp_path / "tinkex.db")
        world.fake.advance(70)

        assert run.state == "healthy"
        assert next(run.segments()).client.model_id == FIRST
    monitored.monitor.stop()


# Moments


def test_one_that_is_opened_later_is_followed_within_about_a_minute(account, world, monitored):
    run = monitored(theirs(account))
    world.fake.advance(30)
    with held_elsewhere():
        world.fake.advance(60)
        assert run.state == "following"


def test_an_attempt_looks_again(account, world, monitored):
    theirs(account).corrupted.add(FIRST)
    executor = ManualExecutor()
    run = monitored(account, executor=executor)
    world.fake.advance(10)
    assert run.state == "recovering"
    executor.begin_next()
    with held_elsewhere():
        executor.finish_next()
        world.fake.advance(10)
        assert run.state == "following"

    assert monitored.service.created == []
    assert world.events.names == ["detected", "started", "fenced"]


def test_two_monitors_of_a_process_that_recover_it_together_follow_together(
    account, world, monitored
):
    executor = ManualExecutor()
    runs = [monitored(theirs(account), executor=executor)]
    runs.append(monitored(account, executor=executor))
    world.fake.advance(10)
    futures = [each.recover() for each in runs]
    with held_elsewhere():
        world.fake.advance(70)
        assert [each.state for each in runs] == ["following"] * 2
        while executor.waiting:
            executor.run_next()

    assert [type(each.exception(0)) for each in futures] == [RunHeldError] * 2
    assert monitored.service.created == []


def test_it_may_be_monitored_anew_and_is_held_still(account, world, monitored):
    with held_elsewhere():
        run = monitored(theirs(account))
        world.fake.advance(10)
        monitored.monitor.monitor_run(FIRST, monitored.service)
        assert run.state == "healthy"
        account.corrupted.add(FIRST)
        world.fake.advance(10)

        assert run.state == "following"
    assert monitored.service.created == []


def test_one_that_was_gone_on_with_stays_followed(account, world, monitored):
    with held_elsewhere():
        run = monitored(theirs(account))
        world.fake.advance(10)
        theirs(account, "later:train:0", generation=1, tinkex_recovered_from=FIRST)
        account.corrupted.add(FIRST)
    world.fake.advance(100)

    assert (run.state, monitored.service.created) == ("following", [])
    with pytest.raises(RunHeldError, match=r"they has taken it over with run 'later:train:0'"):
        run.recover()
    assert world.events.names == ["fenced"]


def test_an_older_generation_than_others_have_trained_is_not_recovered(account, world, monitored):
    run = monitored(theirs(account))
    world.fake.advance(10)
    theirs(account, "later:train:0", "they too", generation=1, tinkex_recovered_from=FIRST)
    account.corrupted.add(FIRST)
    world.fake.advance(100)

    assert (run.state, monitored.service.created) == ("following", [])
    with pytest.raises(RunHeldError, match=r"with run 'later:train:0'"):
        run.recover()


def test_where_the_list_fails_nothing_is_made_until_it_answers(account, world, monitored):
    run = monitored(theirs(account))
    world.fake.advance(10)
    account.page = refuses(ApiServerError(503, "down"))
    account.corrupted.add(FIRST)
    world.fake.advance(15)
    assert (run.state, monitored.service.created) == ("waiting", [])
    account.page = lambda rows, offset: rows
    world.fake.advance(100)

    assert (run.state, len(monitored.service.created)) == ("healthy", 1)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("first", ["its owner", "a monitor beside it"])
def test_whichever_monitor_recovers_what_is_open_here_it_has_its_owner(
    account, world, monitored, opened, first, times
):
    service = Service(account)
    for _ in range(times - 1):
        with opened(NAME, service, silent_for=600.0):
            pass
    with opened(NAME, service, again=times > 1, silent_for=600.0) as own:
        account.save(own.run_id, 20)
        beside = monitored(account, own.run_id)
        told = dict(account.rows[own.run_id]["user_metadata"])
        run = own if first == "its owner" else beside
        run.recover().result(0)
        made = account.rows[run.run_id]["user_metadata"]

        assert made["tinkex_generation"] == "1"
        for key in ("tinkex_owner", "tinkex_silent_for", "tinkex_root", "tinkex_name"):
            assert made[key] == told[key]


def test_where_that_cannot_be_seen_it_is_looked_again(account, world, monitored):
    with held_elsewhere():
        run = monitored(theirs(account))
        world.fake.advance(10)
    account.page = refuses(ApiServerError(503, "down"))
    world.fake.advance(10)
    assert run.state == "following"
    account.page = lambda rows, offset: rows
    world.fake.advance(10)

    assert run.state == "healthy"


def test_what_was_given_up_is_not_begun_anew_by_a_process_that_comes_and_goes(
    account, world, monitored
):
    run = monitored(theirs(account))
    world.fake.advance(10)
    monitored.service.fail(RuntimeError("no"), times=9)
    account.corrupted.add(FIRST)
    world.fake.advance(60)
    assert run.state == "exhausted"
    with held_elsewhere():
        world.fake.advance(70)
    world.fake.advance(70)

    assert run.state == "exhausted"
    assert len(world.events.of("detected")) == 1


def test_what_was_stopped_is_not_followed(account, world, monitored):
    with held_elsewhere():
        run = monitored(theirs(account))
        run.stop()
        world.fake.advance(100)

        assert run.state == "stopped"
    assert world.events.names == []


def test_a_receiver_is_told_who_has_it(account, world, monitored):
    told = []
    with signals.subscribe(lambda sender, *, event: told.append(event), "fenced"), held_elsewhere():
        run = monitored(theirs(account))
        world.fake.advance(10)

    assert [(each.run_id, each.successor_id) for each in told] == [(FIRST, FIRST)]
    assert f"pid {os.getpid()}" in told[0].owner
    assert run.state == "following"
