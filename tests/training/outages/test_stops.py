"""A run that is stopped while its server is down: nobody looks at its weights any more."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from concurrent.futures import Future

import pytest
from support.outages import Rest, Site, SlowSaves, Weights, heard, saved_and_trained, train
from support.recorder import PATIENCE
from support.world import RUN, weights

from tinkex import Policy, signals
from tinkex.errors import MonitorStoppedError

UNKNOWN = "not known whether its weights"


def stop_monitor(site):
    site.monitor.stop()


def stop_monitoring(site):
    site.monitor.stop_monitoring(site.run)


stops = pytest.mark.parametrize("stop", [stop_monitor, stop_monitoring])


@stops
def test_requests_that_wait_end_and_no_later_one_is_sent(bench, listener, elsewhere, stop):
    site = Site(bench, listener, Weights())

    with (
        pytest.raises(MonitorStoppedError, match=UNKNOWN),
        next(site.run.segments(max_wait=PATIENCE)) as segment,
    ):
        saved_and_trained(segment)
        site.go_down()
        calls = len(site.client.calls)
        waiting = [elsewhere.submit(segment.client.optim_step) for _ in range(2)]
        stop(site)
        errors = [each.exception(PATIENCE) for each in waiting]
        site.come_back()
        for request in (segment.client.optim_step, lambda: segment.save_state("a", step=5)):
            with pytest.raises(MonitorStoppedError, match=UNKNOWN):
                request()
        next(segment.steps(9))

    assert [type(each) for each in errors] == [MonitorStoppedError] * 2
    assert site.client.calls[calls:] == []


@stops
def test_on_an_event_loop_they_end_too(bench, listener, stop):
    site = Site(bench, listener, Weights())

    async def loop():
        async with await anext(aiter(site.run.segments(max_wait=PATIENCE))) as segment:
            await segment.client.forward([0])
            site.go_down()
            waiting = [segment.client.optim_step(), segment.client.forward_backward_async([1])]
            waiting[1] = asyncio.ensure_future(waiting[1])
            await asyncio.sleep(0)
            stop(site)
            return await asyncio.gather(*waiting, return_exceptions=True)

    errors = asyncio.run(loop())
    assert [type(each) for each in errors] == [MonitorStoppedError] * 2


@stops
def test_results_that_are_held_back_or_come_later_are_not_believed(bench, listener, stop):
    site, came, late = Site(bench, listener, Weights()), Future(), Future()
    site.client.sample = lambda future: future

    with next(site.run.segments(max_wait=PATIENCE)) as segment:
        saved_and_trained(segment)
        answers = [segment.client.sample(each) for each in (came, late)]
        site.go_down()
        came.set_result("of an older state")
        stop(site)
        late.set_result("of an older state")
        for answer in answers:
            with pytest.raises(MonitorStoppedError, match=UNKNOWN):
                answer.result(PATIENCE)


def monitored_anew(bench, site):
    monitor = bench.monitor(Policy(enabled=True, poll_interval=1000.0), rest_module=Rest())
    return monitor.monitor_run(RUN, site.service, client=site.client)


@stops
def test_a_save_that_was_unanswered_has_no_step(bench, listener, elsewhere, stop):
    site = Site(bench, listener, SlowSaves())

    with next(site.run.segments(max_wait=PATIENCE)) as segment:
        saved_and_trained(segment)
        saving = elsewhere.submit(segment.save_state, "late", step=5)
        assert site.client.is_saving.wait(PATIENCE)
        site.go_down()
        stop(site)
        is_ended = bool(futures.wait([saving], PATIENCE).done)
        site.client.answer.set_result(site.client.answered.result())
        site.monitor.stop()

    assert is_ended
    assert isinstance(saving.exception(PATIENCE), MonitorStoppedError)
    assert next(monitored_anew(bench, site).segments()).start_step == 4


@stops
def test_another_monitor_goes_back_to_the_save(bench, listener, stop):
    site = Site(bench, listener, Weights())
    with next(site.run.segments(max_wait=PATIENCE)) as segment:
        train(segment, 2, save="at-2")
        site.go_down()
        stop(site)

    assert next(monitored_anew(bench, site).segments()).start_step == 2
    assert site.service.created == [(weights("at-2"), True)]


def test_weights_that_are_rolled_back_are_not_trained_while_the_monitor_stops(
    bench, listener, elsewhere
):
    site, end = Site(bench, listener, Weights()), threading.Event()
    with (
        signals.subscribe(lambda *_, **__: end.wait(PATIENCE), "paused", sender=site.monitor),
        next(site.run.segments(max_wait=PATIENCE)) as segment,
    ):
        saved_and_trained(segment)
        site.go_down()
        calls = len(site.client.calls)
        waiting = elsewhere.submit(segment.client.optim_step)
        stopping = elsewhere.submit(site.monitor.stop, PATIENCE)
        with heard("its server was down") as looked:
            site.client.updates = 4
            site.come_back()
            assert not looked.wait(0.2)
        end.set()
        stopping.result(PATIENCE)
        assert isinstance(waiting.exception(PATIENCE), MonitorStoppedError)

    assert site.client.calls[calls:] == []


def test_stopping_during_a_look_ends_the_requests_that_wait(bench, listener, elsewhere):
    site, never, asked = Site(bench, listener, Weights()), Future(), threading.Event()

    def forward(*_):
        asked.set()
        return never

    with next(site.run.segments(max_wait=PATIENCE)) as segment:
        saved_and_trained(segment)
        site.client.forward = forward
        site.go_down()
        waiting = elsewhere.submit(segment.client.optim_step)
        site.come_back()
        assert asked.wait(PATIENCE)
        site.monitor.stop()
        assert isinstance(waiting.exception(PATIENCE), MonitorStoppedError)
        never.set_result(None)

    assert site.client.updates == 5


def test_a_run_that_was_stopped_before_an_outage_goes_on_unprotected(bench, listener):
    site = Site(bench, listener, Weights())
    other = Weights("other:train:0")
    run = site.monitor.monitor_run(other.model_id, site.service, client=other)

    with next(site.run.segments(max_wait=0.0)) as mine, next(run.segments()) as others:
        saved_and_trained(mine)
        saved_and_trained(others)
        site.monitor.stop_monitoring(site.run)
        site.go_down()
        train(mine, 1)
        site.monitor.stop()
        train(mine, 1)

    assert site.client.updates == 7
