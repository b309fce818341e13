"""`segment.client`: it stands for the training client, and its futures end with their run."""

from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import Future, wait

import pytest
from support.loops import begin
from support.world import RUN, ManualExecutor, weights

from tinkex.errors import SegmentSupersededError
from tinkex.testing import FakeTrainingClient


class Rich(FakeTrainingClient):
    """A client with more of the SDK's surface."""

    color = "blue"

    def __init__(self, model_id, path=None):
        super().__init__(model_id, path)
        self.never = Future()

    def forward(self, data, loss_fn="cross_entropy"):
        return self.never

    async def forward_backward_async(self, data, loss_fn="cross_entropy"):
        return self.forward_backward(data, loss_fn)

    async def wait_async(self):
        return await asyncio.wrap_future(self.never)

    def get_info(self):
        return {"model_id": self.model_id}

    def get_tokenizer(self):
        return str.split

    def save_weights_and_get_sampling_client(self, name=None):
        return f"a sampler of {self.model_id}"


@pytest.fixture
def run(world):
    world.rest.set_run(RUN)
    monitor = world.monitor(ManualExecutor())
    return monitor.monitor_run(RUN, world.service, client=Rich(RUN))


def corrupt(world):
    world.corrupt(RUN)
    world.fake.advance(10)


def test_it_is_used_like_the_client(run):
    bare = run.client
    with next(run.segments()) as segment:
        client = segment.client

        assert client is segment.client
        assert isinstance(client, Rich)
        assert isinstance(client, FakeTrainingClient)
        assert (client.model_id, client.color) == (RUN, "blue")
        assert repr(client) == repr(bare)
        assert client.get_info() == {"model_id": RUN}
        assert client.get_tokenizer() is str.split
        assert client.save_weights_and_get_sampling_client() == f"a sampler of {RUN}"
        assert client.forward_backward("x").result() == {"loss_fn": "cross_entropy"}
        with pytest.raises(AttributeError, match="colour"):
            _ = client.colour
        client.color = "red"
        assert bare.color == "red"

    assert run.client is bare
    assert bare.calls == [("forward_backward", "x")]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_can_be_neither_copied_nor_pickled(run, copied):
    with next(run.segments()) as segment, pytest.raises(TypeError, match="segment"):
        copied(segment.client)


def test_once_superseded_requests_raise_and_looking_does_not(world, run):
    with next(run.segments()) as segment:
        client = segment.client
        kept = client.optim_step
        corrupt(world)

        for request in (client.optim_step, kept, client.save_weights_and_get_sampling_client):
            with pytest.raises(SegmentSupersededError):
                request()
        assert client.get_info() == {"model_id": RUN}
        assert client.color == "blue"
        assert RUN in repr(client)


def test_a_future_ends_when_its_run_is_flagged(world, run):
    with next(run.segments()) as segment:
        future = segment.client.forward("x")
        plain = future.future()
        world.fake(25.0, lambda: world.corrupt(RUN)).start()

        with pytest.raises(SegmentSupersededError):
            future.result()
        assert world.fake.now() == 30.0
        assert isinstance(plain.exception(0), SegmentSupersededError)
        assert isinstance(future, Future)
        assert wait([future], 0).done == {future}


def test_what_comes_too_late_is_not_believed(world, run):
    with next(run.segments()) as segment:
        future = segment.client.forward("x")
        corrupt(world)
        run.client.never.set_result("late")

        with pytest.raises(SegmentSupersededError):
            future.result()


def test_cancelling_a_future_does_not_cancel_the_request(run):
    with next(run.segments()) as segment:
        future = segment.client.forward("x")

        assert future.cancel() is False
        assert not run.client.never.cancelled()
        run.client.never.set_result("loss")
        assert future.result() == "loss"


def test_a_client_that_is_kept_stays_superseded(world):
    run, _ = begin(world)
    run.record_checkpoint(weights("000100"), step=0)
    kept = []
    for segment in run.segments():
        with segment:
            kept.append(segment.client)
            if len(kept) == 1:
                corrupt(world)
                segment.client.optim_step()

    with pytest.raises(SegmentSupersededError):
        kept[0].optim_step()
    assert len(kept) == 2


# On an event loop


def test_futures_are_awaited_alone_and_together(run):
    async def train(client):
        one = await client.forward_backward("x")
        two = await (await client.forward_backward_async("y"))
        three, four = await asyncio.gather(client.optim_step(), client.forward_backward("z"))
        five = await client.forward_backward("x").result_async()
        six = await client.forward_backward("x").coroutine()
        return [one, two, four, five, six], three

    with next(run.segments()) as segment:
        losses, update = asyncio.run(train(segment.client))

    assert losses == 5 * [{"loss_fn": "cross_entropy"}]
    assert update is None


@pytest.mark.parametrize("ask", [lambda c: c.forward("x"), lambda c: c.wait_async()])
def test_what_is_awaited_ends_when_its_run_is_flagged(world, run, ask):
    async def train(client):
        waiting = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0)
        corrupt(world)
        with pytest.raises(SegmentSupersededError):
            await asyncio.wait_for(waiting, 10)

    with next(run.segments()) as segment:
        asyncio.run(train(segment.client))


def test_a_timeout_of_an_awaited_future_leaves_the_request_alone(run):
    async def train(client):
        with pytest.raises(TimeoutError):
            await client.forward("x").result_async(timeout=0)

    with next(run.segments()) as segment:
        asyncio.run(train(segment.client))

    assert not run.client.never.cancelled()


def test_segments_on_an_event_loop(world):
    run, _ = begin(world)
    trained = []

    async def train():
        async for segment in run.segments():
            async with segment:
                for step in segment.steps(6):
                    if step == 5 and len(run.lineage) == 1:
                        world.corrupt(RUN, "at-3")
                        world.fake.advance(10)
                    async with asyncio.TaskGroup() as group:
                        for future in (
                            segment.client.forward_backward("x"),
                            segment.client.optim_step(),
                        ):
                            group.create_task(future.coroutine())
                    trained.append(step)
                    if step == 2:
                        await segment.save_state_async("at-3", step=3)

    asyncio.run(train())

    assert trained == [0, 1, 2, 3, 4, 3, 4, 5]
    assert len(run.lineage) == 2
