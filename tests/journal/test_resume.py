"""`Monitor.resume`: what a process left behind, another one brings back from the journal."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from support.journals import change
from support.loops import FailedError
from support.sites import Tenant, account_of
from support.world import RUN, ManualExecutor, weights

from tinkex.testing import FakeTrainingClient

OTHER = "5e11:train:0"


def held_elsewhere(path, root_id=RUN, beat=0):
    """Another machine's process holds a lineage."""
    change(path, "INSERT INTO owner VALUES ('other', 'far', 'boot', 7, '1', ?, 0)", beat)
    change(path, "UPDATE lease SET owner_id = 'other' WHERE root_id = ?", root_id)


def left(world, life):
    """A process has monitored a run, and ended."""
    first = life()
    first.monitor_run(RUN, world.service)
    first.stop()


def train(run, steps, saves=()):
    """Train one segment, from where it begins up to a step."""
    segment = next(run.segments())
    with segment:
        for step in segment.steps(steps):
            segment.client.forward_backward([step])
            segment.client.optim_step()
            if step + 1 in saves:
                segment.save_state(f"{step + 1:06d}", step=step + 1, data=[step])
    return segment


def test_a_run_goes_on_where_it_was_saved(world, path, life):
    world.rest.set_run(RUN)
    first = life()
    run = first.monitor_run(RUN, world.service, {"team": "a"}, client=FakeTrainingClient(RUN))
    train(run, 3, saves=(2,))
    first.stop()

    second = life()
    (run,) = second.resume(world.service)
    assert world.service.created == []  # to look makes nothing
    assert (run.run_id, run.state) == (RUN, "healthy")
    assert run.status().metadata == {"team": "a"}
    segment = next(run.segments())
    assert (segment.start_step, segment.data) == (2, [1])
    run.wait(5)
    assert world.service.created == [(weights("000002"), True)]
    second.stop()


def test_a_save_behind_a_request_that_failed_is_not_restored_by_the_next_process(world, path, life):
    world.rest.set_run(RUN)
    client = FakeTrainingClient(RUN)
    first = world.monitor(ManualExecutor(), options={"journal": path}, confirm_within=0.0)
    segments = (run := first.monitor_run(RUN, world.service, client=client)).segments()
    with next(segments) as segment:
        segment.save_state("at-2", step=2)
        update, saved = Future(), Future()
        client.optim_step = lambda params=None: update
        client.save_state = lambda name, user_metadata=None: saved
        segment.client.optim_step()
        segment.save_state_async("at-3", step=3).close()
        saved.set_result(SimpleNamespace(path=weights("at-3")))
        update.set_exception(FailedError("internal error", 500))
    assert run.state == "recovering"
    first.stop()
    world.rest.set_run(RUN, checkpoints=[weights("at-2"), weights("at-3")])

    second = life()
    (run,) = second.resume(world.service)
    assert next(run.segments()).start_step == 2
    run.wait(5)
    assert world.service.created == [(weights("at-2"), True)]
    second.stop()


def test_a_process_that_dies_just_after_an_adoption_has_its_checkpoint(world, path, life):
    world.rest.set_run(RUN)
    first = life()
    run = first.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    for number in range(2):
        world.corrupt(run.run_id, f"00000{number}")
        world.fake.advance(10)
        world.rest.set_run(run.run_id)
    older, newer = (each.checkpoint for each in run.lineage[1:])
    first.stop()
    # What it would have written of the run next never came.
    change(path, "UPDATE run SET body = replace(body, ?, ?), state = 'recovering'", newer, older)

    second = life()
    (run,) = second.resume(world.service)
    assert run.plan().candidates[0].checkpoint.tinker_path == newer
    assert run.lineage[-1].checkpoint == newer
    second.stop()


def test_lineage_and_budget_survive(world, path, life):
    world.rest.set_run(RUN)
    first = life(max_incidents=1)
    run = first.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    world.corrupt()
    world.fake.advance(10)
    successor = run.run_id
    before = run.lineage
    first.stop()

    second = life(max_incidents=1)
    (run,) = second.resume(world.service)
    assert run.run_id == successor
    assert run.root_id == RUN
    assert [each.run_id for each in run.lineage] == [each.run_id for each in before]
    assert run.lineage[0].cause == "corrupted"
    assert run.lineage[0].attempts == 1
    assert run.status().generation == 1
    world.corrupt(successor)
    world.fake.advance(10)
    assert run.state == "exhausted"  # the second incident within the hour
    second.stop()


def test_a_run_that_was_stopped_or_given_up_is_not_brought_back(world, path, life):
    for run_id in (RUN, OTHER):
        world.rest.set_run(run_id)
    first = life(max_incidents=0 + 1, max_attempts=1)
    first.monitor_run(RUN, world.service)
    first.monitor_run(OTHER, world.service)
    first.stop_monitoring(OTHER)
    first.stop()

    second = life()
    assert [run.run_id for run in second.resume(world.service)] == [RUN]
    second.stop()


def test_only_those_of_the_service_clients_account(world, path):
    world.rest.set_run(RUN)
    options = {"journal": path, "rest_client_fun": account_of}
    first = world.monitor(options=options)
    first.monitor_run(RUN, Tenant(world.service, "one"))
    first.stop()

    second = world.monitor(options=options)
    assert second.resume(Tenant(world.service, "two")) == ()
    assert [run.run_id for run in second.resume(Tenant(world.service, "one"))] == [RUN]
    second.stop()


def test_a_second_call_brings_nothing_twice(world, path, life):
    left(world, life)

    second = life()
    assert len(second.resume(world.service)) == 1
    assert second.resume(world.service) == ()
    second.stop()


def test_where_all_have_an_owner_it_says_that_nothing_is_brought_back(world, life, caplog):
    left(world, life)
    monitors = life(), life()
    monitors[0].resume(world.service)
    assert "brought back" not in caplog.text
    for monitor in monitors:
        caplog.clear()
        assert monitor.resume(world.service) == ()
        assert f"of 1 runs each has its owner, such as run {RUN}: a monitor" in caplog.text
    for monitor in monitors:
        monitor.stop()


def test_a_run_whose_owner_tells_that_it_lives_is_left_to_it(world, path, life):
    left(world, life)
    held_elsewhere(path)
    second = life()
    world.fake(
        2.0, lambda: change(path, "UPDATE owner SET beat = 1 WHERE owner_id = 'other'")
    ).start()

    assert second.resume(world.service) == ()
    second.stop()


def test_an_owner_elsewhere_that_is_silent_is_waited_for_and_followed(world, path, life):
    left(world, life)
    held_elsewhere(path)
    second = life()

    began = world.fake.now()
    assert [run.run_id for run in second.resume(world.service)] == [RUN]
    assert 30 <= world.fake.now() - began <= 40
    second.stop()


def test_what_an_attempt_made_as_its_process_died_is_an_orphan(world, path, life):
    left(world, life)
    made = "INSERT INTO attempt VALUES ('a1', ?, 1, 1, 1, NULL, ?, 'created', NULL)"
    change(path, made, RUN, OTHER)

    second = life()
    (run,) = second.resume(world.service)
    assert run.lineage[0].orphans == (OTHER,)
    second.stop()
    third = life()
    (run,) = third.resume(world.service)
    assert run.lineage[0].orphans == (OTHER,)
    third.stop()


def test_without_a_journal_there_is_nothing_to_resume_from(world):
    monitor = world.monitor()
    with pytest.raises(ValueError, match="no journal"):
        monitor.resume(world.service)


def test_what_the_journal_knows_counts_for_a_run_that_is_monitored_again(world, path, life):
    world.rest.set_run(RUN)
    first = life()
    run = first.monitor_run(RUN, world.service, client=FakeTrainingClient(RUN))
    train(run, 3, saves=(2,))
    first.stop()

    second = life()
    run = second.monitor_run(RUN, world.service)
    assert run.plan().candidates[0].step == 2
    second.stop()
