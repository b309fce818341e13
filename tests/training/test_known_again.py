"""What is known of a run goes along with it, also where a client or a server tells it anew."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest
import tenacity
from support.loops import FailedError, SdkError, begin
from support.outages import Site, Weights
from support.real_threads import wait_until
from support.world import RUN, weights

import tinkex
from tinkex import Policy
from tinkex.errors import ResumePointUnknownError
from tinkex.rehearsal.stage import Stage
from tinkex.rehearsal.step_log import history
from tinkex.testing import FakeServiceClient, FakeTrainingClient


def submit(segment):
    segment.client.forward_backward("batch")
    segment.client.optim_step().result()


class Wrapped:
    """A caller's own wrapper of a client, made anew for each cell."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)


def test_a_client_that_is_wrapped_anew_is_not_a_fresh_one():
    with Stage() as stage:
        service = stage.service()
        client = service.create_lora_training_client(base_model="any", rank=4, seed=3)
        client = client.result() if hasattr(client, "result") else client
        starts = []
        for _ in range(2):
            policy = Policy(enabled=True, poll_interval=1000.0)
            with tinkex.watch(Wrapped(client), service, policy=policy) as run:
                for segment in run.segments():
                    with segment:
                        starts.append(segment.start_step)
                        segment.save_state(f"at-{segment.start_step + 2}", step=starts[-1] + 2)
            del run

    assert starts == [0, 2]


def test_a_save_that_is_tried_again_holds_no_later_state(bench):
    """What was submitted while it waited for its next try must not get into it."""
    asked, pausing = [], threading.Event()

    class Client(FakeTrainingClient):
        def save_state(self, name, overwrite=False, user_metadata=None):
            asked.append(name)
            answer = Future()
            answer.set_exception(FailedError("internal error", 500))
            return answer

    class Wait(tenacity.wait.wait_base):
        def __call__(self, state):
            pausing.set()
            return 0.1

    policy = Policy(enabled=True, poll_interval=1000.0, wait=Wait())
    run = bench.monitor(policy).monitor_run(RUN, FakeServiceClient(), client=Client(RUN))

    async def main():
        async with next(run.segments()) as segment:
            saving = segment.save_state_async("latest", step=0, overwrite=True)
            task = asyncio.create_task(saving)
            await asyncio.to_thread(wait_until, pausing)
            segment.client.optim_step()
            with pytest.raises(FailedError):
                await task

    asyncio.run(main())

    assert asked == ["latest"]


def test_a_name_that_was_saved_though_its_answer_failed_is_not_asked_for_again(world):
    """The SDK would ask for minutes, since the name is taken."""

    class Client(FakeTrainingClient):
        def save_state(self, name, overwrite=False, user_metadata=None):
            listed = {
                "tinker_path": weights(name),
                "size_bytes": 5,
                "user_metadata": user_metadata,
            }
            world.rest.set_run(RUN, checkpoints=[listed])
            self.calls.append(("save_state", name))
            answer = Future()
            answer.set_exception(FailedError("the answer was lost", category="server"))
            return answer

    world.rest.set_run(RUN)
    client = Client(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=client)

    with next(run.segments()) as segment:
        assert segment.save_state("a", step=0).tinker_path == weights("a")

    assert client.calls == [("save_state", "a")]


def test_a_list_given_by_name_and_filled_again_is_kept_as_it_was(bench, listener):
    site = Site(bench, listener, Weights())
    segments, buffer = site.run.segments(), [0]

    with next(segments) as segment:
        for step in segment.steps(5):
            buffer.clear()
            buffer.append(step)
            segment.client.forward_backward(data=buffer).result()
            segment.client.optim_step().result()
            if step in (1, 3):
                segment.save_state(f"at-{step + 1}", step=step + 1)
        kept = [each.kwargs["data"] for each in segment._requests._watched.batches.values()]
        segment.save_state("end", step=5)

    assert kept == [[0], [2], [4]]


def test_a_checkpoint_recorded_behind_a_request_that_failed_has_no_step(world):
    run, client = begin(world, poll_interval=1000.0, confirm_within=0.0)
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
        submit(segment)
        client.fail(SdkError("internal error"))
        segment.client.optim_step().exception()
        client.save_state("b")
        run.record_checkpoint(weights("b"), step=2)

    assert [(c.checkpoint.tinker_path, c.step) for c in run.plan().candidates] == [
        (weights("a"), 0)
    ]


def test_a_save_behind_coroutines_that_are_not_begun_is_refused(bench):
    class Client(FakeTrainingClient):
        async def optim_step_async(self, params=None):
            return self.optim_step(params)

    client = Client(RUN)
    run = bench.monitor().monitor_run(RUN, FakeServiceClient(), client=client)

    async def main():
        async with next(run.segments()) as segment:
            late = segment.client.optim_step_async()
            with pytest.raises(RuntimeError, match="not begun"):
                segment.save_state("a", step=1)
            with pytest.raises(RuntimeError, match="not begun"):
                await segment.save_state_async("a", step=1)
            await (await late)
            await segment.save_state_async("b", step=1)

    asyncio.run(main())

    assert [name for method, name in client.calls if method == "save_state"] == ["b"]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", [FailedError("bad rate", 422), ValueError("bad rate")], ids=repr)
def test_a_gradient_outlives_an_update_that_was_refused(world, caplog, at_once, error):
    run, client = begin(world)

    def refused(params=None):
        if at_once:
            raise error
        answer = Future()
        answer.set_exception(error)
        return answer

    client.optim_step = refused
    with next(run.segments()) as segment:
        segment.save_state("a", step=0)
        segment.client.forward_backward("batch")
        with pytest.raises(type(error)):
            segment.client.optim_step().result()
        segment.save_state("b", step=1)

    assert [c.checkpoint.tinker_path for c in run.plan().candidates] == [weights("a")]
    assert "gradient" in caplog.text


@pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning")
def test_the_log_of_a_run_that_loaded_its_own_checkpoint_ends():
    with Stage() as stage:
        service = stage.service()
        client = service.create_lora_training_client(base_model="any", rank=4, seed=3)
        client = client.result() if hasattr(client, "result") else client
        client.load_state(client.save_state("a").result().path).result()

        assert history(stage.server, client.model_id) == ()


@pytest.mark.parametrize("by", ["nobody", "other means"])
@pytest.mark.parametrize("is_polled", [False, True])
def test_a_rolling_name_that_other_means_saved_again_has_no_step(world, by, is_polled):
    """The server tells it by the time of the checkpoint, where it carries no metadata."""
    moments = iter(f"2026-11-28T10:00:0{second}Z" for second in range(9))

    class Client(FakeTrainingClient):
        def save_state(self, name, overwrite=False, user_metadata=None):
            listed = {"tinker_path": weights(name), "size_bytes": 5, "time": next(moments)}
            self.listed = {"checkpoints": [listed], "last_checkpoint": listed}
            world.rest.set_run(RUN, **self.listed)
            return super().save_state(name, user_metadata)

    world.rest.set_run(RUN)
    client = Client(RUN)
    run = world.monitor().monitor_run(RUN, world.service, client=client)
    with next(run.segments()) as segment:
        segment.save_state("latest", step=0, overwrite=True)
        submit(segment)
        segment.save_state("latest", step=1, overwrite=True)
        submit(segment)
    if by == "other means":
        client.save_state("latest", overwrite=True)
    if is_polled:
        world.fake.advance(10)

    expected = [1] if by == "nobody" else [None]
    assert [each.step for each in run.plan().candidates] == expected
    if by == "other means":
        with pytest.raises(ResumePointUnknownError):
            next(run.segments())
        world.rest.set_run(RUN, corrupted=True, **client.listed)
        world.fake.advance(20)
        with pytest.raises(ResumePointUnknownError):
            next(run.segments())
