"""The tree of errors: what each says, holds, and keeps through a pickle."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from tinkex import errors
from tinkex.errors import (
    AlreadyPendingError,
    ApiAuthenticationError,
    ApiBillingError,
    ApiConnectionError,
    ApiNotFoundError,
    ApiPermissionError,
    ApiRateLimitError,
    ApiResponseError,
    ApiServerError,
    ApiStatusError,
    ApiTimeoutError,
    AttemptTimeoutError,
    CheckpointMissingError,
    ConfigError,
    IncidentBudgetError,
    JournalError,
    MonitorStoppedError,
    PolicyError,
    RecoveryDisabledError,
    RecoveryError,
    RecoveryExhaustedError,
    RestError,
    ResumePointUnknownError,
    RunHeldError,
    SegmentSupersededError,
    ServiceError,
    TinkexError,
)

RUN = "3f0c:train:0"

#: One of each, with the attributes that it must have.
ERRORS = [
    (TinkexError("words"), {}),
    (ConfigError("words"), {}),
    (
        PolicyError("backoff", -1, "more than 0"),
        {"field": "backoff", "value": -1, "allowed": "more than 0"},
    ),
    (RestError("words"), {}),
    (ApiConnectionError("words"), {}),
    (ApiTimeoutError("words"), {}),
    (ApiResponseError("words"), {}),
    (
        ApiStatusError(418, "teapot", where="GET x", retry_after=2.5),
        {"status": 418, "detail": "teapot", "retry_after": 2.5},
    ),
    (ApiAuthenticationError(401), {"status": 401, "detail": "", "retry_after": None}),
    (ApiBillingError(402, "blocked"), {"status": 402, "detail": "blocked"}),
    (ApiPermissionError(403, "no"), {"status": 403, "detail": "no"}),
    (ApiNotFoundError(404, "no such run"), {"status": 404, "detail": "no such run"}),
    (ApiRateLimitError(429, retry_after=3.0), {"status": 429, "retry_after": 3.0}),
    (ApiServerError(503), {"status": 503}),
    (RecoveryError("words"), {}),
    (
        ServiceError("APIStatusError", "words", status=422, category="user"),
        {"kind": "APIStatusError", "status": 422, "category": "user"},
    ),
    (RecoveryDisabledError("words"), {}),
    (AlreadyPendingError(RUN), {"run_id": RUN}),
    (CheckpointMissingError(RUN, "none"), {"run_id": RUN, "reason": "none"}),
    (AttemptTimeoutError(RUN, 600.0), {"run_id": RUN, "timeout": 600.0}),
    (
        RecoveryExhaustedError(RUN, 3, None, ["first", "second"]),
        {"run_id": RUN, "attempts": 3, "error": None, "history": ("first", "second")},
    ),
    (RunHeldError("sft-7", "it lives"), {"name": "sft-7"}),
    (
        JournalError("tinkex.db", "it is damaged", RUN),
        {"path": "tinkex.db", "reason": "it is damaged", "run_id": RUN},
    ),
    (IncidentBudgetError(RUN, 5, 3600.0), {"run_id": RUN, "incidents": 5, "window": 3600.0}),
    (SegmentSupersededError(RUN), {"run_id": RUN}),
    (ResumePointUnknownError(RUN, None), {"run_id": RUN, "checkpoint": None}),
    (MonitorStoppedError("words"), {}),
]


def each(value):
    return type(value).__name__ if isinstance(value, BaseException) else ""


def test_every_public_class_is_here_and_in_the_tree():
    public = {getattr(errors, name) for name in errors.__all__}
    classes = {value for value in public if inspect.isclass(value)}

    assert classes == {type(error) for error, _ in ERRORS}
    assert all(issubclass(kind, TinkexError) and kind.__doc__ for kind in classes)


@pytest.mark.parametrize(("error", "attributes"), ERRORS, ids=each)
def test_an_error_says_something_and_holds_its_attributes(error, attributes):
    assert str(error)
    for name, value in attributes.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize(("error", "attributes"), ERRORS, ids=each)
def test_an_error_keeps_everything_through_a_pickle_and_a_copy(error, attributes):
    for other in (
        *(pickle.loads(pickle.dumps(error, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.args == error.args
        for name, value in attributes.items():
            assert getattr(other, name) == value


def test_an_error_with_an_error_inside_pickles():
    error = RecoveryExhaustedError(RUN, 2, ApiRateLimitError(429, retry_after=3.0), ["one"])

    inner = pickle.loads(pickle.dumps(error)).error

    assert (type(inner), inner.retry_after) == (ApiRateLimitError, 3.0)


def test_where_there_was_nothing_to_restore_it_says_to_begin_anew():
    told = str(RecoveryExhaustedError(RUN, 1, CheckpointMissingError(RUN)))

    assert "begin anew" in told
    assert "run.recover()" not in told


def test_notes_survive_a_pickle():
    error = ApiNotFoundError(404)
    error.add_note("see the console")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["see the console"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, ApiStatusError),
        (400, ApiStatusError),
        (401, ApiAuthenticationError),
        (402, ApiBillingError),
        (403, ApiPermissionError),
        (404, ApiNotFoundError),
        (409, ApiStatusError),
        (422, ApiStatusError),
        (429, ApiRateLimitError),
        (500, ApiServerError),
        (503, ApiServerError),
        (599, ApiServerError),
    ],
)
def test_each_status_has_its_class(status, kind):
    error = ApiStatusError.of(status, "words", where="GET x", retry_after=1.0)

    assert type(error) is kind
    assert str(error) == f"the server answered HTTP {status} for GET x: words"
    assert error.retry_after == 1.0


def test_the_usual_classes_of_python_catch_them_too():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(PolicyError, ValueError)
    assert issubclass(ApiTimeoutError, TimeoutError)
    assert issubclass(ApiTimeoutError, ApiConnectionError)
    assert issubclass(AttemptTimeoutError, TimeoutError)
    assert not issubclass(ApiStatusError, ApiConnectionError)


def test_causes_are_told_each_once_also_in_a_circle():
    first, second, third = KeyError("1"), ValueError("2"), OSError("3")
    first.__cause__, first.__context__ = second, third
    second.__context__ = first

    assert list(errors.causes(first)) == [first, second, third]
    assert list(errors.causes(third)) == [third]


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"status": 404}, 404),
        ({"status_code": 503}, 503),
        ({"status": "failed", "status_code": 422}, 422),
        ({"status": True}, None),
        ({}, None),
    ],
)
def test_a_status_is_found_where_an_error_carries_one(attributes, status):
    error = Exception("words")
    error.__dict__.update(attributes)

    assert errors.status_of(error) == status
