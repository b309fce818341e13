"""The runs of a server are looked at together: one whose look hangs is in no other's way."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from contextlib import ExitStack

import pytest
from support.outages import Site, Weights, heard, saved_and_trained, train
from support.recorder import PATIENCE
from support.world import weights

from tinkex.errors import SegmentSupersededError

#: How many times `forward` is asked in the look of a run that `saved_and_trained`.
ASKED = 4


class Hanging(Weights):
    """A client whose `forward` is not answered before `answer`, once it `hangs`."""

    def __init__(self, model_id):
        super().__init__(model_id)
        self.hangs, self.asked, self.answer = False, threading.Semaphore(0), Future()

    def forward(self, *args):
        answer = super().forward(*args)
        self.asked.release()
        return self.answer if self.hangs else answer

    def wait_for_looks(self, count):
        for _ in range(count):
            assert self.asked.acquire(timeout=PATIENCE)


class Runs:
    """Runs of one server that are trained at the same time; `clients` and `segments` of each."""

    def __init__(self, stack, site, count):
        self.site, self.clients, self.segments = site, [], []
        for number in range(count):
            client = Hanging(f"{number}:train:0")
            self.clients.append(client)
            stack.callback(client.answer.cancel)  # what hangs in it ends with the test
            run = site.monitor.monitor_run(client.model_id, site.service, client=client)
            self.segments.append(stack.enter_context(next(run.segments())))
            saved_and_trained(self.segments[-1])

    def restored(self):
        return {path for path, _ in self.site.service.created}


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


def at_4(number):
    return weights("at-4", run_id=f"{number}:train:0")


def test_an_outage_while_another_run_is_looked_at_is_not_passed_over(
    bench, listener, stack, elsewhere
):
    site = Site(bench, listener)
    runs = Runs(stack, site, 2)
    (one, other), segment = runs.clients, runs.segments[0]
    site.go_down()
    other.hangs = True
    waiting = elsewhere.submit(train, segment, 1)

    with heard("gone again") as noticed, heard("it goes on") as released:
        site.come_back()
        one.wait_for_looks(ASKED)
        other.wait_for_looks(1)
        assert not released.wait(0.2)
        listener.stop()
        one.updates = 4
        listener.start()
        other.answer.set_result(None)
        assert noticed.wait(PATIENCE)

    assert isinstance(waiting.exception(PATIENCE), SegmentSupersededError)
    assert one.updates == 4


def test_a_run_that_is_proved_to_be_rolled_back_waits_for_no_other(bench, listener, stack):
    site = Site(bench, listener)
    runs = Runs(stack, site, 2)
    site.go_down()
    runs.clients[0].hangs = True
    runs.clients[1].updates = 2
    site.come_back()

    bench.told.wait_for("completed", "1:train:0")

    assert runs.restored() == {at_4(1)}


def test_looks_that_hang_are_in_the_way_of_no_other_run(bench, listener, stack):
    site = Site(bench, listener, confirm_within=1.0)
    runs = Runs(stack, site, 10)
    site.go_down()
    for each in runs.clients[:-1]:
        each.hangs = True
    site.come_back()
    train(runs.segments[-1], 1)

    for number in range(9):
        bench.told.wait_for("completed", f"{number}:train:0")
    assert runs.restored() == {at_4(number) for number in range(9)}


@pytest.mark.parametrize("on_doubt", ["warn", "ignore"])
def test_a_run_whose_former_look_hangs_is_in_doubt_at_once(
    bench, listener, stack, on_doubt, caplog
):
    caplog.set_level(logging.INFO, "tinkex")
    site = Site(bench, listener, confirm_within=0.2, on_doubt=on_doubt)
    runs = Runs(stack, site, 1)
    client, segment = runs.clients[0], runs.segments[0]
    client.hangs = True
    for evidence in ("could not be seen", "an earlier look at it hangs"):
        with heard(evidence) as told:
            site.go_down()
            calls = len(client.calls)
            site.come_back()
            train(segment, 1)
            assert told.wait(PATIENCE)

    assert [name for name, _ in client.calls[calls:]] == ["forward_backward", "optim_step"]
    assert site.service.created == []


def test_a_look_that_ends_late_changes_nothing(bench, listener, stack):
    site = Site(bench, listener, confirm_within=0.2, on_doubt="warn")
    runs = Runs(stack, site, 1)
    client, segment = runs.clients[0], runs.segments[0]
    site.go_down()
    client.hangs = True
    site.come_back()
    train(segment, 1)

    client.updates, client.hangs = 4, False
    client.answer.set_result(client._output())
    looks = [each for each in bench.threads() if each.name.startswith("tinkex-look")]
    train(segment, 1)
    site.monitor.stop()
    bench.join(*looks)

    assert "detected" not in bench.told.names_of("0:train:0")
    assert client.updates == 5


def test_a_run_that_no_thread_can_look_at_is_in_doubt(bench, listener, stack, monkeypatch):
    site = Site(bench, listener)
    Runs(stack, site, 1)
    site.go_down()
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("tinkex-look"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with heard("it cannot be looked at") as told:
        site.come_back()
        assert told.wait(PATIENCE)

    bench.told.wait_for("completed", "0:train:0")


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit])
def test_a_look_that_exits_leaves_a_doubt_and_holds_no_request(bench, listener, kind):
    class Exits(Weights):
        exits = False

        def forward(self, data, loss_fn="cross_entropy"):
            if self.exits:
                raise kind
            return super().forward(data, loss_fn)

    site = Site(bench, listener, Exits(), on_doubt="warn")

    with next(site.run.segments()) as segment:
        saved_and_trained(segment)
        site.go_down()
        site.client.exits = True
        with heard("the weights cannot be compared") as told:
            site.come_back()
            assert told.wait(PATIENCE)
        train(segment, 1)
        segment.save_state("end", step=6)

    assert site.service.created == []
