"""The rehearsal server over plain HTTP: what it answers, in which order, and when corrupted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import requests
from support import DATA
from support.rehearsal_http import WAIT, Client

from tinkex.rehearsal import RehearsalServer


def sample(name):
    return json.loads((DATA / name).read_text())


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def client(server):
    return Client(server)


@pytest.mark.parametrize("package", ["numpy", "starlette", "uvicorn"])
def test_without_its_extra_it_says_what_to_install(package):
    code = f"import sys; sys.modules[{package!r}] = None\nimport tinkex.rehearsal"

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    needed = 'tinkex.rehearsal needs an extra: pip install "tinkex[rehearsal]"'
    assert ended.stderr.splitlines()[-1] == f"ModuleNotFoundError: {needed}"


# What it tells


def test_a_run_has_the_shape_that_real_servers_give(client):
    run = client.run(user_metadata={"who": "me"})
    client.save(run, "c1")

    told = client.get(f"training_runs/{run}").json()

    expected = sample("tuft_training_run_get.json")
    assert told.keys() == expected.keys()
    assert told["last_checkpoint"].keys() == expected["last_checkpoint"].keys()
    assert told["last_checkpoint"]["checkpoint_id"] == "c1"
    assert told["last_checkpoint"]["size_bytes"] > 0
    assert told["last_request_time"].endswith("Z")
    assert told["user_metadata"] == {"who": "me"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("training_runs", "tuft_training_runs_list.json"),
        ("training_runs/{run}/checkpoints", "tuft_run_checkpoints.json"),
        ("checkpoints", "tuft_user_checkpoints.json"),
        ("sessions", "tuft_sessions_list.json"),
        ("sessions/{session}", "tuft_session_get.json"),
        ("get_server_capabilities", "tuft_server_capabilities.json"),
        ("healthz", "tuft_healthz.json"),
    ],
)
def test_answers_have_the_shapes_that_real_servers_give(client, path, name):
    run = client.run()
    client.save(run, "c1")

    told = client.get(path.format(run=run, session=run.split(":")[0])).json()

    assert shape(told) == shape(sample(name))


@pytest.mark.parametrize(
    ("path", "field", "name"),
    [
        ("get_info", "model_id", "tuft_get_info.json"),
        ("weights_info", "tinker_path", "tuft_weights_info.json"),
    ],
)
def test_posted_questions_have_the_shapes_that_real_servers_give(client, path, field, name):
    run = client.run()

    # What a checkpoint was made from is told even where it does not exist.
    given = {"model_id": run, "tinker_path": f"tinker://{run}/weights/nope"}[field]
    told = client.post(path, **{field: given})

    assert told.status_code == 200
    assert told.json().keys() == sample(name).keys()


def shape(value):
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items() if item is not None}.keys()
    return type(value)


def test_runs_are_listed_by_their_newest_request_in_pages(client):
    session = client.session()
    runs = [client.run(session, number) for number in range(3)]
    client.train(runs[0], 1)

    pages = [client.get("training_runs", params={"limit": 2, "offset": at}) for at in (0, 2, 9)]

    ids = [[row["training_run_id"] for row in page.json()["training_runs"]] for page in pages]
    assert ids == [[runs[0], runs[2]], [runs[1]], []]
    assert pages[2].json()["cursor"] == {"offset": 9, "limit": 2, "total_count": 3}


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "offset=-1", "limit=many"])
def test_a_page_out_of_bounds_is_refused(client, query):
    assert client.get(f"training_runs?{query}").status_code == 422


def test_checkpoints_of_a_run_come_oldest_first_and_by_bare_name(client):
    run = client.run()
    for name in ("b", "a", "c"):
        client.save(run, name)

    told = client.get(f"training_runs/{run}/checkpoints").json()

    assert [one["checkpoint_id"] for one in told["checkpoints"]] == ["b", "a", "c"]
    assert client.get(f"training_runs/{run}").json()["last_checkpoint"]["checkpoint_id"] == "c"


def test_checkpoint_metadata_and_time_to_live_come_back(client):
    run = client.run()
    client.save(run, "c1", user_metadata={"step": "1"}, ttl_seconds=3600)

    (told,) = client.get(f"training_runs/{run}/checkpoints").json()["checkpoints"]

    assert told["user_metadata"] == {"step": "1"}
    assert told["expires_at"] > told["time"]


def test_ids_work_raw_and_escaped_and_a_trailing_slash_redirects(client):
    run = client.run()

    assert client.get(f"training_runs/{run.replace(':', '%3A')}").status_code == 200
    assert client.get("training_runs/a%2Fb").status_code == 404
    assert client.get("training_runs/", allow_redirects=False).status_code == 307
    assert client.get("nowhere").json() == {"detail": "Not Found"}


def test_keys_are_asked_for_and_show_only_their_owners_runs():
    with RehearsalServer(api_keys={"tml-a": "alice", "tml-b": "bob"}) as server:
        alice, bob = Client(server), Client(server, "tml-b")
        run = alice.run()

        keyless = requests.get(f"{server.url}/api/v1/training_runs", timeout=WAIT)
        stranger = Client(server, "tml-wrong").get("training_runs")

        assert (keyless.status_code, keyless.json()) == (401, {"detail": "Missing API key"})
        assert (stranger.status_code, stranger.json()) == (403, {"detail": "Invalid API key"})
        assert bob.get("training_runs").json()["cursor"]["total_count"] == 0
        assert bob.get(f"training_runs/{run}").status_code == 404
        assert alice.get(f"training_runs/{run}").json()["model_owner"] == "alice"


def test_an_unknown_run_can_be_a_server_error_in_plain_text():
    with RehearsalServer(unknown_run_status=500) as server:
        answer = Client(server).get("training_runs/nope")

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def test_session_ids_repeat_with_the_seed():
    def first_session():
        with RehearsalServer(seed=5) as server:
            return Client(server).session()

    assert first_session() == first_session()


# Order


def test_requests_are_applied_by_number_whatever_order_they_come_in(server, client):
    run, other = client.run(), client.run()
    late = client.optim_step(run, 2).json()["request_id"]
    assert server.steps() == ()

    first = client.forward_backward(run, 1).json()["request_id"]
    client.train(other, 1)

    assert client.retrieve(late).status_code == 200
    assert client.retrieve(first).json()["metrics"]["weights:sum"] == 64
    mine, theirs = server.steps()
    assert (mine.sequence, mine.step, mine.loss) == (2, 0, theirs.loss)


def test_a_request_sent_twice_is_applied_once(server, client):
    run = client.run()
    client.forward_backward(run, 1)

    first, second = client.optim_step(run, 2), client.optim_step(run, 2)

    assert first.json() == second.json()
    assert len(server.steps()) == 1


def test_a_name_is_taken_once_and_the_next_request_goes_on(server, client):
    run = client.run()
    client.save(run, "c1", seq_id=1)

    refused = client.post("save_weights", model_id=run, path="c1", seq_id=2)

    assert refused.status_code == 409
    assert "already exists" in refused.json()["detail"]
    assert client.optim_step(run, 3).status_code == 200
    assert [entry.sequence for entry in server.steps()] == [3]
    client.save(run, "c1", seq_id=4, overwrite=True)
    assert [one.step for one in server.run(run).checkpoints] == [1]


# Corruption


def test_the_newest_checkpoint_of_a_corrupted_run_is_still_named(server, client):
    run = client.run()
    good, bad = client.save(run, "c1"), client.save(run, "c2")

    server.corrupt(run, break_newest=1)

    told = client.get(f"training_runs/{run}").json()
    assert told["corrupted"]
    assert told["last_checkpoint"]["tinker_path"] == bad
    session = client.session()
    codes = [
        client.result(
            "load_weights", session_id=session, model_seq_id=number, path=path, optimizer=True
        )
        for number, path in enumerate([bad, good])
    ]
    assert [code.status_code for code in codes] == [422, 200]
    assert "deserializing header" in codes[0].json()["detail"]
    listed = client.get("training_runs").json()["training_runs"]
    assert [row["training_run_id"] for row in listed[:2]] == [
        f"{session}:train:{n}" for n in (1, 0)
    ]
    assert not any(row["corrupted"] for row in listed[:2])


def test_a_failing_run_need_not_be_flagged_and_its_time_goes_on(server, client):
    run = client.run()
    server.corrupt(run, flag=False)
    before = client.get(f"training_runs/{run}").json()

    failed = client.retrieve(client.forward_backward(run).json()["request_id"])

    after = client.get(f"training_runs/{run}").json()
    assert failed.status_code == 422
    assert failed.json() == {"detail": f"Future failed: Adapter {run} not found"}
    assert not after["corrupted"]
    assert after["last_request_time"] > before["last_request_time"]


def test_a_trap_goes_off_once_and_for_its_run_only(server, client):
    session = client.session()
    bystander, victim = client.run(session, 0), client.run(session, 1)
    server.corrupt_at(victim, 1)

    for run in (bystander, victim):
        client.train(run, 3)

    assert [len(server.steps(run)) for run in (bystander, victim)] == [3, 1]
    assert [run.corrupted for run in server.runs()] == [False, True]


def test_an_expired_a_deleted_and_a_missing_checkpoint_do_not_load(server, client):
    run = client.run()
    expired, deleted = client.save(run, "c1"), client.save(run, "c2")
    server.expire(expired)
    url = f"{server.url}/api/v1/training_runs/{run}/checkpoints/weights/c2"
    assert client.http.delete(url, timeout=WAIT).status_code == 204

    for path in (expired, deleted, f"tinker://{run}/weights/never"):
        answer = client.post("load_weights", model_id=run, path=path, optimizer=False)
        assert answer.status_code == 404

    (left,) = client.get(f"training_runs/{run}/checkpoints").json()["checkpoints"]
    assert left["expires_at"] is not None


def test_sampler_weights_cannot_be_trained_from(client):
    run = client.run()
    path = client.result("save_weights_for_sampler", model_id=run, path="s1").json()["path"]

    answer = client.post("load_weights", model_id=run, path=path, optimizer=False)

    assert path == f"tinker://{run}/sampler_weights/s1"
    assert answer.status_code == 400
    told = client.get(f"training_runs/{run}").json()
    assert told["last_checkpoint"] is None
    assert told["last_sampler_checkpoint"]["checkpoint_type"] == "sampler"


def test_a_forgotten_run_is_unknown(server, client):
    run = client.run()

    server.forget(run)

    assert client.get(f"training_runs/{run}").status_code == 404
    assert client.forward_backward(run).status_code == 404
    assert server.run(run).forgotten


def test_a_run_that_is_not_there_cannot_be_corrupted(server):
    with pytest.raises(KeyError, match="no run 'nope'"):
        server.corrupt("nope")


def test_a_finished_session_takes_no_more_runs(client):
    session = client.session()
    client.post(f"sessions/{session}/finish", reason={"type": "success"})

    assert client.post("session_heartbeat", session_id=session).status_code == 410
    body = {"session_id": session, "model_seq_id": 0, "base_model": "any"}
    assert client.post("create_model", **body).status_code == 400
