"""The states of a run: what holds of every move, whichever moves the table allows."""

from __future__ import annotations

import itertools

import pytest

from tinkex.runs.state import TRANSITIONS, RunState, check_transition

MOVES = [*itertools.product(RunState, RunState)]


def targets(state):
    """Where a run in this state may go, as `check_transition` lets it."""
    found = set()
    for after in RunState:
        try:
            check_transition(state, after)
        except RuntimeError:
            continue
        found.add(after)
    return found


def reached_from(state):
    """All states that some moves lead to from this one."""
    reached, waiting = set(), [state]
    while waiting:
        for after in targets(waiting.pop()) - reached:
            reached.add(after)
            waiting.append(after)
    return reached


def test_the_states_are_those_of_the_contract():
    assert {str(state) for state in RunState} == {
        "healthy",
        "failing",
        "missing",
        "following",
        "recovering",
        "waiting",
        "exhausted",
        "stopped",
    }


def test_a_state_equals_its_name():
    assert RunState.HEALTHY == "healthy"
    assert f"{RunState.WAITING}" == "waiting"


def test_the_table_knows_every_state():
    assert set(TRANSITIONS) == set(RunState)
    assert set().union(*TRANSITIONS.values()) <= set(RunState)


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_a_move_is_made_or_refused_with_both_states_named(before, after):
    if after in TRANSITIONS[before]:
        check_transition(before, after)
    else:
        with pytest.raises(RuntimeError, match=f"from {before} to {after}"):
            check_transition(before, after)


@pytest.mark.parametrize("state", RunState)
def test_no_move_leads_to_where_a_run_is(state):
    assert state not in targets(state)


@pytest.mark.parametrize("state", [state for state in RunState if state != "stopped"])
def test_every_state_can_be_stopped(state):
    assert RunState.STOPPED in targets(state)


def test_a_stopped_run_goes_nowhere():
    assert targets(RunState.STOPPED) == set()


@pytest.mark.parametrize("state", [state for state in RunState if state != "stopped"])
def test_a_run_that_is_not_stopped_can_be_healthy_again(state):
    assert RunState.HEALTHY in reached_from(state)


@pytest.mark.parametrize("state", RunState)
def test_each_state_but_the_first_is_reached_from_it(state):
    assert state in reached_from(RunState.HEALTHY)


@pytest.mark.parametrize("state", RunState)
def test_a_run_is_polled_or_pending_or_at_an_end_and_never_two_of_them(state):
    at_an_end = state in {"exhausted", "stopped"}

    assert [state.is_polled, state.is_pending, at_an_end].count(True) == 1


def test_a_run_backs_off_only_between_attempts():
    """The only way to wait is from an attempt, to success also from one that others have made."""
    assert {state for state in RunState if RunState.WAITING in targets(state)} == {"recovering"}
    assert {RunState.RECOVERING, RunState.HEALTHY} <= targets(RunState.WAITING)
    assert RunState.HEALTHY in targets(RunState.RECOVERING)


@pytest.mark.parametrize("state", [state for state in RunState if state.is_ours])
def test_what_polls_say_of_a_run_can_change_to_anything_else_they_say(state):
    ours = {each for each in RunState if each.is_ours}

    assert targets(state) == (ours - {state}) | {"recovering", "following", "stopped"}


@pytest.mark.parametrize(
    "state", [each for each in RunState if each not in {"following", "stopped"}]
)
def test_any_run_can_be_taken_over_by_another_owner(state):
    assert RunState.FOLLOWING in targets(state)


def test_a_run_that_is_followed_is_polled_and_never_recovered():
    assert RunState.FOLLOWING.is_polled
    assert not RunState.FOLLOWING.is_ours
    assert targets(RunState.FOLLOWING) == {"healthy", "stopped"}


@pytest.mark.parametrize("state", [state for state in RunState if state.is_pending])
def test_no_poll_changes_the_state_of_a_run_that_is_being_recovered(state):
    assert targets(state).isdisjoint({"failing", "missing"})


def test_a_run_is_given_up_by_an_incident_alone_and_begins_anew_when_asked():
    assert {state for state in RunState if RunState.EXHAUSTED in targets(state)} == {
        state for state in RunState if state.is_pending
    }
    assert targets(RunState.EXHAUSTED) == {"healthy", "recovering", "following", "stopped"}
