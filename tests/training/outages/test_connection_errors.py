"""A request whose connection failed tells that its server was down, for all runs on it."""

from __future__ import annotations

import errno
import socket
import threading
from concurrent.futures import Future

import httpx
import pytest
from support.loops import FailedError
from support.outages import Site, Weights, heard, saved_and_trained, train
from support.recorder import PATIENCE
from support.world import weights

BEGINS = "requests of its runs wait"


class APIConnectionError(Exception):
    """As the SDK's own, which holds the request."""

    __module__ = "tinker._exceptions"

    def __init__(self, *causes):
        super().__init__("Connection error.")
        self.request = httpx.Request("POST", "http://127.0.0.1", headers={"X-API-Key": "tml-fake"})
        error = self
        for error.__cause__ in causes:
            error = error.__cause__


class APITimeoutError(APIConnectionError):
    __module__ = "tinker._exceptions"


def refused():
    return APIConnectionError(httpx.ConnectError("x"), ConnectionRefusedError("refused"))


class Told(Weights):
    """A client whose next calls answer as it is told: with a future, or by raising an error."""

    def __init__(self):
        super().__init__()
        self.answers = []

    def _answer(self, method, argument, result):
        usual = super()._answer(method, argument, result)
        answer = self.answers.pop(0) if self.answers else usual
        if isinstance(answer, Exception):
            raise answer
        return answer


def met(segment, client, error):
    """Have a request of a segment meet an error."""
    client.fail(error)
    assert segment.client.forward([0]).exception(PATIENCE) is error


@pytest.fixture
def two(bench, listener):
    """A site, a second run on its server with its client, and a segment of each."""
    site, other = Site(bench, listener, Told()), Weights("other:train:0")
    run = site.monitor.monitor_run(other.model_id, site.service, client=other)
    with next(site.run.segments(max_wait=PATIENCE)) as one, next(run.segments()) as second:
        saved_and_trained(one)
        saved_and_trained(second)
        yield site, other, one, second
        for each in (one, second):
            each.save_state("end", step=9)


NONE_ALONE = OSError("All connection attempts failed")
NONE_ALONE.__cause__ = ExceptionGroup(
    "", [OSError(errno.ENETUNREACH, "unreachable"), ConnectionRefusedError()]
)


@pytest.mark.parametrize(
    "error",
    [
        refused(),
        APIConnectionError(),
        APIConnectionError(httpx.ReadError("x"), ConnectionResetError()),
        APIConnectionError(httpx.RemoteProtocolError("server disconnected")),
        APIConnectionError(httpx.WriteError("x"), BrokenPipeError()),
        APIConnectionError(httpx.ConnectError("x"), NONE_ALONE),
        httpx.ConnectError("x"),
        FailedError("request failed"),
    ],
    ids=lambda error: repr(error.__cause__ or error),
)
def test_the_requests_of_all_runs_wait_until_the_server_answers(two, elsewhere, error):
    site, other, one, second = two
    if isinstance(error, FailedError):
        error.__cause__ = refused()
    site.rest.is_up = False

    with heard(BEGINS) as noticed:
        met(one, site.client, error)
    calls = len(other.calls)
    waiting = elsewhere.submit(train, second, 1)
    assert noticed.is_set()
    assert len(other.calls) == calls
    site.rest.is_up = True
    waiting.result(PATIENCE)

    assert other.updates == 6
    assert site.service.created == []


def test_weights_that_are_back_are_found_though_the_server_is_up_at_once(bench, listener):
    site, other = Site(bench, listener, Weights()), Weights("other:train:0")
    run = site.monitor.monitor_run(other.model_id, site.service, client=other)
    segments = run.segments()
    with next(site.run.segments()) as one:
        saved_and_trained(one)
        with next(segments) as second:
            saved_and_trained(second)
            other.updates = 2
            met(one, site.client, refused())
            train(second, 1)
        one.save_state("end", step=5)

    bench.told.wait_for("rolled_back", other.model_id)
    assert next(segments).start_step == 4
    assert site.service.created == [(weights("at-4", other.model_id), True)]


@pytest.mark.parametrize(
    "error",
    [
        APITimeoutError(httpx.ReadTimeout("slow")),
        TimeoutError(),
        APIConnectionError(httpx.ConnectError("x"), socket.gaierror(-2, "unknown name")),
        APIConnectionError(httpx.ConnectError("x"), OSError(errno.ENETUNREACH, "no network")),
        APIConnectionError(httpx.ConnectError("x"), OSError(errno.EHOSTUNREACH, "no route")),
        APIConnectionError(httpx.ConnectError("connect: dns error: no records"), ConnectionError()),
        APIConnectionError(httpx.ConnectError("tcp: No route to host (os error 113)")),
        APIConnectionError(FailedError("a proxy's", 400)),
        FailedError("internal error", 500),
        ConnectionRefusedError("of something else"),
    ],
    ids=lambda error: repr(error.__cause__ or error),
)
def test_a_slow_answer_and_our_own_network_are_no_outage(two, error):
    site, _, one, _ = two

    with heard(BEGINS) as noticed:
        met(one, site.client, error)

    assert not noticed.is_set()


def test_what_came_through_result_from_elsewhere_is_no_outage(two):
    other = Future()
    other.set_exception(refused())

    with heard(BEGINS) as noticed, pytest.raises(APIConnectionError):
        two[2].result(other)

    assert not noticed.is_set()


def test_an_outage_is_looked_at_once_however_many_requests_it_met(two):
    site, _, one, second = two
    unanswered = [Future() for _ in range(20)]
    site.client.answers += unanswered
    for _ in unanswered:
        one.client.forward([0])

    with heard(BEGINS) as noticed:
        unanswered[0].set_exception(refused())
        assert noticed.is_set()
    train(one, 1)  # not before it is settled
    train(second, 1)
    with heard(BEGINS) as noticed:
        for each in unanswered[1:]:
            each.set_exception(refused())
            assert not noticed.wait(0.01)

        for _ in range(1000):
            met(one, site.client, refused())
            if noticed.wait(0.01):
                break
        assert noticed.is_set()


@pytest.mark.parametrize("raises_at_once", [True, False])
def test_the_run_of_the_request_itself_is_recovered_as_before(bench, listener, raises_at_once):
    site, trained = Site(bench, listener, Told(), confirm_within=0.2), []
    failed = Future()
    failed.set_exception(refused())

    for segment in site.run.segments():
        with segment:
            for step in segment.steps(4):
                if step == 2 and len(trained) == 2:
                    site.client.answers += [refused() if raises_at_once else failed]
                train(segment, 1)
                trained.append(step)
                segment.save_state(f"at-{step + 1}", step=step + 1)

    assert trained == [0, 1, 2, 3]
    assert site.service.created == [(weights("at-2"), True)]
    assert site.run.lineage[0].cause in ("error", "rolled_back")


def test_a_save_whose_connection_failed_is_made_again_in_place(bench, listener):
    site = Site(bench, listener, Weights(), backoff=0.01)
    with next(site.run.segments()) as segment:
        saved_and_trained(segment)
        site.client.fail(refused())
        with heard(BEGINS) as noticed:
            segment.save_state("end", step=5)

    assert noticed.is_set()
    assert site.service.created == []
    assert {each.step for each in site.run.plan().candidates} == {2, 4, 5}


def test_where_no_thread_is_to_be_had_no_request_waits_for_ever(bench, listener, monkeypatch):
    site, start = Site(bench, listener, Weights()), threading.Thread.start

    def starts(thread):
        if thread.name == "tinkex-outage":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    with next(site.run.segments(max_wait=0.0)) as segment:
        met(segment, site.client, refused())
        train(segment, 1, save="end")

    assert site.client.updates == 1


def test_the_key_in_the_request_is_not_told(two, bench, caplog):
    site, _, one, _ = two

    met(one, site.client, refused())

    told = bench.told.wait_for("paused").error
    assert "tml-fake" not in f"{told!r} {vars(told)!r} {caplog.text}"
    assert not hasattr(told, "request")
