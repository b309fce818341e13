"""Waits: who is woken by what, and what an interrupt leaves behind."""

from __future__ import annotations

import threading

import pytest
from support.recorder import PATIENCE

from tinkex.runtime.scheduler import Clock, ThreadScheduler
from tinkex.runtime.waits import Waits


class Waiter(threading.Thread):
    """Waits on a thread for news of a thing until `is_over`; `looks` says how often it looked."""

    def __init__(self, waits, about):
        super().__init__(daemon=True)
        self.looks = threading.Semaphore(0)
        self.count = 0
        self.is_over = False
        self._waits = waits
        self._about = about
        self.start()
        self.looked()

    def run(self):
        self._waits.wait(self._about, self._look, PATIENCE)

    def _look(self):
        self.count += 1
        self.looks.release()
        return self.is_over

    def looked(self):
        assert self.looks.acquire(timeout=PATIENCE)

    def ended(self):
        self.join(PATIENCE)
        return not self.is_alive()


@pytest.fixture
def waits():
    return Waits(Clock(ThreadScheduler("waits")))


def test_news_of_one_thing_wakes_only_those_who_wait_for_it(waits):
    mine, another = Waiter(waits, "mine"), Waiter(waits, "another")

    for _ in range(5):
        waits.notify("mine")
        mine.looked()
    mine.is_over = another.is_over = True
    waits.notify("mine")

    assert mine.ended()
    assert another.count == 1
    waits.notify("another")
    assert another.ended()
    assert another.count == 2


def test_all_who_wait_for_one_thing_are_woken_and_none_is_kept(waits):
    waiters = [Waiter(waits, "thing") for _ in range(20)]

    for each in waiters:
        each.is_over = True
    waits.notify("thing")

    assert all(each.ended() for each in waiters)
    assert not waits._bells


def test_everyone_can_be_woken(waits):
    waiters = [Waiter(waits, name) for name in "abc"]

    for each in waiters:
        each.is_over = True
    waits.notify_all()

    assert all(each.ended() for each in waiters)


def test_a_wait_that_raises_leaves_nothing_behind(waits):
    def look():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waits.wait("thing", look, PATIENCE)

    assert not waits._bells
