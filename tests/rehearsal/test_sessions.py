"""Sessions of the rehearsal server: how they end, what their calls are answered then, a search."""

from __future__ import annotations

import warnings

import pytest
import tinker
from support.rehearsal_http import WAIT, Client

from tinkex.rehearsal import RehearsalServer

#: What the calls of a session that is over are answered.
ENDS = {
    "gone": (404, "Session {session} not found"),
    "finished": (400, "Session {session} has finished"),
    "poisoned": (410, "This ServiceClient is poisoned."),
}

every_end = pytest.mark.parametrize("how", ENDS)


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def client(server):
    return Client(server)


def publish(client, run):
    answer = client.result("save_weights_for_sampler", model_id=run, sampling_session_seq_id=0)
    return answer.json()["sampling_session_id"]


def ask(client, sampler):
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]}
    params = {"max_tokens": 3}
    return client.post(
        "asample", sampling_session_id=sampler, seq_id=0, prompt=prompt, sampling_params=params
    )


def search(client, **wanted):
    return client.post("sessions/search", **wanted).json()["sessions"]


@every_end
def test_a_session_can_end_with_its_run(server, client, how):
    session = client.session()
    run, sibling = client.run(session, 0), client.run(session, 1)
    sampler, path = publish(client, run), client.save(run, "c1")
    server.corrupt_at(run, 1, ends_session=how)
    client.train(run, 1)

    client.forward_backward(run)
    refused = [
        client.optim_step(run),
        client.forward_backward(sibling),
        client.post("get_info", model_id=run),
        client.post("create_model", session_id=session, model_seq_id=2, base_model="any"),
        client.post("load_weights", session_id=session, model_seq_id=2, path=path, optimizer=True),
        ask(client, sampler),
    ]

    status, detail = ENDS[how]
    told = {(answer.status_code, answer.json()["detail"]) for answer in refused}
    assert told == {(status, detail.format(session=session))}
    beat = client.post("session_heartbeat", session_id=session)
    assert beat.status_code == (404 if how == "gone" else 410)
    assert len(server.steps(run)) == 1


@every_end
def test_a_new_session_works_on(server, client, how):
    run = client.run()
    path = client.save(run, "c1")

    server.corrupt(run, ends_session=how)

    assert client.get(f"training_runs/{run}").json()["corrupted"]
    other = client.session()
    made = client.result(
        "load_weights", session_id=other, model_seq_id=0, path=path, optimizer=True
    )
    client.train(made.json()["model_id"], 1)
    assert [entry.step for entry in server.steps()] == [0]


def test_a_session_can_end_by_itself(server, client):
    session = client.session()
    run = client.run(session)

    server.end_session(session)

    assert client.optim_step(run).status_code == 404
    assert not client.get(f"training_runs/{run}").json()["corrupted"]
    assert client.get(f"sessions/{session}").status_code == 404
    with pytest.raises(KeyError, match="no session 'nope'"):
        server.end_session("nope")


def test_a_session_names_its_samplers(client):
    run = client.run()
    sampler = publish(client, run)

    told = client.get(f"sessions/{run.split(':')[0]}").json()

    assert told == {"training_run_ids": [run], "sampler_ids": [sampler]}


# The search


def test_a_search_tells_why_a_session_failed(server, client):
    run = client.run()
    session = run.split(":")[0]
    client.save(run, "c1")
    server.corrupt(run, ends_session="poisoned")

    (found,) = search(client, session_id=session)

    assert found["status"]["type"] == "failed"
    assert found["status"]["category"] == "internal"
    assert found["status"]["reason"] == {"type": "training_run", "training_run_id": run}
    assert run in found["status"]["message"]
    assert found["checkpoints_count"] == 1
    assert found["checkpoint_storage_bytes"] > 0


def test_a_search_finds_by_name_by_metadata_and_by_status(server, client):
    body = {"tags": [], "sdk_version": "0"}
    named = [
        client.post("create_session", **body, display_name=name, user_metadata={"n": name})
        for name in ("Nightly run", "Daily run")
    ]
    nightly, daily = (answer.json()["session_id"] for answer in named)
    gone, poisoned = client.session(), client.session()
    client.post(f"sessions/{daily}/finish", reason={"type": "errored"}, detail="why")
    server.end_session(gone)
    server.end_session(poisoned, "poisoned")

    def ids(**wanted):
        return [one["session_id"] for one in search(client, **wanted)]

    assert ids() == [poisoned, daily, nightly]
    assert ids(display_name="RUN night") == [nightly]
    assert ids(display_name="daily", session_id=nightly) == [daily, nightly]
    assert ids(user_metadata={"n": "Daily run"}) == [daily]
    assert ids(statuses=[{"type": "active"}]) == [nightly]
    assert ids(statuses=[{"type": "cancelled"}]) == [poisoned]
    assert ids(statuses=[{"type": "client_finished", "reasons": ["errored"]}]) == [daily]
    assert ids(statuses=[{"type": "client_finished", "reasons": ["success"]}]) == []


def test_a_search_shows_only_the_owners_sessions():
    with RehearsalServer(api_keys={"tml-a": "alice", "tml-b": "bob"}) as server:
        Client(server).session()

        assert search(Client(server, "tml-b")) == []


@pytest.mark.parametrize("wanted", [{"limit": 0}, {"limit": 201}, {"cursor": {"wrong": 1}}])
def test_a_search_that_cannot_be_read_is_refused(client, wanted):
    client.session()

    assert client.post("sessions/search", **wanted).status_code == 422


@pytest.mark.skipif(not hasattr(tinker, "RestClient"), reason="this SDK has no search")
def test_the_official_client_pages_through_a_search(server, client):
    sessions = [client.session() for _ in range(5)]
    server.corrupt(client.run(sessions[0]), ends_session="finished")
    rest = tinker.RestClient(base_url=server.url, api_key=server.api_key)
    request = tinker.types.SessionSearchRequest(limit=2)

    pages = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while request is not None:
            page = rest.search_sessions(request).result(WAIT)
            pages.append(page.sessions)
            cursor = page.next_cursor
            request = cursor and request.model_copy(update={"cursor": cursor})

    found = [one.session_id for page in pages for one in page]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert found == sessions[::-1]
    assert pages[-1][0].status.category == "internal"
