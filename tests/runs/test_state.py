"""The states of a run: every move that is allowed, and every one that is not."""

from __future__ import annotations

import itertools

import pytest

from tinkex.runs.state import TRANSITIONS, RunState, check_transition

#: From each state, where a run may go.
ALLOWED = {
    "healthy": {"failing", "missing", "recovering", "stopped"},
    "failing": {"healthy", "missing", "recovering", "stopped"},
    "missing": {"healthy", "failing", "recovering", "stopped"},
    "recovering": {"healthy", "waiting", "exhausted", "stopped"},
    "waiting": {"recovering", "exhausted", "stopped"},
    "exhausted": {"healthy", "recovering", "stopped"},
    "stopped": set(),
}


def test_the_states_are_those_of_the_contract():
    assert {str(state) for state in RunState} == set(ALLOWED)


def test_a_state_equals_its_name():
    assert RunState.HEALTHY == "healthy"
    assert f"{RunState.WAITING}" == "waiting"


def test_the_table_knows_every_state():
    assert set(TRANSITIONS) == set(RunState)


@pytest.mark.parametrize(("before", "after"), [*itertools.product(RunState, RunState)])
def test_each_move_is_allowed_or_refused_as_the_table_says(before, after):
    if after in ALLOWED[before]:
        check_transition(before, after)
    else:
        with pytest.raises(RuntimeError, match=f"from {before} to {after}"):
            check_transition(before, after)


@pytest.mark.parametrize("state", RunState)
def test_only_runs_without_an_incident_that_are_not_given_up_are_polled(state):
    assert state.is_polled is (state in {"healthy", "failing", "missing"})


@pytest.mark.parametrize("state", RunState)
def test_an_incident_is_open_while_recovering_or_waiting(state):
    assert state.is_pending is (state in {"recovering", "waiting"})


@pytest.mark.parametrize("state", [*RunState][:-1])
def test_every_state_can_be_stopped(state):
    check_transition(state, RunState.STOPPED)
