"""The official SDK, whichever version is installed, against the rehearsal server."""

from __future__ import annotations

import inspect
import time
import warnings
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest
import tinker

from tinkex.rehearsal import Fault, RehearsalServer, batch, mean_loss

WAIT = 20.0
ADAM = tinker.AdamParams(learning_rate=0.05)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def done(value):
    """Wait for a client where the SDK gives a future of one."""
    return value.result() if hasattr(value, "result") else value


def service_of(server):
    return tinker.ServiceClient(base_url=server.url, api_key=server.api_key)


def end(service):
    if "status" in inspect.signature(getattr(service, "close", end)).parameters:
        service.close("success").result(WAIT)
    else:
        service.holder.close()


#: The two ways to make a client from a checkpoint; the newest SDK knows only the first.
both_ways = pytest.mark.parametrize("server", [True, False], indirect=True, ids=["one", "two"])


@pytest.fixture
def server(request):
    with RehearsalServer(create_model_via_load_weights=getattr(request, "param", True)) as made:
        yield made


@pytest.fixture
def service(server):
    made = service_of(server)
    yield made
    end(made)


def new_client(service, **options):
    options = {"base_model": "any", "rank": 8, "seed": 3, **options}
    return done(service.create_lora_training_client(**options))


def train(client, steps):
    """Submit every request of a step before waiting for any of them."""
    losses = []
    for step in steps:
        forward = client.forward_backward(batch(step), "cross_entropy")
        update = client.optim_step(ADAM)
        losses.append(mean_loss(forward.result(timeout=WAIT)))
        update.result(timeout=WAIT)
    return losses


def is_stuck(future):
    """Whether no answer comes; the SDK is then kept from asking on for ever."""
    try:
        future.result(timeout=0.5)
    except (FutureTimeoutError, TimeoutError):
        future.future().cancel()
        return True
    return False


def save(client, name, **options):
    return client.save_state(name, **options).result(timeout=WAIT).path


def test_the_loss_falls_and_the_log_has_every_step(server, service):
    client = new_client(service)

    losses = train(client, range(40))

    assert losses[0] > 4.0
    assert losses[-1] < 2.5
    log = server.steps(client.model_id)
    assert [entry.loss for entry in log] == losses
    assert [entry.step for entry in log] == list(range(40))
    assert [entry.sequence for entry in log] == list(range(2, 82, 2))


def test_everything_submitted_at_once_is_applied_in_order(server, service):
    client = new_client(service)
    futures = []
    for step in range(8):
        futures.append(client.forward_backward(batch(step), "cross_entropy"))
        client.optim_step(ADAM)
    saving = client.save_state("end")
    losses = [mean_loss(future.result(timeout=WAIT)) for future in futures]
    saving.result(timeout=WAIT)

    other = new_client(service)

    assert train(other, range(8)) == losses
    assert server.run(client.model_id).checkpoints[0].step == 8


def test_a_name_that_is_too_long_is_refused(service):
    client = new_client(service)

    with pytest.raises(tinker.BadRequestError, match="Invalid checkpoint name"):
        client.save_state("a" * 300).result(timeout=WAIT)
    client.save_state("a" * 200).result(timeout=WAIT)


@both_ways
def test_restored_with_the_optimizer_training_goes_on_bit_exactly(server, service):
    client = new_client(service)
    train(client, range(6))
    path = save(client, "c6")
    expected = train(client, range(6, 12))

    successor = done(service.create_training_client_from_state_with_optimizer(path))

    assert successor.model_id != client.model_id
    assert train(successor, range(6, 12)) == expected
    assert [entry.step for entry in server.steps(successor.model_id)] == list(range(6, 12))
    info = server.run(successor.model_id)
    assert (info.created_from, info.with_optimizer, info.start_step) == (path, True, 6)
    assert server.training_clients_created == 2


@both_ways
def test_restored_without_the_optimizer_training_goes_another_way(server, service):
    client = new_client(service)
    train(client, range(6))
    path = save(client, "c6")
    expected = train(client, range(6, 9))

    successor = done(service.create_training_client_from_state(path))
    losses = train(successor, range(6, 9))

    assert losses[0] == expected[0]
    assert losses[1:] != expected[1:]
    assert [entry.step for entry in server.steps(successor.model_id)] == [6, 7, 8]
    assert not server.run(successor.model_id).with_optimizer


def test_a_state_can_be_loaded_into_a_live_client(service):
    client = new_client(service)
    path = save(client, "start")
    losses = train(client, range(3))

    client.load_state_with_optimizer(path).result(timeout=WAIT)

    assert train(client, range(3)) == losses


@both_ways
def test_metadata_is_kept_for_runs_and_checkpoints(server, service):
    client = new_client(service, user_metadata={"who": "me"})
    takes_metadata = "user_metadata" in inspect.signature(client.save_state).parameters
    options = {"user_metadata": {"step": "0"}} if takes_metadata else {}
    path = save(client, "c0", **options)
    successor = done(service.create_training_client_from_state(path, user_metadata={"from": "c0"}))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = service.create_rest_client()
    run = rest.get_training_run(client.model_id).result(WAIT)
    saved = rest.list_checkpoints(client.model_id).result(WAIT).checkpoints

    assert run.user_metadata == {"who": "me"}
    assert server.run(successor.model_id).user_metadata == {"from": "c0"}
    assert [one.tinker_path for one in saved] == [path]
    if takes_metadata:
        assert saved[0].user_metadata == {"step": "0"}


def test_a_corrupted_run_says_so_and_its_client_fails(server, service):
    client = new_client(service)
    train(client, range(2))

    server.corrupt(client.model_id)

    with pytest.raises(ValueError, match=r"422.*Adapter .* not found"):
        client.forward_backward(batch(2), "cross_entropy").result(timeout=WAIT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = service.create_rest_client()
    assert rest.get_training_run(client.model_id).result(WAIT).corrupted


@both_ways
def test_a_run_is_corrupted_at_the_step_that_was_named(server, service):
    server.corrupt_at(None, 3, break_newest=1)
    client = new_client(service)
    train(client, range(2))
    good = save(client, "c2")
    train(client, [2])
    bad = save(client, "c3")

    with pytest.raises(ValueError, match="422"):
        train(client, [3])
    with pytest.raises(ValueError, match="deserializing header"):
        done(service.create_training_client_from_state_with_optimizer(bad))
    successor = done(service.create_training_client_from_state_with_optimizer(good))
    train(successor, range(2, 5))

    assert [entry.step for entry in server.steps(client.model_id)] == [0, 1, 2]
    assert [entry.step for entry in server.steps(successor.model_id)] == [2, 3, 4]
    first, orphan, last = server.runs()
    assert first.corrupted
    assert [orphan.corrupted, last.corrupted] == [False, False]
    assert (orphan.steps, orphan.created_from) == (0, None)


def test_a_run_can_hang_instead_of_failing(server, service):
    server.corrupt_at(None, 1, mode="hang", flag=False)
    client = new_client(service)
    train(client, [0])

    stuck = client.forward_backward(batch(1), "cross_entropy")
    update = client.optim_step(ADAM)
    stuck.result(timeout=WAIT)

    assert is_stuck(update)
    assert not server.run(client.model_id).corrupted
    assert server.run(client.model_id).failure == "hang"


@both_ways
def test_an_expired_checkpoint_does_not_load(server, service):
    client = new_client(service)
    path = save(client, "c0")

    server.expire(path)

    with pytest.raises((tinker.NotFoundError, ValueError), match="has expired"):
        done(service.create_training_client_from_state(path))


def test_failed_futures_can_be_told_as_answers():
    with RehearsalServer(failed_futures="answer") as server:
        service = service_of(server)
        client = new_client(service)
        server.corrupt(client.model_id)

        with pytest.raises(tinker.RequestFailedError, match="Adapter") as caught:
            client.optim_step(ADAM).result(timeout=WAIT)

        assert caught.value.category.value == "server"
        end(service)


def test_compressed_batches_and_many_chunks_are_understood():
    limits = {"fwdbwd_max_chunk_len": 3}
    with RehearsalServer(proto_compress_fwdbwd=True, client_config=limits) as server:
        service = service_of(server)
        client = new_client(service)
        forward = client.forward_backward(batch(0), "cross_entropy")
        update = client.optim_step(ADAM)
        loss = mean_loss(forward.result(timeout=WAIT))
        update.result(timeout=WAIT)

        assert server.steps()[0].loss == pytest.approx(loss)
        assert server.requests["POST /api/v1/forward_backward"] == 3
        end(service)


def test_cut_connections_are_ridden_out_without_a_step_twice(server, service):
    client = new_client(service)
    cut = server.add_fault(Fault(route="POST */optim_step", kind="cut", times=1))
    lost = server.add_fault(Fault(route="POST */save_weights", kind="lost", times=1))

    losses = train(client, range(2))
    path = save(client, "c2")

    assert (cut.hits, lost.hits) == (1, 1)
    assert [entry.step for entry in server.steps()] == [0, 1]
    assert [entry.loss for entry in server.steps()] == losses
    assert [one.tinker_path for one in server.run(client.model_id).checkpoints] == [path]


def test_closing_the_server_frees_all_that_hang():
    server = RehearsalServer().start()
    service = service_of(server)
    client = new_client(service)
    server.corrupt(client.model_id, mode="hang")
    assert is_stuck(client.optim_step(ADAM))

    began = time.monotonic()
    server.close()

    assert time.monotonic() - began < 5.0
    service.holder.close()
