"""Training loops on the official SDK, whichever version is installed, with a server that fails."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings

import pytest
import tinker

import tinkex
from tinkex import Config, Monitor, Policy, signals
from tinkex.rehearsal import RehearsalServer, batch
from tinkex.service import SdkRest

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

WAIT = 20.0
STEPS = 16
SAVE_EVERY = 4
ADAM = tinker.AdamParams(learning_rate=0.05)
POLICY = Policy(enabled=True, poll_interval=0.1, backoff=0.05, max_backoff=0.1, confirm_within=5.0)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """No key but the one that was handed in."""
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[True, False], ids=["one call", "two calls"])
def server(request):
    """A server on which a client is made from a checkpoint in one call, or in two."""
    with RehearsalServer(create_model_via_load_weights=request.param) as made:
        yield made


@pytest.fixture
def new_service(server):
    """Makes service clients, and ends them."""
    made = []

    def make():
        made.append(tinker.ServiceClient(base_url=server.url, api_key=server.api_key))
        return made[-1]

    yield make
    for service in made:
        end(service)


def end(service):
    """Close a service client; older ones have only a holder to close."""
    if "status" in inspect.signature(getattr(service, "close", end)).parameters:
        service.close("success").result(WAIT)
    else:
        service.holder.close()


@pytest.fixture
def service(new_service):
    return new_service()


def new_client(service, **options):
    """A training client; in newer versions a future that stands for it."""
    options = {"base_model": "any", "rank": 4, "seed": 3, **options}
    return service.create_lora_training_client(**options)


def id_of(client):
    return (client.result() if hasattr(client, "result") else client).model_id


def fit(run, before=lambda segment, step: None, *, save_every=SAVE_EVERY):
    """The loop of the README; returns each segment's resume point."""
    resumes = []
    for segment in run.segments():
        resumes.append(segment.resume)
        with segment:
            for step in segment.steps(STEPS):
                before(segment, step)
                forward = segment.client.forward_backward(batch(step), "cross_entropy")
                update = segment.client.optim_step(ADAM)
                segment.result(forward, WAIT), segment.result(update, WAIT)
                if (step + 1) % save_every == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)
    return resumes


def fit_ahead(run, ahead=3):
    """A loop that keeps some steps submitted before it waits for the first of them."""
    resumes = []
    for segment in run.segments():
        resumes.append(segment.resume)
        submitted = []
        with segment:
            for step in segment.steps(STEPS):
                submitted.append(segment.client.forward_backward(batch(step), "cross_entropy"))
                submitted.append(segment.client.optim_step(ADAM))
                if (step + 1) % SAVE_EVERY == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)
                while len(submitted) > 2 * ahead:
                    segment.result(submitted.pop(0), WAIT)
            for future in submitted:
                segment.result(future, WAIT)
    return resumes


@pytest.fixture(scope="module")
def expected():
    """The steps and losses of a run that nothing happens to."""
    with RehearsalServer() as server:
        service = tinker.ServiceClient(base_url=server.url, api_key=server.api_key)
        client = new_client(service)
        with tinkex.watch(client, service, POLICY) as run:
            fit(run)
        end(service)
        return pairs(server, run.run_id)


def pairs(server, run_id):
    return [(entry.step, entry.loss) for entry in server.steps(run_id)]


def assert_trained_as_if_nothing_had_happened(server, run, expected):
    """Every step of every generation has the loss it should have, and none is missing."""
    told = [pair for generation in run.lineage for pair in pairs(server, generation.run_id)]

    assert [step for step, _ in expected] == list(range(STEPS))
    assert set(told) == set(expected)
    assert pairs(server, run.run_id)[-1] == expected[-1]


def test_a_corrupted_run_whose_newest_checkpoint_is_broken_goes_on_from_the_one_before(
    server, service, expected
):
    client = new_client(service)
    server.corrupt_at(id_of(client), 10, break_newest=1)

    with tinkex.watch(client, service, POLICY) as run:
        resumes = fit(run)

    assert [resume and resume.step for resume in resumes] == [None, 4]
    assert resumes[1].steps_lost == 6
    assert resumes[1].optimizer_restored
    assert_trained_as_if_nothing_had_happened(server, run, expected)


def test_a_run_that_fails_but_is_never_flagged_is_recovered(server, service, expected):
    client = new_client(service)
    server.corrupt_at(id_of(client), 10, flag=False)

    with tinkex.watch(client, service, POLICY) as run:
        resumes = fit(run)

    assert [resume and resume.step for resume in resumes] == [None, 8]
    assert not server.run(run.root_id).corrupted
    assert "not found" in run.lineage[0].error
    assert_trained_as_if_nothing_had_happened(server, run, expected)


def test_a_client_that_hangs_is_given_up_when_the_flag_comes(server, service, expected):
    client = new_client(service)
    server.corrupt_at(id_of(client), 10, mode="hang")

    with tinkex.watch(client, service, POLICY) as run:
        resumes = fit(run)

    assert [resume and resume.step for resume in resumes] == [None, 8]
    assert_trained_as_if_nothing_had_happened(server, run, expected)


def test_a_run_that_is_corrupted_while_it_saves_goes_on_from_the_save_before(
    server, service, expected
):
    client = new_client(service)
    client = client.result() if hasattr(client, "result") else client
    save = client.save_state

    @functools.wraps(save)
    def corrupt_and_save(name, **options):
        if name == "000012":
            server.corrupt(client.model_id)
        return save(name, **options)

    client.save_state = corrupt_and_save
    with tinkex.watch(client, service, POLICY) as run:
        resumes = fit(run)

    assert [resume and resume.step for resume in resumes] == [None, 8]
    assert resumes[1].steps_lost == 4
    assert_trained_as_if_nothing_had_happened(server, run, expected)


@pytest.mark.parametrize("flag", [True, False], ids=["flagged", "not flagged"])
def test_steps_that_were_submitted_ahead_are_run_again_and_none_twice(
    server, service, expected, flag
):
    client = new_client(service)
    server.corrupt_at(id_of(client), 10, flag=flag)

    with tinkex.watch(client, service, POLICY) as run:
        resumes = fit_ahead(run)

    assert [resume and resume.step for resume in resumes] == [None, 8]
    assert_trained_as_if_nothing_had_happened(server, run, expected)


def test_two_recoveries_in_a_row_end_with_the_same_losses(server, service, expected):
    client = new_client(service)
    server.corrupt_at(id_of(client), 6)
    kill = threading.Event()

    def kill_the_successor(segment, step):
        if step == 13 and segment.resume and not kill.is_set():
            kill.set()
            server.corrupt(run.run_id, break_newest=1)

    with tinkex.watch(client, service, POLICY) as run:
        resumes = fit(run, kill_the_successor)

    assert [resume and resume.step for resume in resumes] == [None, 4, 8]
    assert len(run.lineage) == 3
    assert_trained_as_if_nothing_had_happened(server, run, expected)


# Ways to be set up


def test_a_callable_makes_a_service_client_for_each_attempt(server, new_service, expected):
    service = new_service()
    client = new_client(service)
    server.corrupt_at(id_of(client), 10, break_newest=1)
    made = []

    def renew():
        made.append(new_service())
        return made[-1]

    config = Config(server.api_key, server.url)
    with tinkex.watch(client, renew, POLICY, config=config) as run:
        fit(run)

    assert len(made) == run.lineage[0].attempts == 2
    assert_trained_as_if_nothing_had_happened(server, run, expected)


def test_polls_may_go_through_the_rest_client_of_the_sdk(server, service, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = SdkRest(service.create_rest_client())
    client = new_client(service)
    server.corrupt_at(id_of(client), 10, mode="hang", break_newest=1)

    with tinkex.watch(client, service, POLICY, rest_module=rest) as run:
        resumes = fit(run)

    assert [resume and resume.step for resume in resumes] == [None, 4]
    assert_trained_as_if_nothing_had_happened(server, run, expected)


def test_an_idle_run_is_recovered_by_its_polls_alone(server, service):
    client = new_client(service, user_metadata={"team": "a"})
    root = id_of(client)
    recovered = threading.Event()
    client.save_state("000000").result(timeout=WAIT)

    with Monitor(POLICY) as monitor:
        watching = signals.subscribe(
            lambda sender, *, event: recovered.set(), "completed", sender=monitor
        )
        with watching:
            run = monitor.monitor_run(root, service, client=client)
            server.corrupt(root)

            assert recovered.wait(WAIT)

    successor = server.run(run.run_id)
    assert successor.created_from == f"tinker://{root}/weights/000000"
    assert successor.with_optimizer
    assert run.client.model_id == run.run_id != root


# What a successor carries


@pytest.mark.parametrize("flag", [True, False], ids=["flagged", "not flagged"])
def test_a_successor_carries_the_metadata_of_its_run_and_what_it_came_from(server, service, flag):
    client = new_client(service, user_metadata={"team": "a"})
    root = id_of(client)
    server.corrupt_at(root, 6, flag=flag)

    with tinkex.watch(client, service, POLICY) as run:
        fit(run)

    carried = dict(server.run(run.run_id).user_metadata)
    assert carried.pop("team") == "a"
    assert all(key.startswith("tinkex_") for key in carried)
    assert {root, f"tinker://{root}/weights/000004"} <= set(carried.values())


def test_a_checkpoint_carries_its_step_where_the_sdk_takes_metadata(server, service):
    client = new_client(service)
    root = id_of(client)

    with tinkex.watch(client, service, POLICY) as run:
        takes_metadata = "user_metadata" in inspect.signature(run.client.save_state).parameters
        fit(run)
        plan = run.plan()

    newest = plan.candidates[0]
    assert (newest.checkpoint.tinker_path, newest.step) == (f"tinker://{root}/weights/000016", 16)
    carried = (newest.checkpoint.user_metadata or {}).get("tinkex_step")
    assert carried == ("16" if takes_metadata else None)
