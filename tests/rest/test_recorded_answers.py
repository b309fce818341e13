"""What real servers answered is read as what it is."""

from __future__ import annotations

import json
import re

import pytest
from support import DATA
from support.http_servers import PATH, RUN, config_of, failure

from tinkex.errors import (
    ApiAuthenticationError,
    ApiNotFoundError,
    ApiPermissionError,
    ApiResponseError,
    ApiServerError,
    ApiStatusError,
)


def test_every_sample_comes_through(stub, client):
    config = config_of(stub)
    read = {
        "run_get": lambda: client.get_training_run(config, RUN).training_run_id,
        "runs_list": lambda: client.list_training_runs(config).training_runs,
        "run_checkpoints": lambda: client.list_checkpoints(config, RUN),
        "user_checkpoints": lambda: client.list_checkpoints(config, RUN),
        "weights_info": lambda: client.get_weights_info(config, PATH),
    }
    names = [path.name for path in DATA.glob("*.json")]

    for kind, call in read.items():
        found = [name for name in names if kind in name]
        assert found
        for name in found:
            stub.will((200, {"Content-Type": "application/json"}, (DATA / name).read_bytes()))
            assert call()


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name
        for path in DATA.glob("*.json")
        if re.search("session|healthz|capab|config|get_info", path.name)
    ),
)
def test_an_answer_to_another_question_is_refused(stub, client, name):
    config = config_of(stub)
    stub.will((200, {}, (DATA / name).read_bytes()))

    failure(lambda: client.get_training_run(config, RUN), ApiResponseError)
    failure(lambda: client.list_training_runs(config), ApiResponseError)
    failure(lambda: client.list_checkpoints(config, RUN), ApiResponseError)


def recorded():
    for file in sorted(DATA.glob("*_errors.txt")):
        for block in file.read_text().split("## ")[1:]:
            title, command, answer = block.split("\n", 2)
            if answer.startswith("HTTP/"):
                head, _, body = answer.partition("\n\n")
                yield pytest.param(command, head, body.strip(), id=f"{file.stem} {title}")


CLASSES = {
    307: ApiStatusError,
    400: ApiStatusError,
    401: ApiAuthenticationError,
    403: ApiPermissionError,
    404: ApiNotFoundError,
    422: ApiStatusError,
    500: ApiServerError,
}


@pytest.mark.parametrize(("command", "head", "body"), list(recorded()))
def test_every_recorded_answer_has_its_error_or_value(stub, client, command, head, body):
    status = int(head.split()[1])
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    del headers["content-length"]
    stub.will((status, headers, body.encode()))
    config = config_of(stub)
    if "weights_info" in command:
        call = lambda: client.get_weights_info(config, PATH)  # noqa: E731
    elif "/checkpoints" in command:
        call = lambda: client.list_checkpoints(config, RUN)  # noqa: E731
    elif re.search(r"/training_runs/\w", command):
        call = lambda: client.get_training_run(config, RUN)  # noqa: E731
    else:
        call = lambda: client.list_training_runs(config)  # noqa: E731

    if status == 200:
        assert call() is not None
        return
    error = failure(call)

    assert type(error) is CLASSES[status]
    assert error.status == status
    assert len(stub.requests) == (3 if status == 500 else 1)
    if body.startswith("{"):
        said = json.loads(body)["detail"]
        assert (said if isinstance(said, str) else said[0]["msg"]) in error.detail
    elif status == 500:
        assert error.detail == "Internal Server Error"
