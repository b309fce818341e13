"""On the official SDK: what is left is restored at the first use; a cell run again goes on."""

from __future__ import annotations

import asyncio
import gc
import inspect

import pytest
import tinker
from support.lineages import in_another_process

import tinkex
from tinkex import Policy
from tinkex.rehearsal import RehearsalServer, batch

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        "user_metadata" not in inspect.signature(tinker.TrainingClient.save_state).parameters,
        reason="this SDK gives checkpoints no metadata",
    ),
]

STEPS = 12
ADAM = tinker.AdamParams(learning_rate=0.05)
OPTIONS = {
    "policy": Policy(enabled=True, poll_interval=1.0, backoff=0.05),
    "base_model": "any",
    "rank": 4,
    "seed": 3,
}


@pytest.fixture
def server(monkeypatch):
    with RehearsalServer() as made:
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        yield made
    in_another_process()
    gc.collect()


def fit(run, until=None, *, total=STEPS):
    """Train, saved every four steps, up to Ctrl-C before the step `until`; give the first step."""
    for segment in run.segments():
        with segment:
            for step in segment.steps(total):
                if step == until:
                    raise KeyboardInterrupt
                forward = segment.client.forward_backward(batch(step), "cross_entropy")
                segment.client.optim_step(ADAM).result()
                forward.result()
                if (step + 1) % 4 == 0:
                    segment.save_state(f"{step + 1:06d}", step=step + 1)
        began = segment.start_step
    return began


def opened():
    return tinkex.open_run("sft-7", tinker.ServiceClient, **OPTIONS)


def losses(server, run_id=None):
    return [(entry.step, entry.loss) for entry in server.steps(run_id)]


def test_a_training_that_is_complete_makes_nothing(server):
    with opened() as run:
        fit(run)
    del run
    in_another_process()
    made = server.training_clients_created

    with opened() as run:
        assert fit(run) == STEPS
        assert run.client is None
        assert "not restored" in repr(next(run.segments()).client)
    assert server.training_clients_created == made


def test_a_loop_on_an_event_loop_is_not_held_up_while_its_run_is_restored(server):
    with opened() as run:
        fit(run, total=8)
    in_another_process()
    before, [run_id] = losses(server), {run.run_id}

    async def train(segment):
        for step in segment.steps(STEPS):
            is_there = run.client is not None
            forward = segment.client.forward_backward(batch(step), "cross_entropy")
            update = await segment.client.optim_step_async(ADAM)
            saving = segment.save_state_async(f"{step + 1:06d}", step=step + 1)
            assert is_there or not forward.future().done()
            await forward
            await update
            await saving

    async def main():
        async for segment in run.segments():
            async with segment:
                assert segment.start_step == 8
                await train(segment)

    with opened() as run:
        asyncio.run(main())
        assert run.run_id != run_id
        steps = losses(server, run.run_id)

    assert [step for step, _ in steps] == list(range(8, STEPS))
    expected = expected_losses()
    assert before + steps == expected


def expected_losses():
    with RehearsalServer() as other:
        service = tinker.ServiceClient(base_url=other.url, api_key=other.api_key)
        made_with = {key: OPTIONS[key] for key in ("base_model", "rank", "seed")}
        client = service.create_lora_training_client(**made_with)
        with tinkex.watch(client, service, OPTIONS["policy"]) as run:
            fit(run)
        return losses(other)


@pytest.mark.parametrize(("until", "runs"), [(8, 1), (10, 2)], ids=["after a save", "in between"])
def test_a_cell_that_is_interrupted_and_run_again_goes_on(server, until, runs):
    with pytest.raises(KeyboardInterrupt), opened() as run:
        fit(run, until)
    client = run.client
    with opened() as run:
        assert fit(run) == 8
        assert (run.client is client) is (runs == 1)
        lineage = [each.run_id for each in run.lineage]
        causes = [each.cause for each in run.lineage]

    assert server.training_clients_created == runs
    assert causes == ["interrupted", None][-runs:]
    found = [each for run_id in lineage for each in losses(server, run_id)]
    assert set(found) == set(expected_losses())
    with opened() as run:
        assert fit(run) == STEPS
    assert server.training_clients_created == runs
