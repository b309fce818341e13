"""The rehearsal server when things go wrong between it and its clients, and its own life."""

from __future__ import annotations

import socket
import threading

import pytest
import requests
from support.rehearsal_http import WAIT, Client

from tinkex.rehearsal import Fault, RehearsalServer


@pytest.fixture
def server():
    with RehearsalServer() as made:
        yield made


@pytest.fixture
def client(server):
    return Client(server)


# Faults


def test_a_status_fault_answers_until_its_times_are_over(server, client):
    fault = Fault(route="GET */training_runs", kind="status", status=429, retry_after=2, times=2)
    handle = server.add_fault(fault)

    answers = [client.get("training_runs") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "2"
    assert handle.hits == 2


def test_a_fault_ends_when_it_is_removed(server, client):
    handle = server.add_fault(Fault(route="*", kind="garbage"))
    wrong = client.get("healthz")
    handle.remove()
    handle.remove()

    assert wrong.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        wrong.json()
    assert client.get("healthz").json() == {"status": "ok"}


def test_a_cut_connection_has_no_answer(server, client):
    server.add_fault(Fault(route="GET */healthz", kind="cut", times=1))

    with pytest.raises(requests.ConnectionError):
        client.get("healthz")

    assert client.get("healthz").status_code == 200


def test_a_lost_answer_was_acted_upon(server, client):
    run = client.run()
    server.add_fault(Fault(route="POST */optim_step", kind="lost", times=1))

    with pytest.raises(requests.ConnectionError):
        client.optim_step(run, 1)

    assert len(server.steps(run)) == 1


def test_a_client_that_ends_within_its_request_leaves_no_word_in_the_log(server, client, caplog):
    host, port = server.url.removeprefix("http://").split(":")
    begun = f"POST /api/v1/optim_step HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {server.api_key}\r\n"
    with socket.create_connection((host, int(port)), WAIT) as connection:
        connection.sendall(f"{begun}Content-Length: 100\r\n\r\n{{".encode())
        while not server.requests["POST /api/v1/optim_step"]:
            assert client.get("healthz").status_code == 200

    assert client.get("healthz").status_code == 200
    server.close()

    # Sessions that other tests have left write there, too.
    assert [each for each in caplog.records if each.name.startswith("uvicorn")] == []


def test_a_slow_answer_comes_in_the_end(server, client):
    server.add_fault(Fault(route="GET */healthz", kind="slow", seconds=0.2))

    answer = client.get("healthz")

    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() >= 0.2


def test_a_hanging_request_ends_when_the_server_closes():
    server = RehearsalServer().start()
    server.add_fault(Fault(route="GET */healthz", kind="hang"))
    seen = []

    def ask():
        try:
            Client(server).get("healthz")
        except requests.RequestException as error:
            seen.append(type(error))

    asker = threading.Thread(target=ask)
    asker.start()
    asker.join(0.3)
    assert asker.is_alive()

    server.close()
    asker.join(WAIT)

    assert seen == [requests.ConnectionError]


def test_a_hang_of_some_seconds_ends_without_an_answer(server, client):
    server.add_fault(Fault(route="GET */healthz", kind="hang", seconds=0.1))

    with pytest.raises(requests.ConnectionError):
        client.get("healthz")


@pytest.mark.parametrize("route", ["optim_step", "/api/v1/optim_step", "post /api/v1/*", ""])
def test_a_route_that_no_request_can_match_is_refused(route):
    with pytest.raises(ValueError, match="METHOD /path"):
        Fault(route=route, kind="hang")


@pytest.mark.parametrize(("step", "error"), [("13", TypeError), (-1, ValueError)])
def test_a_step_that_no_run_comes_to_is_refused(step, error):
    with pytest.raises(error, match="step must be"):
        RehearsalServer().corrupt_at(None, step)


@pytest.mark.parametrize("fields", [{"kind": "odd"}, {"kind": "slow"}, {"kind": "cut", "times": 0}])
def test_a_fault_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError, match=r"fault|times"):
        Fault(route="*", **fields)


# Its life


def test_requests_and_connections_are_counted(server, client):
    run = client.run()
    before = server.connections
    for _ in range(3):
        client.get(f"training_runs/{run}")
    client.get("nowhere")

    assert server.requests["GET /api/v1/training_runs/{run_id}"] == 3
    assert server.requests["GET (unknown)"] == 1
    assert server.connections == before == 1


def test_its_thread_and_its_files_are_gone_after_close():
    server = RehearsalServer().start().start()
    client = Client(server)
    client.save(client.run(), "c1")
    names = {thread.name for thread in threading.enumerate()}

    server.close()
    server.close()

    assert "tinkex-rehearsal" in names
    assert "tinkex-rehearsal" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(requests.ConnectionError):
        client.get("healthz")
    with pytest.raises(RuntimeError, match="closed"):
        server.start()


def test_a_given_directory_is_kept(tmp_path):
    with RehearsalServer(tmp_path) as server:
        client = Client(server)
        client.save(client.run(), "c1")

    assert [path.name for path in tmp_path.rglob("*.npz")] == ["c1.npz"]


def test_the_environment_leads_clients_to_it(server):
    assert server.environ == {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": "tml-rehearsal"}
    assert server.url.startswith("http://127.0.0.1:")


def test_keys_must_look_like_keys():
    with pytest.raises(ValueError, match="tml-"):
        RehearsalServer(api_keys={"secret": "owner"})


def test_waiting_ends_with_the_step_that_was_waited_for(server, client):
    run = client.run()
    trainer = threading.Thread(target=client.train, args=(run, 5))
    trainer.start()

    assert server.wait_for(lambda: len(server.steps(run)) >= 3, WAIT)
    trainer.join(WAIT)
    assert not server.wait_for(lambda: len(server.steps(run)) > 5, 0.05)
