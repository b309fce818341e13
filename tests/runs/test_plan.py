"""Which checkpoint a recovery starts from: the plan, and the cursors in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tinkex import Checkpoint, Policy, Specific
from tinkex.runs.checkpoints import Cursor, cursor_of, plan_recovery

RUN = "3f0c:train:0"
NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def path(name, run_id=RUN, kind="weights"):
    return f"tinker://{run_id}/{kind}/{name}"


def checkpoint(name, *, hours_ago=None, run_id=RUN, kind="weights", **fields):
    made = NOW - timedelta(hours=hours_ago) if hours_ago is not None else None
    return Checkpoint.from_json({"tinker_path": path(name, run_id, kind), "time": made, **fields})


def plan(checkpoints, *, recorded=None, broken=(), tried=0, lineage=(), forks=None, **policy):
    return plan_recovery(
        Policy(**policy),
        checkpoints,
        recorded=recorded or {},
        broken=broken,
        tried=tried,
        lineage=lineage,
        forks=forks,
        now=NOW,
    )


def names(planned):
    return [candidate.checkpoint.checkpoint_id for candidate in planned.candidates]


def reasons(planned):
    return {out.checkpoint.checkpoint_id: out.reason for out in planned.left_out}


def test_the_newest_comes_first_in_whatever_order_they_are_given():
    given = [
        checkpoint("b", hours_ago=2),
        checkpoint("d", hours_ago=0),
        checkpoint("a", hours_ago=3),
        checkpoint("c", hours_ago=1),
    ]

    assert names(plan(given)) == ["d", "c", "b", "a"]


def test_the_newest_of_a_lineage_comes_first_whichever_run_saved_it():
    given = [checkpoint("old", hours_ago=2), checkpoint("new", hours_ago=1, run_id="77aa:train:0")]

    assert names(plan(given)) == ["new", "old"]


def test_one_without_a_time_comes_after_those_that_have_one():
    given = [checkpoint("unknown"), checkpoint("old", hours_ago=1000)]

    assert names(plan(given)) == ["old", "unknown"]


def test_a_path_that_is_known_twice_is_one_candidate_and_the_last_counts():
    given = [checkpoint("a"), checkpoint("b"), checkpoint("a", size_bytes=7)]

    planned = plan(given)

    assert names(planned) == ["a", "b"]
    assert planned.candidates[0].checkpoint.size_bytes == 7


def test_of_two_saved_at_the_same_time_the_one_with_the_later_step_comes_first():
    recorded = {path("a"): Cursor(step=200), path("b"): Cursor(step=100)}

    planned = plan([checkpoint("a", hours_ago=1), checkpoint("b", hours_ago=1)], recorded=recorded)

    assert names(planned) == ["a", "b"]


def test_without_any_checkpoint_the_plan_is_empty():
    assert plan([]).candidates == ()
    assert plan([]).left_out == ()


@pytest.mark.parametrize(
    ("expires_in", "is_expired"),
    [(timedelta(seconds=-1), True), (timedelta(0), True), (timedelta(seconds=1), False)],
)
def test_an_expired_checkpoint_is_tried_after_all_others(expires_in, is_expired):
    expiring = checkpoint("new", hours_ago=1, expires_at=NOW + expires_in)

    planned = plan([expiring, checkpoint("old", hours_ago=9)])

    assert names(planned) == (["old", "new"] if is_expired else ["new", "old"])
    told = {each.checkpoint.checkpoint_id: each.is_expired for each in planned.candidates}
    assert told == {"old": False, "new": is_expired}


def test_of_expired_checkpoints_the_newest_comes_first():
    given = [checkpoint(name, hours_ago=hours, expires_at=NOW) for hours, name in enumerate("cba")]

    assert names(plan(given)) == ["c", "b", "a"]


def test_an_expired_checkpoint_has_its_place_among_those_that_the_policy_allows():
    given = [checkpoint("a", hours_ago=2), checkpoint("b", hours_ago=1, expires_at=NOW)]

    planned = plan(given, fallback_checkpoints=0)

    assert names(planned) == ["a"]
    assert "expired" in reasons(planned)["b"]


def test_the_step_of_an_expired_checkpoint_cuts_off_none_that_has_not():
    given = [checkpoint("b", hours_ago=1), checkpoint("a", hours_ago=2, expires_at=NOW)]

    planned = plan(given, recorded={path("a"): Cursor(step=5)})

    assert names(planned) == ["b", "a"]


def test_of_expired_checkpoints_those_with_a_step_cut_off_newer_ones_without():
    given = [
        checkpoint("c", hours_ago=0, expires_at=NOW),
        checkpoint("b", hours_ago=1, expires_at=NOW),
    ]

    assert names(plan(given, recorded={path("b"): Cursor(step=5)})) == ["b"]


def test_a_candidate_tells_when_it_expires():
    soon = NOW + timedelta(minutes=5)

    (candidate,) = plan([checkpoint("a", expires_at=soon)]).candidates

    assert candidate.expires_at == soon


@pytest.mark.parametrize(
    "unfit",
    [
        checkpoint("x", hours_ago=0, kind="sampler_weights"),
        checkpoint("x", hours_ago=0, checkpoint_type="sampler"),
        checkpoint("x", hours_ago=0, kind="sampler_weights", checkpoint_type="training"),
        checkpoint("x", hours_ago=0, checkpoint_type="external"),
        Checkpoint.from_json({"tinker_path": "s3://bucket/x", "checkpoint_id": "x"}),
        Checkpoint.from_json(
            {"tinker_path": "s3://b/x", "checkpoint_id": "x", "checkpoint_type": "training"}
        ),
    ],
    ids=["sampler", "said to be", "said not to be", "external", "foreign", "foreign training"],
)
def test_what_cannot_be_trained_from_is_never_a_candidate(unfit):
    planned = plan([unfit, checkpoint("a", hours_ago=9)])

    assert names(planned) == ["a"]
    assert list(reasons(planned)) == ["x"]
    assert reasons(planned)["x"]


@pytest.mark.parametrize(("fallback", "expected"), [(0, ["d"]), (1, ["d", "c"]), (9, [*"dcba"])])
def test_as_many_older_ones_are_tried_as_the_policy_allows(fallback, expected):
    given = [checkpoint(name, hours_ago=hours) for hours, name in enumerate("dcba")]

    planned = plan(given, fallback_checkpoints=fallback)

    assert names(planned) == expected
    assert set(reasons(planned)) == {*"abcd"} - {*expected}
    assert all("policy" in reason for reason in reasons(planned).values())


def test_the_unfit_do_not_use_up_what_the_policy_allows():
    given = [
        checkpoint("sampler", hours_ago=0, kind="sampler_weights"),
        checkpoint("expired", hours_ago=1, expires_at=NOW),
        checkpoint("b", hours_ago=2),
        checkpoint("a", hours_ago=3),
    ]

    assert names(plan(given, fallback_checkpoints=1)) == ["b", "a"]


def test_a_checkpoint_that_did_not_load_is_left_out():
    given = [checkpoint("b", hours_ago=1), checkpoint("a", hours_ago=2)]

    planned = plan(given, broken={path("b")})

    assert names(planned) == ["a"]
    assert reasons(planned) == {"b": "it did not load"}


def test_those_tried_before_count_against_what_the_policy_allows():
    given = [checkpoint(name, hours_ago=hours) for hours, name in enumerate("dcba")]

    planned = plan(given, broken={path("d"), path("c")}, tried=2, fallback_checkpoints=2)

    assert names(planned) == ["b"]


def test_a_specific_strategy_takes_that_checkpoint_and_no_other():
    given = [checkpoint("b", hours_ago=1), checkpoint("a", hours_ago=2)]

    planned = plan(given, checkpoint_strategy=Specific(path("a")))

    assert names(planned) == ["a"]
    assert set(reasons(planned)) == {"b"}


def test_a_specific_checkpoint_need_not_be_listed():
    planned = plan([], checkpoint_strategy=path("elsewhere", "77aa:train:0"))

    assert [c.checkpoint.tinker_path for c in planned.candidates] == [
        path("elsewhere", "77aa:train:0")
    ]


def test_what_is_known_of_a_specific_checkpoint_is_used():
    given = checkpoint("a", expires_at=NOW - timedelta(hours=1))

    planned = plan([given], checkpoint_strategy=path("a"))

    (only,) = planned.candidates
    assert (only.expires_at, only.is_expired) == (given.expires_at, True)


def test_a_specific_checkpoint_that_did_not_load_has_no_stand_in():
    planned = plan(
        [checkpoint("b", hours_ago=1)], broken={path("a")}, checkpoint_strategy=path("a")
    )

    assert planned.candidates == ()


# Without a clock of ours


@pytest.mark.parametrize(
    ("given", "steps", "order"),
    [
        (["c1", "c2", "c3"], {}, ["c3", "c2", "c1"]),
        (["c1", "c2", "c3"], {"c1": 5}, ["c1"]),
        (["c20", "c10"], {"c20": 20, "c10": 10}, ["c20", "c10"]),
        (["b", "latest"], {"b": 7, "latest": 9}, ["latest", "b"]),
    ],
    ids=["as listed", "one step known", "by step", "saved again"],
)
def test_the_newest_is_told_without_a_clock_of_ours(given, steps, order):
    recorded = {path(name): Cursor(step=step) for name, step in steps.items()}

    assert names(plan(map(checkpoint, given), recorded=recorded)) == order


def test_what_the_live_run_saved_is_newer_than_what_came_before_whatever_the_times_say():
    listed = [checkpoint("new", run_id="77aa:train:0"), checkpoint("old", hours_ago=-5)]

    assert names(plan(listed, lineage=("77aa:train:0", RUN))) == ["new", "old"]


# Cursors


def test_a_candidate_has_the_step_that_was_recorded_for_it():
    recorded = {path("a"): Cursor(step=100)}

    planned = plan([checkpoint("a", hours_ago=0), checkpoint("b", hours_ago=1)], recorded=recorded)

    assert {c.checkpoint.checkpoint_id: c.step for c in planned.candidates} == {"a": 100, "b": None}


def test_a_checkpoint_without_a_step_is_passed_over_where_an_older_one_has_one():
    listed = [checkpoint(name, hours_ago=age) for age, name in enumerate("abcd")]
    recorded = {path("c"): Cursor(step=100)}

    planned = plan(listed, recorded=recorded)

    assert names(planned) == ["c", "d"]
    assert {out.checkpoint.checkpoint_id: out.reason for out in planned.left_out} == dict.fromkeys(
        "ab", "no step is recorded for it, and for an older one there is"
    )
    assert names(plan(listed, recorded=recorded, broken={path("c")})) == ["d"]


def test_a_loop_that_knows_the_step_of_any_checkpoint_passes_none_over():
    listed = [checkpoint(name, hours_ago=age) for age, name in enumerate("ab")]
    known = {"recorded": {path("b"): Cursor(step=100)}, "now": NOW}

    planned = plan_recovery(Policy(enabled=True), listed, has_resume_step=True, **known)

    assert names(planned) == ["a", "b"]


@pytest.mark.parametrize("data", [None, 0, "epoch-2", [1, 2], {"epoch": 2, "row": 17}], ids=repr)
def test_a_cursor_travels_in_the_user_metadata_of_its_checkpoint(data):
    cursor = Cursor(step=150, data=data)
    metadata = cursor.to_metadata()

    assert all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items())
    assert all(key.startswith("tinkex_") for key in metadata)
    assert cursor_of(checkpoint("a", user_metadata=metadata), {}) == cursor


def test_the_metadata_of_others_beside_the_cursor_do_not_matter():
    metadata = {"team": "a", **Cursor(step=5).to_metadata()}

    assert cursor_of(checkpoint("a", user_metadata=metadata), {}) == Cursor(step=5)


def test_the_metadata_goes_before_what_was_recorded_here():
    found = checkpoint("a", user_metadata=Cursor(step=5).to_metadata())

    assert cursor_of(found, {path("a"): Cursor(step=7)}) == Cursor(step=5)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"step": "5"},
        {"tinkex_step": "five"},
        {"tinkex_step": ""},
        {"tinkex_step": None},
        {"tinkex_step": "-1"},
        {"tinkex_step": "5", "tinkex_data": "{not json"},
        {"tinkex_data": "1"},
    ],
)
def test_what_is_not_known_is_none_and_never_a_guess(metadata):
    found = checkpoint("a", user_metadata=metadata)

    assert cursor_of(found, {}) is None
    assert [c.step for c in plan([found]).candidates] == [None]


SECOND, THIRD = "77aa:train:0", "99cc:train:0"
OF_THREE = [
    checkpoint("a", hours_ago=9),
    checkpoint("b", hours_ago=8),
    checkpoint("late", hours_ago=1),
    checkpoint("c", hours_ago=7, run_id=SECOND),
    checkpoint("d", hours_ago=6, run_id=SECOND),
    checkpoint("e", hours_ago=5, run_id=THIRD),
]


@pytest.mark.parametrize(
    ("forks", "wanted"),
    [
        ({}, ["e", "d", "c", "late", "b", "a"]),
        ({RUN: path("b"), SECOND: path("d", SECOND)}, ["e", "d", "c", "b", "a"]),
        ({RUN: path("a"), SECOND: path("c", SECOND)}, ["e", "c", "a"]),
        # The second one's own did not load: the third one was made from the first one's.
        ({RUN: path("b"), SECOND: path("a")}, ["e", "b", "a"]),
        ({RUN: path("gone"), SECOND: path("d", SECOND)}, ["e", "d", "c", "late", "b", "a"]),
    ],
)
def test_what_a_run_saved_after_the_next_one_began_is_of_no_generation(forks, wanted):
    lineage = (THIRD, SECOND, RUN)

    found = plan(OF_THREE, lineage=lineage, forks=forks, fallback_checkpoints=9)

    assert names(found) == wanted
    left_out = {"a", "b", "c", "d", "e", "late"} - set(wanted)
    assert reasons(found) == dict.fromkeys(left_out, "it was saved after the next run began")
