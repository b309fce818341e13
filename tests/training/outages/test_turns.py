"""While a server is down the requests of its runs wait, and results that come are held back."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.outages import Site, SlowSaves, Weights, heard, saved_and_trained, train
from support.recorder import PATIENCE
from support.world import weights

from tinkex.errors import SegmentSupersededError
from tinkex.recovery.holds import Holds


def test_requests_that_wait_go_in_the_order_of_the_calls(bench, listener):
    site = Site(bench, listener, Weights())

    async def loop():
        async with await anext(aiter(site.run.segments())) as segment:
            train(segment, 1, save="at-1")
            await segment.client.forward([1])
            site.go_down()
            futures = [
                segment.client.forward_backward(["one"]),
                segment.client.optim_step("two"),
            ]
            three = asyncio.ensure_future(segment.client.forward_backward_async(["three"]))
            await asyncio.sleep(0)
            four = segment.client.optim_step("four")
            saved = segment.save_state_async("at-3", step=3)
            calls = len(site.client.calls)
            site.come_back()
            for future in (*futures, await three, four):
                await future
            await saved
            return site.client.calls[calls:]

    calls = asyncio.run(loop())
    sent = [call for call in calls if call[0] != "forward"]
    assert sent == [
        ("forward_backward", ["one"]),
        ("optim_step", "two"),
        ("forward_backward", ["three"]),
        ("optim_step", "four"),
        ("save_state", "at-3"),
    ]
    assert site.service.created == []


def test_a_recovery_ends_the_requests_that_wait(bench, listener, elsewhere):
    site = Site(bench, listener, Weights())
    segments = site.run.segments()
    with next(segments) as segment:
        saved_and_trained(segment)
        site.go_down()
        waiting = [elsewhere.submit(segment.client.optim_step) for _ in range(3)]
        site.client.updates = 4
        site.come_back()
        errors = [each.exception(PATIENCE) for each in waiting]

    assert [type(each) for each in errors] == [SegmentSupersededError] * 3
    assert site.client.updates == 4


def test_an_error_of_ours_does_not_leave_the_requests_waiting(bench, listener, monkeypatch):
    site, real, failed = Site(bench, listener, Weights()), Holds.breaker, []

    def breaker(self, account):
        if not failed:
            failed.append(account)
            raise RuntimeError("a bug")
        return real(self, account)

    with next(site.run.segments()) as segment:
        saved_and_trained(segment)
        site.go_down()
        monkeypatch.setattr(Holds, "breaker", breaker)
        site.come_back()
        train(segment, 1)
        segment.save_state("end", step=6)

    assert failed
    assert site.service.created == []


def test_a_request_waits_no_longer_than_the_loop_allows(bench, listener):
    site = Site(bench, listener, Weights())

    with next(site.run.segments(max_wait=0.0)) as segment:
        train(segment, 1, save="at-1")
        site.go_down()
        with pytest.raises(TimeoutError, match="its server was down"):
            segment.client.optim_step()

    assert site.client.updates == 1


@pytest.mark.parametrize("is_back", [True, False])
def test_a_result_that_comes_in_an_outage_is_not_believed_before_it_is_settled(
    bench, listener, is_back
):
    site, slow = Site(bench, listener, Weights(), on_doubt="ignore"), Future()
    segments = site.run.segments()

    with next(segments) as segment:
        saved_and_trained(segment)
        site.client.sample = lambda: slow
        answer = segment.client.sample()
        site.go_down()
        slow.set_result("of an older state")
        assert not answer.future().done()
        site.client.updates -= is_back
        site.come_back()
        if is_back:
            with pytest.raises(SegmentSupersededError):
                answer.result(PATIENCE)
        else:
            assert answer.result(PATIENCE) == "of an older state"
            segment.save_state("end", step=5)


def saved_late(site, segment, elsewhere):
    """Train, and begin a save that the outage meets; return its future."""
    saved_and_trained(segment)
    saving = elsewhere.submit(segment.save_state, "late", step=5)
    assert site.client.is_saving.wait(PATIENCE)
    site.go_down()
    return saving


@pytest.mark.parametrize("on_doubt", ["recover", "ignore"])
def test_a_save_that_an_outage_met_counts_only_if_all_is_well(
    bench, listener, elsewhere, caplog, on_doubt
):
    caplog.set_level(logging.INFO, "tinkex")
    site = Site(bench, listener, SlowSaves(), on_doubt=on_doubt)
    segments = site.run.segments()

    with next(segments) as segment:
        saving = saved_late(site, segment, elsewhere)
        site.client.answer.set_result(site.client.answered.result())
        with heard("its server was down") as settled:
            site.come_back()
            assert settled.wait(PATIENCE)
        saving.exception(PATIENCE)
        steps = {each.step for each in site.run.plan().candidates}

    assert steps == ({2, 4} if on_doubt == "recover" else {2, 4, 5})


def test_a_save_that_is_never_answered_is_not_restored_though_the_server_has_it(
    bench, listener, elsewhere
):
    site = Site(bench, listener, SlowSaves())
    row = {
        "tinker_path": weights("late"),
        "checkpoint_id": "late",
        "checkpoint_type": "training",
        "user_metadata": {"tinkex_step": "5"},
    }
    site.rest.list_checkpoints = lambda config, run_id: [row]
    segments = site.run.segments()

    with next(segments) as segment:
        saving = saved_late(site, segment, elsewhere)
        site.come_back()
        train(segment, 1)
    saving.exception(PATIENCE)

    assert next(segments).start_step == 4


def test_many_runs_that_wait_do_not_hold_up_the_looks(bench, listener):
    many = 70  # more than there are threads for futures
    site = Site(bench, listener, Weights())
    with ThreadPoolExecutor(many) as pool, ExitStack() as stack:
        segments = []
        for number in range(many):
            client = Weights(f"{number}:train:0")
            run = site.monitor.monitor_run(client.model_id, site.service, client=client)
            segments.append(stack.enter_context(next(run.segments())))
            saved_and_trained(segments[-1])
        site.go_down()
        threads = [pool.submit(train, each, 1) for each in segments]
        site.come_back()
        for each in threads:
            each.result(PATIENCE)

    assert site.service.created == []


def test_a_save_on_an_event_loop_does_not_wait_for_a_task_of_that_loop(bench, listener):
    site = Site(bench, listener, Weights())

    async def loop():
        async with await anext(aiter(site.run.segments())) as segment:
            train(segment, 1, save="at-1")
            site.go_down()
            task = asyncio.ensure_future(segment.client.forward_backward_async(["first"]))
            await asyncio.sleep(0)
            site.come_back()
            segment.client.optim_step("second").result()
            await (await task)

    asyncio.run(loop())
    assert site.client.calls[-2:] == [("forward_backward", ["first"]), ("optim_step", "second")]


def test_on_an_event_loop_a_request_waits_no_longer_either(bench, listener):
    site = Site(bench, listener, Weights())

    async def loop():
        async with await anext(aiter(site.run.segments(max_wait=0.0))) as segment:
            site.go_down()
            with pytest.raises(TimeoutError, match="its server was down"):
                await segment.client.forward_backward(["first"])
            with pytest.raises(TimeoutError, match="its server was down"):
                await segment.client.forward_backward_async(["second"])

    asyncio.run(loop())


def test_stopping_the_monitor_ends_a_look(bench, listener):
    site, never = Site(bench, listener, Weights()), Future()
    asked = threading.Event()

    def forward(*_):
        asked.set()
        return never

    with next(site.run.segments()) as segment:
        saved_and_trained(segment)
        site.client.forward = forward
        site.go_down()
        site.come_back()
        assert asked.wait(PATIENCE)
        site.monitor.stop()
        looking = [each for each in bench.threads() if each.name == "tinkex-outage"]
        never.set_result(None)

    assert looking == []
