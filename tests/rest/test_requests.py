"""What the REST client asks, how it reads lists to their end, and what it never sends."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest
from support.http_servers import KEY, PATH, RUN, RUN_JSON, as_json, config_of, failure

from tinkex.config import Config
from tinkex.errors import ApiResponseError, ApiTimeoutError, ConfigError
from tinkex.rest import transport
from tinkex.types import TinkerPath, TrainingRun


def test_a_run_is_asked_for_with_key_and_scope(stub, client):
    run = client.get_training_run(config_of(stub, headers={"X-Team": "a"}), RUN)

    assert run == TrainingRun(training_run_id=RUN, base_model="m")
    [(method, path, headers, _)] = stub.requests
    assert (method, path) == (
        "GET",
        "/api/v1/training_runs/3f0c1e2d%3Atrain%3A0?access_scope=owned",
    )
    assert headers["X-API-Key"] == KEY
    assert headers["X-Team"] == "a"
    assert headers["Accept"] == "application/json"
    assert "Authorization" not in headers


def test_a_listing_is_asked_for_in_pages(stub, client):
    stub.will(as_json({"training_runs": [RUN_JSON], "cursor": {"total_count": 7}}))
    config = config_of(stub, access_scope="accessible")

    page = client.list_training_runs(config, limit=100, offset=200)
    client.list_training_runs(config)

    assert page.total_count == 7
    assert page.training_runs[0].training_run_id == RUN
    assert [request[1] for request in stub.requests] == [
        "/api/v1/training_runs?limit=100&offset=200&access_scope=accessible",
        "/api/v1/training_runs?limit=20&offset=0&access_scope=accessible",
    ]


def test_weights_info_is_posted(stub, client):
    stub.will(as_json({"base_model": "m", "lora_rank": 8}))

    for path in (PATH, TinkerPath.parse(PATH)):
        assert client.get_weights_info(config_of(stub), path).lora_rank == 8

    for method, path, headers, body in stub.requests:
        assert (method, path) == ("POST", "/api/v1/weights_info")
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body) == {"tinker_path": PATH}


def test_a_session_is_searched_for(stub, client):
    row = {"session_id": "3f0c", "status": None}
    stub.will(as_json({"sessions": [row], "next_cursor": None}))

    assert client.search_sessions(config_of(stub), "3f0c") == (row,)

    [(method, path, headers, body)] = stub.requests
    assert (method, path) == ("POST", "/api/v1/sessions/search")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"session_id": "3f0c", "limit": 1}


@pytest.mark.parametrize("answer", [{}, {"sessions": None}, {"sessions": [3]}])
def test_a_search_of_another_shape_is_refused(stub, client, answer):
    stub.will(as_json(answer))

    failure(lambda: client.search_sessions(config_of(stub), "3f0c"), ApiResponseError)


@pytest.mark.parametrize("session_id", ["", "x" * 513, "a\nb", None, 3])
def test_a_session_id_that_is_none_is_not_sent(stub, client, session_id):
    with pytest.raises(ValueError, match="session id"):
        client.search_sessions(config_of(stub), session_id)

    assert stub.requests == []


def test_a_base_url_with_a_path_is_kept(stub, client):
    client.get_training_run(Config(KEY, f"{stub.url}/services/x/"), "r")

    assert stub.requests[0][1] == "/services/x/api/v1/training_runs/r?access_scope=owned"


def checkpoints(first, last):
    return [{"tinker_path": f"tinker://{RUN}/weights/{n}"} for n in range(first, last)]


def test_checkpoints_are_read_to_the_last_page(stub, client):
    stub.will(
        as_json({"checkpoints": checkpoints(0, 100), "cursor": {"total_count": 130}}),
        as_json({"checkpoints": checkpoints(100, 130), "cursor": {"total_count": 130}}),
    )

    found = client.list_checkpoints(config_of(stub), RUN)

    assert [each.checkpoint_id for each in found] == [str(n) for n in range(130)]
    base = "/api/v1/training_runs/3f0c1e2d%3Atrain%3A0/checkpoints"
    assert [request[1] for request in stub.requests] == [base, f"{base}?limit=100&offset=100"]


@pytest.mark.parametrize(
    "cursor", [None, {"total_count": 3}, {"total_count": 9}, {"total_count": "9"}, [], {}]
)
def test_a_server_without_pages_is_asked_no_longer_than_needed(stub, client, cursor):
    stub.will(as_json({"checkpoints": checkpoints(0, 3), "cursor": cursor}))

    found = client.list_checkpoints(config_of(stub), RUN)

    assert [each.checkpoint_id for each in found] == ["0", "1", "2"]
    assert len(stub.requests) == (2 if cursor == {"total_count": 9} else 1)


def test_a_run_without_checkpoints_has_none(stub, client):
    stub.will(as_json({"checkpoints": []}))

    assert client.list_checkpoints(config_of(stub), RUN) == ()


@pytest.mark.parametrize("answer", [{}, {"checkpoints": None}, {"checkpoints": [3]}])
def test_a_list_of_checkpoints_of_another_shape_is_refused(stub, client, answer):
    stub.will(as_json(answer))

    failure(lambda: client.list_checkpoints(config_of(stub), RUN), ApiResponseError)


def test_checkpoints_share_one_bound(stub, client, monkeypatch):
    pages = [
        as_json({"checkpoints": checkpoints(n, n + 1), "cursor": {"total_count": 500}})
        for n in range(3)
    ]
    stub.will(*pages, stub.hang)

    error = failure(
        lambda: client.list_checkpoints(config_of(stub), RUN, timeout=0.3), ApiTimeoutError
    )

    assert "offset=3" in str(error)


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "/",
        "../x",
        "a\n",
        "a\x00",
        "a\ud800",
        "x" * 513,
        None,
        5,
        b"a",
    ],
)
def test_what_cannot_be_a_run_id_is_never_sent(stub, client, run_id):
    config = config_of(stub)

    for call in (client.get_training_run, client.list_checkpoints):
        with pytest.raises(ValueError, match="run id"):
            call(config, run_id)
    assert stub.requests == []


@pytest.mark.parametrize("path", ["", "a\n", "x" * 513, None, 5])
def test_what_cannot_be_a_path_is_never_sent(stub, client, path):
    with pytest.raises(ValueError, match="tinker path"):
        client.get_weights_info(config_of(stub), path)
    assert stub.requests == []


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"limit": -1}, {"limit": True}, {"limit": 1.5}, {"offset": -1}, {"offset": "0"}],
)
def test_what_cannot_be_a_page_is_never_sent(stub, client, options):
    with pytest.raises(ValueError, match="limit should be 1 or more"):
        client.list_training_runs(config_of(stub), **options)
    assert stub.requests == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_bound_that_is_none_is_refused(stub, client, timeout):
    with pytest.raises(ValueError, match="timeout"):
        client.get_training_run(config_of(stub), RUN, timeout=timeout)
    assert stub.requests == []


def test_odd_ids_arrive_as_they_are(stub, client):
    client.get_training_run(config_of(stub), "a b?c#d%2Fe&ü")

    assert stub.requests[0][1].startswith(
        "/api/v1/training_runs/a%20b%3Fc%23d%252Fe%26%C3%BC?access_scope"
    )


def test_an_unpickled_config_is_refused_before_anything_is_sent(stub, client):
    unpickled = pickle.loads(pickle.dumps(config_of(stub)))

    with pytest.raises(ConfigError, match="unpickled"):
        client.get_training_run(unpickled, RUN)
    assert stub.requests == []


def test_answers_are_compressed_on_the_way_from_other_machines_alone(stub, client, monkeypatch):
    client.get_training_run(config_of(stub), RUN)
    monkeypatch.setattr(transport, "is_loopback", lambda host: False)
    packed = gzip.compress(json.dumps(RUN_JSON).encode())
    stub.will((200, {"Content-Encoding": "gzip"}, packed))
    client.get_training_run(Config("tml-another-key", stub.url), RUN)

    sent = [headers["Accept-Encoding"] for _, _, headers, _ in stub.requests]
    assert sent == ["identity", "gzip, deflate"]
