"""Loops on an event loop: requests reach the server in the order in which they are made."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import wraps

import pytest
from support.recorder import PATIENCE
from support.world import RUN, weights

from tinkex.errors import ApiStatusError
from tinkex.testing import FakeServiceClient, FakeTrainingClient


def decorated(function):
    """As the SDK marks what it deprecates."""

    @wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


class Plain(FakeTrainingClient):
    """A client with coroutine functions that submit as soon as they are begun."""

    async def forward_backward_async(self, data):
        return self.forward_backward(data)

    async def optim_step_async(self, params=None):
        return self.optim_step(params)


class Marked(Plain):
    forward_backward_async = decorated(Plain.forward_backward_async)
    optim_step_async = decorated(Plain.optim_step_async)


class Suspends(Plain):
    """A client whose coroutine functions go on only in a later turn of the event loop."""

    async def forward_backward_async(self, data):
        answer = self.forward_backward(data)
        await asyncio.sleep(0)
        return answer


def on_loop(world, client, body):
    """Run `body(segment)` on an event loop, and give what the client was asked to do."""
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=client)

    async def main():
        async for segment in run.segments():
            async with segment:
                await body(segment)
                client.calls.append(("save_state", "end"))
                await segment.save_state_async("end", step=99)

    asyncio.run(main())
    return [method for method, _ in client.calls]


@pytest.mark.parametrize("kind", [Plain, Marked, Suspends])
def test_a_task_that_was_begun_comes_before_a_later_call(world, kind):
    async def body(segment):
        task = asyncio.create_task(segment.client.forward_backward_async("batch"))
        await asyncio.sleep(0)
        update = segment.client.optim_step()
        await (await task)
        await update

    calls = on_loop(world, kind(RUN), body)

    assert calls[:2] == ["forward_backward", "optim_step"]


@pytest.mark.parametrize("kind", [Plain, Marked])
def test_coroutines_that_are_made_first_and_awaited_later_are_sent_when_they_are_awaited(
    world, kind
):
    async def body(segment):
        late = segment.client.optim_step_async()
        await (await segment.client.forward_backward_async("batch"))
        await (await late)

    assert on_loop(world, kind(RUN), body)[:2] == ["forward_backward", "optim_step"]


@pytest.mark.parametrize("kind", [Plain, Marked])
@pytest.mark.parametrize("together", ["gather", "group"])
def test_a_save_that_is_awaited_beside_an_update_comes_behind_it(world, kind, together):
    async def body(segment):
        await segment.client.forward_backward("batch")
        both = segment.client.optim_step_async(), segment.save_state_async("a", step=1)
        if together == "gather":
            await asyncio.gather(*both)
            return
        async with asyncio.TaskGroup() as group:
            for each in both:
                group.create_task(each)

    calls = on_loop(world, kind(RUN), body)

    assert calls[:3] == ["forward_backward", "optim_step", "save_state"]


def test_cancelling_a_task_does_not_cancel_its_request(world):
    client, answer = Suspends(RUN), Future()

    async def body(segment):
        client.forward_backward = lambda data: answer
        task = asyncio.create_task(segment.client.forward_backward_async("batch"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    on_loop(world, client, body)

    assert not answer.cancelled()


def test_what_a_coroutine_raises_in_its_first_step_is_raised_to_its_caller(world):
    class Breaks(Plain):
        async def forward_backward_async(self, data):
            raise ZeroDivisionError

    async def body(segment):
        with pytest.raises(ZeroDivisionError):
            await segment.client.forward_backward_async("batch")

    on_loop(world, Breaks(RUN), body)


class Overwrites(FakeTrainingClient):
    """A client whose saves are answered when the test says so."""

    def __init__(self):
        super().__init__(RUN)
        self.answers = []

    def save_state(self, name, overwrite=False, user_metadata=None):
        self.calls.append(("save_state", user_metadata["tinkex_step"]))
        self.answers.append(Future())
        return self.answers[-1]


def rolling(bench, *, overwrite):
    """Two saves of one name in tasks, the second before the first is answered."""
    client, saved = Overwrites(), type("Saved", (), {"path": weights("latest")})()
    run = bench.monitor().monitor_run(RUN, FakeServiceClient(), client=client)

    async def main():
        async with next(run.segments()) as segment:
            saves = []
            for step in (1, 2):
                segment.client.optim_step()
                saving = segment.save_state_async("latest", step=step, overwrite=overwrite)
                saves.append(asyncio.create_task(saving))
                await asyncio.sleep(0)
            segment.client.optim_step()
            order = list(client.calls)
            client.answers[0].set_result(saved)
            await saves[0]
            between = [each.step for each in run.plan().candidates]
            if overwrite:
                client.answers[1].set_result(saved)
            await saves[1]
            return order, between, [each.step for each in run.plan().candidates]

    return asyncio.run(main())


def test_a_rolling_name_is_saved_in_its_turn_while_the_save_before_is_unanswered(bench):
    order, between, after = rolling(bench, overwrite=True)

    assert [method for method, _ in order] == ["optim_step", "save_state"] * 2 + ["optim_step"]
    assert [argument for method, argument in order if method == "save_state"] == ["1", "2"]
    # While a later save of the name is under way, nobody knows which of them the server has.
    assert 1 not in between
    assert 2 in after


def test_a_save_that_had_to_wait_for_another_is_refused_where_the_state_has_moved_on(bench):
    with pytest.raises(ApiStatusError, match="taken by step 1; give another"):
        rolling(bench, overwrite=False)


def test_many_loops_that_wait_for_their_recovery_hold_up_no_other(bench):
    """Each of them waits on a thread of ours."""
    hung, waiting = bench.service(), [f"waits:train:{number}" for number in range(80)]
    monitor = bench.monitor()
    runs = [monitor.monitor_run(each, hung, client=FakeTrainingClient(each)) for each in waiting]
    client = Plain(RUN)
    healthy = monitor.monitor_run(RUN, FakeServiceClient(), client=client)
    bench.server.corrupt(*waiting)
    for each in waiting:
        bench.told.wait_for("detected", each)

    async def main():
        loops = [asyncio.ensure_future(anext(aiter(run.segments()))) for run in runs]
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            async with await anext(aiter(healthy.segments())) as segment:
                await segment.save_state_async("a", step=0)
        for each in loops:
            each.cancel()

    asyncio.run(main())

    assert ("save_state", "a") in client.calls
    monitor.stop(0.0)
