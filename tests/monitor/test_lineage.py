"""The lineage: successors under the same handle, what they carry, and what is told of each."""

from __future__ import annotations

import pytest
from support.loops import SdkError, begin
from support.world import RUN, weights

from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient


def corrupt_live(world, run, **fields):
    world.corrupt(run.run_id, **fields)
    world.fake.advance(10.0)


def test_a_successor_is_monitored_under_the_same_handle(world):
    run, _ = begin(world)
    corrupt_live(world, run)
    first = run.run_id
    corrupt_live(world, run)

    assert run.root_id == RUN
    assert len({RUN, first, run.run_id}) == 3
    assert run.client.model_id == run.run_id
    assert [generation.run_id for generation in run.lineage] == [RUN, first, run.run_id]
    assert run.status().recoveries == 2


def test_each_generation_tells_where_it_came_from_and_how_it_ended(world):
    run, _ = begin(world, backoff=1.0)
    run.record_checkpoint(weights("000100"), step=100)
    world.service.fail(ApiStatusError.of(500))
    corrupt_live(world, run)
    world.fake.advance(10.0)

    first, live = run.lineage

    assert (first.checkpoint, first.step, first.attempts) == (None, None, 2)
    assert "corrupted" in first.cause
    assert first.started_at < first.ended_at == live.started_at
    assert (live.checkpoint, live.step) == (weights("000100"), 100)
    assert (live.ended_at, live.cause, live.attempts) == (None, None, 0)


def test_a_client_that_an_abandoned_attempt_brings_late_is_told_as_an_orphan(world):
    class SlowOnce(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            if not asked:
                asked.append(path)
                world.fake.advance(90.0)
            return super().create_training_client_from_state_with_optimizer(path, user_metadata)

    asked = []
    world.service = SlowOnce()
    run, _ = begin(world, attempt_timeout=60.0, backoff=1.0)

    corrupt_live(world, run)

    late, live = world.service.clients
    assert run.client is live
    assert run.lineage[0].orphans == (late.model_id,)
    assert run.lineage[1].orphans == ()
    assert world.events.one("completed").client is live


# What a successor carries


def test_a_successor_carries_the_old_runs_metadata_and_what_it_came_from(world):
    run, _ = begin(world)
    corrupt_live(world, run, user_metadata={"team": "a", "seed": 3})

    (metadata,) = world.service.metadata

    ours = {key: value for key, value in metadata.items() if key.startswith("tinkex_")}
    assert {**metadata, **ours} == {"team": "a", "seed": "3", **ours}
    assert ours
    assert RUN in ours.values()
    assert weights("000100") in ours.values()
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize("flagged", [True, False], ids=["flagged", "only of no more use"])
def test_the_old_runs_metadata_is_carried_however_it_was_found_dead(world, flagged):
    run, _ = begin(world, poll_interval=1000.0)
    run.record_checkpoint(weights("000100"), step=100)
    world.rest.set_run(RUN, corrupted=flagged, user_metadata={"team": "a"})

    recovered = run.report_failure(SdkError("Adapter not found"))

    assert recovered
    assert world.service.metadata[0]["team"] == "a"


def test_the_old_runs_metadata_is_carried_when_the_caller_asks_for_a_recovery(world):
    run, _ = begin(world)
    run.record_checkpoint(weights("000100"), step=100)
    world.rest.set_run(RUN, user_metadata={"team": "a"})

    run.recover()

    assert world.service.metadata[0]["team"] == "a"


def test_a_server_that_does_not_tell_the_metadata_does_not_keep_a_run_from_its_recovery(world):
    run, _ = begin(world)
    run.record_checkpoint(weights("000100"), step=100)
    world.rest.fail(ApiStatusError.of(500), times=99)

    run.recover()

    assert run.state == "healthy"


def test_many_generations_do_not_pile_up_metadata(world):
    run, _ = begin(world)
    corrupt_live(world, run, user_metadata={"team": "a"})
    for _ in range(4):
        corrupt_live(world, run, user_metadata=world.service.metadata[-1])

    first, last = world.service.metadata[0], world.service.metadata[-1]

    assert first.keys() == last.keys()
    assert last["team"] == "a"
    assert {RUN, run.lineage[-2].run_id} <= set(last.values())
    assert max(map(len, last.values())) < 100
