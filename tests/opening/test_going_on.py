"""A run whose process has ended goes on in another one, from any run id of its lineage."""

from __future__ import annotations

import random

import pytest
from support.sites import Site, Tenant, account_of
from support.world import RUN, StatusError, weights

import tinkex
from tinkex import Policy
from tinkex.errors import (
    ApiResponseError,
    ApiStatusError,
    CheckpointMissingError,
    SegmentSupersededError,
)
from tinkex.opening.lineages import lineage_named, lineage_of, list_all
from tinkex.ports import RestPort
from tinkex.testing import FakeTrainingClient, InlineExecutor

SECOND, THIRD, EMPTY = "5e11:train:0", "9ab2:train:0", "aaaa:train:0"


def saved(run_id, name, step):
    path = weights(name, run_id)
    metadata = {"tinkex_step": str(step), "tinkex_data": "[7]"}
    return {"tinker_path": path, "time": f"2026-01-01T00:{step:02}:00Z", "user_metadata": metadata}


def carried(before, made_from, **more):
    return {
        "tinkex_root": RUN,
        "tinkex_recovered_from": before,
        "tinkex_checkpoint": made_from,
        "name": "sft",
        **more,
    }


class Account(Site):
    """Three generations of a run among others; the last one was left at step 30."""

    def __init__(self, others=40, **options):
        super().__init__([f"other{n}:train:0" for n in range(others)], **options)
        self.listed[3:3] = [THIRD, RUN, SECOND]
        self.saves = {
            RUN: [saved(RUN, "000005", 5)],
            SECOND: [saved(SECOND, "000010", 10), saved(SECOND, "000020", 20)],
            THIRD: [saved(THIRD, "000030", 30)],
        }
        self.rows[RUN] = {"user_metadata": {"name": "sft"}}
        self.rows[SECOND] = {"user_metadata": carried(RUN, weights("000005"))}
        self.rows[THIRD] = {"user_metadata": carried(SECOND, weights("000020", SECOND))}
        for run_id, checkpoints in self.saves.items():
            self.rows[run_id]["last_checkpoint"] = checkpoints[-1]

    def left_behind(self):
        """A load of the third generation failed, and left a run without a checkpoint."""
        made = carried(THIRD, weights("000030", THIRD), tinkex_generation="3")
        self.listed.insert(0, EMPTY)
        self.rows[EMPTY] = {"user_metadata": made, "last_checkpoint": None}

    def list_checkpoints(self, config, run_id):
        return self.saves.get(run_id, [])


def going_on(world, site, run_id, claim=None, **policy):
    tenant = Tenant(world.service)
    options = {"rest_module": site, "rest_client_fun": account_of, "scheduler": world.fake}
    options.update(claim or {"takeover": True})
    policy = Policy(enabled=True, poll_interval=10.0, **policy)
    return tinkex.resume(run_id, tenant, policy, executor=InlineExecutor(), **options)


@pytest.mark.parametrize("run_id", [RUN, SECOND, THIRD, EMPTY])
def test_a_run_goes_on_at_the_newest_step_by_any_id_of_its_lineage(world, run_id):
    site = Account()
    site.left_behind()
    with going_on(world, site, run_id) as run:
        segment = next(run.segments())

        assert (segment.start_step, segment.data) == (30, [7])
        assert world.service.created == [(weights("000030", THIRD), True)]
        assert run.root_id == RUN
        assert [each.run_id for each in run.lineage] == [RUN, SECOND, THIRD, run.client.model_id]
        assert [each.cause for each in run.lineage] == [None, None, "restarted", None]
        # That of the load that failed is not used again.
        assert run.status().generation == 4


def test_to_look_at_it_makes_nothing(world):
    with going_on(world, Account(), RUN) as run:
        plan, status = run.plan(), run.status()
        world.fake.advance(60)

    assert plan.candidates[0].step == 30
    assert status.run_id == THIRD
    assert world.service.created == []
    assert [name for name in world.events.names if name != "swept"] == []


def test_wait_gives_a_live_client(world):
    with going_on(world, Account(), RUN) as run:
        assert run.wait(5) is run.client is world.service.clients[-1]
        assert run.wait(5) is run.client

    assert len(world.service.created) == 1
    assert world.events.names == ["started", "checkpoint_selected", "client_created", "completed"]


def test_the_next_generation_says_where_it_belongs(world):
    with going_on(world, Account(), RUN) as run:
        run.wait(5)

    assert world.service.metadata[-1] == {
        "name": "sft",
        "tinkex_root": RUN,
        "tinkex_generation": "3",
        "tinkex_recovered_from": THIRD,
        "tinkex_checkpoint": weights("000030", THIRD),
        "tinkex_attempt": "1",
        "tinkex_silent_for": "120",
        "tinkex_owner": world.service.metadata[-1]["tinkex_owner"],
    }


def test_where_the_newest_checkpoint_does_not_load_the_one_before_it_does(world):
    world.service.fail(StatusError(422))
    with going_on(world, Account(), RUN, max_attempts=2, backoff=0.0) as run:
        segment = next(run.segments())

    assert segment.start_step == 20


def test_what_an_owner_saved_after_it_was_replaced_is_not_gone_on_from(world):
    site = Account()
    site.saves[SECOND].append(saved(SECOND, "000099", 99))
    site.rows[SECOND]["last_checkpoint"] = site.saves[SECOND][-1]
    world.service.fail(StatusError(422))
    with going_on(world, site, RUN, max_attempts=2, backoff=0.0) as run:
        assert [each.step for each in run.plan().candidates] == [30, 20, 10, 5]
        assert next(run.segments()).start_step == 20


def test_a_run_that_was_never_monitored_goes_on_from_its_checkpoint(world):
    site = Account()
    site.saves["other7:train:0"] = [saved("other7:train:0", "last", 9)]
    with going_on(world, site, "other7:train:0") as run:
        assert next(run.segments()).start_step == 9
        assert run.root_id == "other7:train:0"


def test_a_run_without_any_checkpoint_cannot_go_on(world):
    site = Account()
    site.rows["other7:train:0"] = {"last_checkpoint": None}

    with (
        pytest.raises(CheckpointMissingError, match="other7"),
        going_on(world, site, "other7:train:0"),
    ):
        pass

    assert world.service.created == []


def test_a_run_that_nobody_knows_is_an_error(world):
    with pytest.raises(ApiStatusError, match="404"), going_on(world, Account(), "gone:train:0"):
        pass


def test_a_rest_module_that_lists_no_runs_is_an_error(world):
    with (
        pytest.raises(TypeError, match="list_training_runs"),
        tinkex.resume(RUN, world.service, rest_module=world.rest, scheduler=world.fake),
    ):
        pass


def test_a_run_that_is_flagged_before_its_first_use_goes_on_once(world):
    site = Account()
    with going_on(world, site, RUN) as run:
        site.corrupted.add(THIRD)
        world.fake.advance(10)
        segment = next(run.segments())

        assert segment.start_step == 30
        assert run.lineage[-2].cause == "corrupted"
    assert len(world.service.created) == 1


def test_a_loop_that_goes_on_is_recovered_as_any_other(world):
    site = Account()
    with going_on(world, site, RUN) as run:
        segments = run.segments()
        with next(segments) as segment:
            segment.client.forward_backward([1]).result()
            segment.client.optim_step().result()
            segment.save_state("000031", step=31)
            made = run.run_id
            site.saves[made] = [saved(made, "000031", 31)]
            site.corrupted.add(made)
            world.fake.advance(10)
            with pytest.raises(SegmentSupersededError):
                segment.client.forward_backward([1])

        assert next(segments).start_step == 31
        assert run.status().generation == 4
        assert world.service.metadata[-1]["tinkex_root"] == RUN
        assert world.service.metadata[-1]["tinkex_generation"] == "4"


@pytest.mark.parametrize("run_id", ["", 5, None])
def test_what_is_no_run_id_is_refused_at_the_door(world, run_id):
    with pytest.raises((TypeError, ValueError)), going_on(world, Account(), run_id):
        pass


def test_a_recovery_that_is_asked_for_comes_first(world):
    with going_on(world, Account(), RUN) as run:
        run.recover().result(5)
        segment = next(run.segments())

        assert (segment.start_step, run.lineage[-2].cause) == (30, "requested")
    assert len(world.service.created) == 1


def test_a_run_of_a_lineage_that_is_watched_by_its_own_id_stays_in_its_lineage(world):
    site = Account()
    options = {"rest_module": site, "rest_client_fun": account_of, "scheduler": world.fake}
    policy = Policy(enabled=True, poll_interval=10.0)
    options["executor"] = InlineExecutor()
    client = FakeTrainingClient(THIRD)
    site.rows[THIRD]["user_metadata"]["tinkex_generation"] = "7"
    with tinkex.watch(client, Tenant(world.service), policy, **options) as run:
        site.corrupted.add(THIRD)
        world.fake.advance(10)
        run.wait(5)

    made = world.service.metadata[-1]
    assert (made["tinkex_root"], made["tinkex_generation"]) == (RUN, "8")
    assert made["tinkex_recovered_from"] == THIRD


def test_a_lineage_whose_runs_have_lost_their_checkpoints_is_not_begun_anew(world):
    site = Account()
    for run_id in (RUN, SECOND, THIRD):
        site.rows[run_id]["last_checkpoint"] = None
        site.saves.pop(run_id)
    with going_on(world, site, RUN) as run:
        assert [each.checkpoint.tinker_path for each in run.plan().candidates] == [
            weights("000020", SECOND)
        ]


# The list


def lineage(site, run_id=RUN):
    return lineage_of(RestPort(site), None, run_id)


def test_of_two_equal_generations_the_smaller_run_id_counts():
    site = Account()
    site.listed.append("1111:train:0")
    site.rows["1111:train:0"] = {
        "user_metadata": carried(SECOND, weights("000020", SECOND)),
        "last_checkpoint": saved("1111:train:0", "x", 25),
    }

    assert lineage(site).newest.training_run_id == "1111:train:0"


@pytest.mark.parametrize("last", ["0000:train:0", "ffff:train:0"])
def test_of_two_lineages_begun_under_one_name_the_same_one_counts_after_each_restart(last):
    site = Account()
    runs = {"bbbb:train:0": ("one", 0), "cccc:train:0": ("other", 0), last: ("one", 1)}
    for run_id, (root, number) in runs.items():
        made = {"tinkex_name": "a", "tinkex_root": root, "tinkex_generation": str(number)}
        site.listed.append(run_id)
        site.rows[run_id] = {"user_metadata": made, "last_checkpoint": saved(run_id, "x", 5)}

    assert lineage_named(RestPort(site), None, "a").newest.training_run_id == last


@pytest.mark.parametrize("seed", range(10))
def test_rows_that_move_while_the_list_is_read_are_all_found(seed):
    chance = random.Random(seed)

    def order(listed):
        # A run that was asked for something comes first, as real servers have it.
        listed.insert(0, listed.pop(chance.randrange(len(listed))))
        return listed

    site = Account(others=350, cap=100, order=order)

    assert set(list_all(RestPort(site), None)) == set(site.listed)


@pytest.mark.parametrize(("runs", "most"), [(97, 1), (9_997, 100)], ids=["100 runs", "10,000 runs"])
def test_a_list_that_stands_still_is_read_once(runs, most):
    site = Account(others=runs, cap=100)

    assert lineage(site).newest.training_run_id == THIRD
    assert len(site.lists) == most


def test_a_list_that_is_cut_short_is_an_error_and_not_an_account_without_the_run():
    site = Account(page=lambda rows, offset: rows[:7] if offset == 0 else [])

    with pytest.raises(ApiResponseError, match="7 of 43 runs"):
        lineage(site)


def test_a_list_without_a_total_is_read_to_its_end():
    site = Account(others=250, cap=100, total=None)

    assert len(list_all(RestPort(site), None)) == 253


def test_without_a_total_rows_that_move_while_it_is_read_are_found():
    def order(listed):
        # The last of the second page is asked for something after the first one was read.
        if len(site.lists) == 2:
            listed.insert(0, listed.pop(150))
        return listed

    site = Account(others=250, cap=100, total=None, order=order)

    assert set(list_all(RestPort(site), None)) == set(site.listed)


def test_a_server_that_sends_the_same_page_again_is_not_asked_for_ever():
    site = Account(others=250, cap=100, total=None, page=lambda rows, offset: rows)
    site.list_training_runs = lambda config, limit, offset: Site.list_training_runs(
        site, config, limit=limit, offset=0
    )

    assert len(list_all(RestPort(site), None)) == 100


def test_a_run_that_claims_to_come_from_itself_is_read_all_the_same():
    site = Account()
    site.rows[SECOND]["user_metadata"]["tinkex_recovered_from"] = THIRD

    assert lineage(site).newest.training_run_id in (SECOND, THIRD)
