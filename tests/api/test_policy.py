"""The policy: its defaults, what it refuses, and how it is read from a mapping."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import tenacity

from tinkex import Policy, Specific
from tinkex.errors import PolicyError, TinkexError

PATH = "tinker://3f0c:train:0/weights/000100"
SAMPLER = "tinker://3f0c:train:0/sampler_weights/000100"

DEFAULTS = {
    "enabled": False,
    "max_attempts": 3,
    "backoff": 5.0,
    "max_backoff": 60.0,
    "poll_interval": 30.0,
    "checkpoint_strategy": "latest",
    "restore_optimizer": True,
    "on_recovery": None,
    "on_failure": None,
    "wait": None,
    "stop": None,
    "fallback_checkpoints": 3,
    "allow_weights_only": False,
    "attempt_timeout": 600.0,
    "max_incidents": 5,
    "incident_window": 3600.0,
    "on_doubt": "recover",
    "max_stuck": 3,
    "recover_on": "error",
    "confirm_within": 30.0,
    "unprotected_after": 1800.0,
}


@pytest.mark.parametrize(("field", "default"), [*DEFAULTS.items()])
def test_each_field_has_the_default_of_the_contract(field, default):
    assert getattr(Policy(), field) == default


def test_there_are_no_other_fields_than_those_of_the_contract():
    assert {field.name for field in dataclasses.fields(Policy)} == set(DEFAULTS)


def test_a_policy_cannot_be_changed():
    policy = Policy()

    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.enabled = True


def test_a_changed_copy_is_checked_as_well():
    policy = Policy(enabled=True)

    assert dataclasses.replace(policy, max_attempts=7).max_attempts == 7
    with pytest.raises(PolicyError, match="max_attempts"):
        dataclasses.replace(policy, max_attempts=0)


def test_fields_go_by_name_only():
    with pytest.raises(TypeError):
        Policy(True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enabled", 1),
        ("enabled", "yes"),
        ("restore_optimizer", None),
        ("allow_weights_only", 0),
        ("max_attempts", 0),
        ("max_attempts", 1.5),
        ("max_attempts", True),
        ("max_attempts", "3"),
        ("fallback_checkpoints", -1),
        ("max_incidents", 0),
        ("backoff", -0.1),
        ("backoff", math.nan),
        ("backoff", math.inf),
        ("backoff", "5"),
        ("backoff", True),
        ("max_backoff", -0.1),
        ("poll_interval", 0),
        ("poll_interval", -1.0),
        ("poll_interval", None),
        ("attempt_timeout", 0),
        ("attempt_timeout", math.inf),
        ("incident_window", -1),
        ("confirm_within", -1),
        ("unprotected_after", math.nan),
        ("on_recovery", "print"),
        ("on_failure", 3),
        ("recover_on", "corrupt"),
        ("recover_on", None),
        ("max_stuck", 0),
        ("backoff", 61.0),
        ("on_doubt", "maybe"),
        ("checkpoint_strategy", "best"),
        ("checkpoint_strategy", "newest"),
        ("checkpoint_strategy", None),
        ("checkpoint_strategy", SAMPLER),
        ("checkpoint_strategy", "tinker://only-a-run"),
        ("checkpoint_strategy", {"specific": PATH, "other": 1}),
        ("checkpoint_strategy", ("specific",)),
        ("wait", 5.0),
        ("wait", tenacity.stop_after_attempt(1)),
        ("stop", 3),
        ("stop", tenacity.wait_fixed(1)),
    ],
)
def test_a_bad_value_names_the_field_the_value_and_what_is_allowed(field, value):
    with pytest.raises(PolicyError) as caught:
        Policy(**{field: value})

    error = caught.value
    assert error.field == field
    assert error.value is value
    assert field in str(error)
    assert repr(value) in str(error)
    assert error.allowed in str(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 1),
        ("fallback_checkpoints", 0),
        ("max_incidents", 1),
        ("backoff", 0),
        ("max_backoff", 5.0),
        ("poll_interval", 0.01),
        ("attempt_timeout", 0.5),
        ("incident_window", 0),
        ("recover_on", "corrupted"),
        ("on_recovery", print),
        ("wait", tenacity.wait_fixed(1)),
        ("stop", tenacity.stop_after_attempt(9)),
    ],
)
def test_a_value_at_the_edge_of_what_is_allowed_is_kept(field, value):
    assert getattr(Policy(**{field: value}), field) == value


def test_best_is_refused_as_reserved():
    with pytest.raises(PolicyError, match="reserved"):
        Policy(checkpoint_strategy="best")


def test_an_unknown_field_is_answered_with_the_nearest_one():
    with pytest.raises(PolicyError, match="did you mean 'max_attempts'") as caught:
        Policy(max_attempt=3)

    assert (caught.value.field, caught.value.value) == ("max_attempt", 3)


def test_a_name_that_is_near_to_nothing_is_answered_with_all_fields():
    with pytest.raises(PolicyError, match="poll_interval") as caught:
        Policy(zzzzzz=1)

    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        PATH,
        Specific(PATH),
        {"specific": PATH},
        ("specific", PATH),
        ["specific", PATH],
    ],
)
def test_every_spelling_of_one_checkpoint_is_the_same_strategy(given):
    assert Policy(checkpoint_strategy=given).checkpoint_strategy == Specific(PATH)


@pytest.mark.parametrize("path", [SAMPLER, "latest", "tinker://x/weights", "", None, 7])
def test_a_specific_checkpoint_must_be_a_training_one(path):
    with pytest.raises(PolicyError) as caught:
        Specific(path)

    assert caught.value.field == "checkpoint_strategy"
    assert caught.value.value == path


@pytest.mark.parametrize("field", ["backoff", "max_backoff"])
def test_a_wait_strategy_and_a_backoff_exclude_each_other(field):
    with pytest.raises(PolicyError, match=field) as caught:
        Policy(wait=tenacity.wait_fixed(1), **{field: 50.0})

    assert caught.value.field == "wait"


def test_a_stop_strategy_and_max_attempts_exclude_each_other():
    with pytest.raises(PolicyError, match="max_attempts") as caught:
        Policy(stop=tenacity.stop_after_delay(60), max_attempts=4)

    assert caught.value.field == "stop"


def test_the_originals_policy_map_loads_unchanged():
    policy = Policy.from_mapping(
        {
            "enabled": True,
            "max_attempts": 4,
            "backoff_ms": 2_500,
            "max_backoff_ms": 90_000,
            "poll_interval_ms": 15_000,
            "checkpoint_strategy": {"specific": PATH},
            "restore_optimizer": False,
            "on_recovery": None,
            "on_failure": None,
        }
    )

    assert policy == Policy(
        enabled=True,
        max_attempts=4,
        backoff=2.5,
        max_backoff=90.0,
        poll_interval=15.0,
        checkpoint_strategy=Specific(PATH),
        restore_optimizer=False,
    )


def test_a_mapping_may_use_our_names_too():
    assert Policy.from_mapping({"poll_interval": 15.0}) == Policy(poll_interval=15.0)
    assert Policy.from_mapping({}) == Policy()


def test_a_value_given_in_both_units_is_refused():
    with pytest.raises(PolicyError, match="poll_interval"):
        Policy.from_mapping({"poll_interval": 15.0, "poll_interval_ms": 15_000})


def test_an_unknown_name_in_a_mapping_is_answered_with_the_nearest_one():
    with pytest.raises(PolicyError, match="did you mean 'poll_interval_ms'"):
        Policy.from_mapping({"pol_interval_ms": 15_000})


@pytest.mark.parametrize("value", ["15000", None, True, math.nan, -1])
def test_bad_milliseconds_are_named_as_they_were_given(value):
    with pytest.raises(PolicyError) as caught:
        Policy.from_mapping({"backoff_ms": value})

    assert caught.value.field == "backoff_ms"


@pytest.mark.parametrize("given", ["enabled", 3, [("enabled", True)]])
def test_what_is_no_mapping_is_refused(given):
    with pytest.raises(PolicyError, match="mapping"):
        Policy.from_mapping(given)


def test_a_policy_error_is_a_tinkex_error_and_a_value_error_and_pickles():
    with pytest.raises(PolicyError) as caught:
        Policy(max_attempts=0)

    copied = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copied, TinkexError)
    assert isinstance(copied, ValueError)
    assert (copied.field, copied.value, str(copied)) == ("max_attempts", 0, str(caught.value))
