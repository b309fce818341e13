"""What a notebook and a prompt show of plans, lineages, policies, checkpoints and journals."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import UTC, datetime

import pytest
from support.lives import two_generations
from support.world import RUN, weights

from tinkex import Checkpoint, Journal, Policy, ResumePoint, Specific

pytestmark = pytest.mark.usefixtures("no_environment")

SAVED = datetime(2026, 1, 2, 12, 3, 4, tzinfo=UTC)


def saved(name, **more):
    return Checkpoint.from_json({"tinker_path": weights(name), **more})


def test_a_plan_is_a_table_of_what_would_be_tried_and_what_not_and_why(world):
    paths = [weights(name) for name in ("000001", "000002")]
    world.rest.set_run(RUN, last_checkpoint=paths[-1], checkpoints=paths)
    run = world.monitor(fallback_checkpoints=0).monitor_run(RUN, world.service)
    for step, path in enumerate(paths, 1):
        run.record_checkpoint(path, step=step)

    plan = run.plan()

    lines = repr(plan).splitlines()
    assert (
        lines[0] == f"a recovery would try 1 checkpoint, 1 left out; as of {plan.time:%H:%M:%S} UTC"
    )
    assert lines[2].split()[:4] == ["1", "000002", "(step", "2)"]
    assert lines[3].split()[0] == "000001"
    assert "policy" in lines[3]
    assert f'title="{paths[0]}"' in plan._repr_html_()
    assert repr(plan.candidates[0]) == "<Candidate 000002 (step 2)>"
    assert repr(plan.left_out[0]).startswith("<LeftOut 000001: ")


def test_a_plan_tells_the_step_of_what_is_left_out_where_the_checkpoint_has_it(world):
    steps = {"user_metadata": {"tinkex_step": "1"}}
    listed = [saved("000001", **steps), saved("000002")]
    world.rest.set_run(RUN, last_checkpoint=listed[-1], checkpoints=listed)
    run = world.monitor(fallback_checkpoints=0).monitor_run(RUN, world.service)
    run.record_checkpoint(weights("000002"), step=2)

    assert "000001 (step 1)" in repr(run.plan()).splitlines()[3]


def test_a_plan_of_nothing_says_so(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)

    assert repr(run.plan()).startswith("a recovery would try no checkpoint; as of ")


def test_a_lineage_is_a_tuple_that_is_shown_as_a_table(world):
    _, run = two_generations(world)

    lineage = run.lineage

    assert isinstance(lineage, tuple)
    assert lineage == tuple(lineage)
    assert lineage[0].run_id == RUN
    first, second = repr(lineage).splitlines()[2:]
    assert first.startswith(RUN)
    assert "corrupted" in first
    assert "000100" in second
    assert "datetime" not in repr(lineage) + repr(lineage[0])
    assert f'title="{run.run_id}"' in lineage._repr_html_()
    assert repr(lineage[1]).startswith(f"<Generation {run.run_id} from 000100")
    assert "<table" in lineage[1]._repr_html_()


def test_what_is_shown_as_a_table_can_be_pickled(world):
    _, run = two_generations(world)

    for told in (run.lineage, run.plan()):
        again = pickle.loads(pickle.dumps(told))
        assert (again, type(again), repr(again)) == (told, type(told), repr(told))


def test_a_policy_tells_what_differs_from_the_defaults():
    policy = Policy(enabled=True, poll_interval=5.0, checkpoint_strategy=Specific(weights("a")))

    assert eval(repr(policy)) == policy
    assert "backoff" not in repr(policy)
    html = policy._repr_html_()
    assert f"3 of {len(dataclasses.fields(Policy))} fields are set" in html
    assert html.count("background-color:rgba") == 3
    assert "max_incidents" in html


def test_a_checkpoint_is_one_line_and_in_a_notebook_a_table():
    checkpoint = saved("000001", time=SAVED.isoformat(), size_bytes=1_200_000)

    assert repr(checkpoint) == f"<Checkpoint {weights('000001')}, saved 12:03:04 UTC, 1.2 MB>"
    html = checkpoint._repr_html_()
    assert weights("000001") in html
    assert "2026-01-02 12:03:04" in html
    assert repr(saved("000001")) == f"<Checkpoint {weights('000001')}>"


def test_a_resume_point_tells_the_step_and_what_was_lost():
    point = ResumePoint(
        checkpoint=saved("000028"), step=28, data=None, steps_lost=2, optimizer_restored=False
    )

    assert repr(point) == (
        "<ResumePoint step 28 from 000028, 2 steps lost, optimizer not restored>"
    )
    html = point._repr_html_()
    assert "28" in html
    assert "begins at zero" in html


def test_a_history_is_a_tuple_that_is_shown_as_a_table(world, tmp_path):
    path = tmp_path / "tinkex.db"
    world.corrupt()
    monitor = world.monitor(options={"journal": str(path)})
    monitor.monitor_run(RUN, world.service)
    world.fake.advance(10)
    monitor.stop()

    with Journal(path) as journal:
        history = journal.history()

    assert isinstance(history, tuple)
    assert [each.kind for each in history] == [
        line.split()[4] for line in repr(history).splitlines()[2:]
    ]
    assert "attempt 1, checkpoint 000100" in repr(history)
    assert "datetime" not in repr(history) + repr(history[0])
    assert repr(history[0]).startswith("<JournalEntry 1 at ")
    assert "registered" in history[0]._repr_html_()
    assert f'title="{RUN}"' not in repr(history)
