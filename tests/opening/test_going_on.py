"""A run whose process has ended goes on in another one, from any run id of its lineage."""

from __future__ import annotations

import pytest
from support.lineages import EMPTY, SECOND, THIRD, Account, going_on, saved
from support.sites import Tenant, account_of
from support.world import RUN, StatusError, weights

import tinkex
from tinkex import Policy
from tinkex.errors import (
    ApiStatusError,
    CheckpointMissingError,
    SegmentSupersededError,
)
from tinkex.testing import FakeTrainingClient, InlineExecutor


@pytest.mark.parametrize("run_id", [RUN, SECOND, THIRD, EMPTY])
def test_a_run_goes_on_at_the_newest_step_by_any_id_of_its_lineage(world, run_id):
    site = Account()
    site.left_behind()
    with going_on(world, site, run_id) as run:
        segment = next(run.segments())

        assert (segment.start_step, segment.data) == (30, [7])
        assert segment.client.model_id == run.run_id
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
        run.wait(5)
        assert next(run.segments()).start_step == 20


def test_what_an_owner_saved_after_it_was_replaced_is_not_gone_on_from(world):
    site = Account()
    site.saves[SECOND].append(saved(SECOND, "000099", 99))
    site.rows[SECOND]["last_checkpoint"] = site.saves[SECOND][-1]
    world.service.fail(StatusError(422))
    with going_on(world, site, RUN, max_attempts=2, backoff=0.0) as run:
        assert [each.step for each in run.plan().candidates] == [30, 20, 10, 5]
        run.wait(5)
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
    site.rows[THIRD]["user_metadata"].update(tinkex_generation="7", tinkex_owner="another")
    with tinkex.watch(client, Tenant(world.service), policy, **options) as run:
        site.corrupted.add(THIRD)
        world.fake.advance(10)
        run.wait(5)

    made = world.service.metadata[-1]
    assert (made["tinkex_root"], made["tinkex_generation"]) == (RUN, "8")
    assert made["tinkex_recovered_from"] == THIRD
    # Who watches a run is no owner of it: its owner must find out.
    assert "tinkex_owner" not in made


def test_a_lineage_whose_runs_have_lost_their_checkpoints_is_not_begun_anew(world):
    site = Account()
    for run_id in (RUN, SECOND, THIRD):
        site.rows[run_id]["last_checkpoint"] = None
        site.saves.pop(run_id)
    with going_on(world, site, RUN) as run:
        assert [each.checkpoint.tinker_path for each in run.plan().candidates] == [
            weights("000020", SECOND)
        ]
