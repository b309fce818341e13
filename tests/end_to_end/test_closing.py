"""Sessions of the official SDK that tinkex opened end with the monitor, but not the live one."""

from __future__ import annotations

import functools

import pytest
import tinker
from support.rehearsal_http import WAIT, Client

from tinkex import Config, Monitor, Policy
from tinkex.rehearsal import RehearsalServer, batch

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

POLICY = Policy(enabled=True, poll_interval=0.1, backoff=0.05, max_backoff=0.1)

ACTIVE = ("active", None)


def finished(reason):
    """How the server tells of a session that the SDK ended; older versions never end one."""
    return ("client_finished", reason) if hasattr(tinker.ServiceClient, "close") else ACTIVE


@pytest.fixture(params=[True, False], ids=["one call", "two calls"])
def server(request):
    with RehearsalServer(create_model_via_load_weights=request.param) as made:
        yield made


@pytest.fixture
def maker(server):
    return functools.partial(tinker.ServiceClient, base_url=server.url, api_key=server.api_key)


@pytest.fixture
def monitor(server):
    with Monitor(POLICY, config=Config(server.api_key, server.url)) as made:
        yield made


@pytest.fixture
def client(maker):
    made = maker().create_lora_training_client(base_model="any", rank=4, seed=3)
    return made.result() if hasattr(made, "result") else made


def save(client, name):
    client.save_state(name).result(timeout=WAIT)


def statuses(server):
    """The type of each session's status and why it was ended, the oldest session first."""
    found = Client(server).post("sessions/search").json()["sessions"]
    told = [one["status"] for one in reversed(found)]
    return [(status["type"], status.get("reason", {}).get("type")) for status in told]


def test_stop_ends_the_sessions_of_replaced_generations_and_the_live_one_trains_on(
    server, monitor, maker, client
):
    save(client, "000000")
    run = monitor.monitor_run(client.model_id, maker, client=client)
    for _ in range(2):
        run.recover().result(WAIT)
    before = statuses(server)

    monitor.stop()
    live = run.client
    forward = live.forward_backward(batch(0), "cross_entropy")
    update = live.optim_step(tinker.AdamParams(learning_rate=0.05))
    forward.result(timeout=WAIT), update.result(timeout=WAIT)

    assert before == [ACTIVE, ACTIVE, ACTIVE]
    assert statuses(server) == [ACTIVE, finished("success"), ACTIVE]
    assert [entry.step for entry in server.steps(run.run_id)] == [0]


def test_the_session_of_a_failed_attempt_ends_as_one_that_erred(server, monitor, maker, client):
    save(client, "000000")
    save(client, "000001")
    server.corrupt(client.model_id, break_newest=1)
    run = monitor.monitor_run(client.model_id, maker, client=client)

    run.recover().result(WAIT)
    monitor.stop()

    assert statuses(server) == [ACTIVE, finished("errored"), ACTIVE]
