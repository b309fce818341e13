"""The official SDK's own REST client as a rest module."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tinkex import Config
from tinkex import service as services
from tinkex.errors import ApiConnectionError, ApiStatusError, ApiTimeoutError, causes
from tinkex.types import Checkpoint, TrainingRun

RUN = "3f0c:train:0"
PATH = f"tinker://{RUN}/weights/000100"
KEY = "tml-of-the-client-0123456789"


class RequestHeldError(Exception):
    """As the errors of HTTP libraries: the request in it holds the key."""

    def __init__(self, message, status_code=None):
        super().__init__(message)
        self.status_code = status_code
        self.request = {"headers": {"X-API-Key": KEY}}


def chain(error, cause):
    error.__cause__ = cause
    return error


class Answer:
    def __init__(self, data):
        self.data = data

    def result(self, timeout):
        if isinstance(self.data, Exception):
            raise self.data
        return self

    def model_dump(self, mode):
        assert mode == "json"
        return self.data


class SdkClient:
    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return Answer(self.answer)

        return call


def test_the_sdks_runs_become_ours():
    sdk = SdkClient({"training_run_id": RUN, "corrupted": True, "base_model": "a/b"})

    run = services.SdkRest(sdk).get_training_run(None, RUN)

    assert isinstance(run, TrainingRun)
    assert (run.training_run_id, run.corrupted) == (RUN, True)
    assert sdk.calls == [("get_training_run", (RUN,), {})]


def test_the_sdks_pages_become_ours():
    sdk = SdkClient({"training_runs": [{"training_run_id": RUN}], "cursor": {"total_count": 9}})

    page = services.SdkRest(sdk).list_training_runs(None, limit=5, offset=2)

    assert [run.training_run_id for run in page.training_runs] == [RUN]
    assert page.total_count == 9
    assert sdk.calls == [("list_training_runs", (), {"limit": 5, "offset": 2})]


def test_the_sdks_checkpoints_become_ours():
    sdk = SdkClient({"checkpoints": [{"tinker_path": PATH, "time": "2026-01-02T03:04:05Z"}]})

    (checkpoint,) = services.SdkRest(sdk).list_checkpoints(None, RUN)

    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.tinker_path == PATH
    assert checkpoint.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raised", "kind", "status"),
    [
        (RequestHeldError("no such run", 404), ApiStatusError, 404),
        (TimeoutError(), ApiTimeoutError, None),
        (chain(RuntimeError("x"), RequestHeldError("no route")), ApiConnectionError, None),
        (ValueError("a bug"), ValueError, None),
    ],
)
def test_the_sdks_errors_become_ours_without_the_request_in_them(raised, kind, status):
    rest = services.SdkRest(SdkClient(raised))

    with pytest.raises(kind) as caught:
        rest.get_training_run(None, RUN)

    assert getattr(caught.value, "status", None) == status
    assert not any(hasattr(cause, "request") for cause in causes(caught.value))


def test_a_project_of_the_config_is_handed_to_the_sdk():
    sdk = SdkClient({"training_runs": []})

    services.SdkRest(sdk).list_training_runs(Config(KEY, project_id="p-1"), limit=5, offset=10)

    assert sdk.calls == [
        ("list_training_runs", (), {"limit": 5, "offset": 10, "project_id": "p-1"})
    ]
