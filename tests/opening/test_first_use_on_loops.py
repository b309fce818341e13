"""On an event loop the first use of a run that was left holds up nobody, and no order is lost."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from support.lineages import THIRD, Account
from support.outages import Listener, heard
from support.real_threads import HungService
from support.recorder import PATIENCE
from support.sites import Tenant, account_of
from support.world import RUN, StatusError, weights

import tinkex
from tinkex import Config, Policy
from tinkex.errors import RecoveryExhaustedError, SegmentSupersededError
from tinkex.testing import FakeTrainingClient
from tinkex.training.outages import noticing


class Client(FakeTrainingClient):
    """A client with coroutine functions, and with methods that are no requests."""

    def forward(self, data):
        return self._answer("forward", data, "logprobs")

    async def forward_backward_async(self, data):
        return self.forward_backward(data)

    async def optim_step_async(self, params=None):
        answer = self.optim_step(params)
        await asyncio.sleep(0)
        return answer

    async def get_info_async(self):
        return self.model_id

    def get_info(self):
        return self.model_id


class Service(HungService):
    """A service client whose clients come when the gate is opened."""

    def _create(self, path, user_metadata, *, with_optimizer):
        made = super()._create(path, user_metadata, with_optimizer=with_optimizer)
        made.__class__ = Client
        return made


@pytest.fixture
def service():
    made = Service()
    yield made
    made.gate.set()


def play(service, body, *, site=None, **policy):
    """Run `body(run, segment)` for each segment, on an event loop; give the calls of each client.

    The gate is opened by the body.
    """
    policy = Policy(enabled=True, backoff=0.0, **policy)
    options = {"rest_module": site or Account(), "rest_client_fun": account_of, "takeover": True}
    with tinkex.resume(RUN, Tenant(service), policy, **options) as run:

        async def main():
            async for segment in run.segments(max_wait=3 * PATIENCE):
                async with segment:
                    await body(run, segment)

        asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))
        return [[call for call in each.calls if call] for each in service.clients]


async def opened(service):
    """Open the gate, once the restoring is under way."""
    await asyncio.to_thread(service.entered.wait, PATIENCE)
    service.gate.set()


def test_requests_return_at_once_and_are_sent_in_the_order_of_the_calls(service):
    async def body(run, segment):
        client = segment.client
        futures = [client.forward_backward("one"), client.optim_step("two")]
        task = asyncio.ensure_future(client.forward_backward_async("three"))
        await asyncio.sleep(0)
        futures.append(client.forward("four"))
        saved = segment.save_state_async("five", step=32)
        futures.append(client.optim_step("six"))
        assert (run.client, service.created) == (None, [])
        assert not any(each.future().done() for each in futures)
        await opened(service)
        futures.append(await task)
        for each in futures:
            await each
        assert (await saved).tinker_path == weights("five", run.run_id)
        await client.optim_step("seven")
        await segment.save_state_async("eight", step=33)

    [calls] = play(service, body)

    assert calls == [
        ("forward_backward", "one"),
        ("optim_step", "two"),
        ("forward_backward", "three"),
        ("forward", "four"),
        ("save_state", "five"),
        ("optim_step", "six"),
        ("optim_step", "seven"),
        ("save_state", "eight"),
    ]


def test_a_training_that_is_complete_makes_nothing_there_either(service):
    begins = []

    async def body(run, segment):
        begins.append(segment.start_step)
        assert list(segment.steps(30)) == []

    assert play(service, body) == []
    assert begins == [30]
    assert not service.entered.is_set()


def test_a_save_that_is_awaited_beside_coroutines_comes_behind_them(service):
    async def body(run, segment):
        both = segment.client.forward_backward_async("batch"), segment.client.optim_step_async()
        together = asyncio.gather(*both, segment.save_state_async("a", step=31))
        await opened(service)
        await together

    [calls] = play(service, body)

    assert [method for method, _ in calls] == ["forward_backward", "optim_step", "save_state"]


def test_a_save_behind_which_more_was_asked_for_is_refused(service):
    async def body(run, segment):
        late = segment.client.optim_step_async()
        save = segment.save_state_async("a", step=31)
        more = segment.client.forward_backward("batch")
        await opened(service)
        await late
        with pytest.raises(RuntimeError, match="other requests were submitted before the save"):
            await save
        await more
        await segment.save_state_async("b", step=31)
        await segment.client.optim_step()
        await segment.save_state_async("c", step=32)

    play(service, body)


def test_a_step_whose_requests_are_not_sent_yet_is_not_handed_out_again(service):
    async def body(run, segment):
        for _ in segment.steps(40):
            sent = segment.client.forward_backward("batch"), segment.client.optim_step()
            break
        with pytest.raises(RuntimeError, match="left within step 30"):
            next(segment.steps(40))
        await opened(service)
        await asyncio.gather(*sent)
        assert next(segment.steps(40)) == 31
        await segment.save_state_async("a", step=31)

    play(service, body)


@pytest.mark.parametrize("use", ["model_id", "get_info", "get_info_async"])
def test_what_is_no_request_waits_for_the_run(service, use):
    async def body(run, segment):
        service.gate.set()
        found = getattr(segment.client, use)
        found = found() if callable(found) else found
        assert (await found if use == "get_info_async" else found) == run.run_id

    play(service, body)
    assert len(service.created) == 1


def test_a_batch_that_does_not_fit_is_told_to_who_sent_it(service):
    async def body(run, segment):
        wrong = segment.client.forward_backward()
        right = segment.client.forward_backward("batch")
        await opened(service)
        with pytest.raises(TypeError, match="data"):
            await wrong
        await right
        await segment.client.optim_step()
        await segment.save_state_async("a", step=31)

    [calls] = play(service, body)

    assert [method for method, _ in calls] == ["forward_backward", "optim_step", "save_state"]


def test_where_another_checkpoint_is_restored_none_of_them_is_sent(service):
    service.fail(StatusError(422))
    refused = []

    async def body(run, segment):
        if segment.start_step == 30:
            futures = [segment.client.forward_backward("one"), segment.client.optim_step("two")]
            saved = asyncio.ensure_future(segment.save_state_async("three", step=31))
            await opened(service)
            refused.extend(await asyncio.gather(*futures, saved, return_exceptions=True))
            raise refused[0]
        await segment.client.forward_backward(segment.start_step)
        await segment.client.optim_step()
        await segment.save_state_async("a", step=21)

    [calls] = play(service, body, max_attempts=2)

    assert [type(each) for each in refused] == [SegmentSupersededError] * 3
    assert calls[0] == ("forward_backward", 20)


def test_where_nothing_can_be_restored_each_of_them_says_so(service):
    service.fail(ValueError("no"), times=9)

    async def body(run, segment):
        futures = [segment.client.forward_backward("one"), segment.client.optim_step("two")]
        await opened(service)
        errors = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(errors[1], RecoveryExhaustedError)
        raise errors[0]

    with pytest.raises(RecoveryExhaustedError):
        play(service, body)


def test_what_was_asked_for_is_not_sent_when_the_loop_is_left_before_the_run_is_there(
    service, caplog
):
    kept = []

    async def body(run, segment):
        kept.append(segment.client.optim_step())

    options = {"rest_module": Account(), "rest_client_fun": account_of, "takeover": True}
    with tinkex.resume(RUN, Tenant(service), Policy(enabled=True), **options) as run:

        async def main():
            async for segment in run.segments():
                async with segment:
                    await body(run, segment)

        asyncio.run(main())
        service.gate.set()
        with pytest.raises(SegmentSupersededError):
            kept[0].result(PATIENCE)
        assert run.wait(PATIENCE).calls == []
        # So the run is where its checkpoint is.
        assert next(run.segments()).start_step == 30

    assert "no checkpoint holds" in caplog.text
    assert len(service.created) == 1


def test_a_task_that_is_cancelled_before_the_run_is_there_sends_nothing(service):
    async def body(run, segment):
        task = asyncio.ensure_future(segment.client.forward_backward_async("one"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await opened(service)
        await segment.client.forward_backward("two")
        await segment.client.optim_step()
        await segment.save_state_async("a", step=31)

    [calls] = play(service, body)

    assert calls[0] == ("forward_backward", "two")


def test_threads_that_use_it_first_restore_it_once(service):
    options = {"rest_module": Account(), "rest_client_fun": account_of, "takeover": True}
    with (
        tinkex.resume(RUN, Tenant(service), Policy(enabled=True), **options) as run,
        next(run.segments()) as segment,
    ):
        found = [Future() for _ in range(8)]

        def use(future):
            future.set_result(segment.client.forward_backward("batch").result(PATIENCE))

        threads = [threading.Thread(target=use, args=(each,), daemon=True) for each in found]
        for each in threads:
            each.start()
        assert service.entered.wait(PATIENCE)
        service.gate.set()
        for each in found:
            each.result(PATIENCE)
        segment.client.optim_step().result(PATIENCE)
        segment.save_state("a", step=31)

    assert service.created == [(weights("000030", THIRD), True)]
    assert len(service.clients[0].calls) == 10


def test_an_outage_of_its_server_is_noticed_from_the_first_use_on(service, monkeypatch):
    monkeypatch.setattr(noticing, "LOOK_EVERY", 0.01)
    listener, site = Listener(), Account()
    tenant = Tenant(service)
    tenant.config = Config("tml-one", f"http://127.0.0.1:{listener.port}")
    options = {"rest_module": site, "rest_client_fun": account_of, "takeover": True}
    service.gate.set()
    policy = Policy(enabled=True, poll_interval=1000.0, on_doubt="ignore")
    with (
        tinkex.resume(RUN, tenant, policy, **options) as run,
        next(run.segments()) as segment,
        ThreadPoolExecutor(1) as pool,
    ):
        segment.client.forward_backward("one").result(PATIENCE)
        listener.wait_for_connections()
        with heard("requests of its runs wait") as noticed:
            listener.stop()
            assert noticed.wait(PATIENCE)
        waiting = pool.submit(segment.client.optim_step)
        assert len(run.client.calls) == 1
        listener.start()
        waiting.result(PATIENCE).result(PATIENCE)
        segment.save_state("a", step=31)
    listener.stop()

    assert [method for method, _ in run.client.calls][-2:] == ["optim_step", "save_state"]
