"""The outbox: order within a lane, lanes beside each other, and deliveries that fail."""

from __future__ import annotations

import logging
import threading
import weakref
from functools import partial

import pytest

from tinkex.runtime import delivery
from tinkex.runtime.delivery import Delivery
from tinkex.runtime.jobs import Job

WAIT = 10.0


def inline(on_idle=lambda: None):
    return Delivery(inline=True, on_idle=on_idle)


@pytest.fixture
def threaded():
    made = Delivery(inline=False, on_idle=lambda: None)
    yield made
    made.close()
    made.join(WAIT)


# Inline


def test_an_inline_outbox_delivers_at_the_post_and_on_its_thread():
    threads = []

    inline().post("a", lambda: threads.append(threading.current_thread()))

    assert threads == [threading.current_thread()]


def test_what_a_delivery_posts_comes_after_it_and_not_inside_it():
    outbox, log = inline(), []

    def first():
        outbox.post("a", lambda: log.append("posted meanwhile"))
        log.append("first ends")

    outbox.post("a", first)

    assert log == ["first ends", "posted meanwhile"]


def test_all_keys_of_an_inline_outbox_share_one_order():
    outbox, log = inline(), []

    def first():
        outbox.post("b", lambda: log.append("b"))
        outbox.post("a", lambda: log.append("a"))

    outbox.post("a", first)

    assert log == ["b", "a"]


def test_posts_inside_deliveries_do_not_nest_however_many_there_are():
    outbox, left = inline(), [20_000]

    def again():
        left[0] -= 1
        if left[0]:
            outbox.post("a", again)

    outbox.post("a", again)

    assert left == [0]


def test_a_delivery_that_raises_is_logged_and_the_next_goes_on(caplog):
    outbox, log = inline(), []

    with caplog.at_level(logging.ERROR):
        outbox.post("a", lambda: 1 / 0)
        outbox.post("a", lambda: log.append("next"))

    assert log == ["next"]
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_what_an_interrupt_left_goes_out_with_the_next_post():
    outbox, log = inline(), []

    def interrupted():
        outbox.post("a", lambda: log.append("left"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outbox.post("a", interrupted)
    outbox.post("a", lambda: log.append("next"))

    assert log == ["left", "next"]
    assert outbox.is_idle()


def test_a_closed_outbox_delivers_nothing_more():
    outbox, log = inline(), []

    def first():
        outbox.post("a", lambda: log.append("waiting"))
        outbox.close()

    outbox.post("a", first)
    outbox.post("a", lambda: log.append("posted later"))

    assert log == []
    assert outbox.is_idle()


def test_an_outbox_is_idle_to_the_delivery_that_asks():
    outbox, seen = inline(), []

    outbox.post("a", lambda: seen.append(outbox.is_idle()))

    assert seen == [True]


def test_the_end_of_a_drain_is_told():
    told = []
    outbox = inline(on_idle=lambda: told.append(1))

    outbox.post("a", lambda: None)

    assert told == [1]


# On threads


def test_deliveries_of_one_key_come_in_order_and_never_at_the_same_time(threaded):
    log, done, at_work = [], threading.Event(), []

    def deliver(number):
        at_work.append(number)
        log.append((number, len(at_work)))
        at_work.remove(number)

    for number in range(200):
        threaded.post("a", lambda number=number: deliver(number))
    threaded.post("a", done.set)

    assert done.wait(WAIT)
    assert log == [(number, 1) for number in range(200)]


def test_a_slow_delivery_holds_up_its_own_key_only(threaded):
    hold, other_key, same_key = threading.Event(), threading.Event(), threading.Event()
    threaded.post("slow", lambda: hold.wait(WAIT))
    threaded.post("slow", same_key.set)

    threaded.post("other", other_key.set)

    assert other_key.wait(WAIT)
    assert not same_key.is_set()
    assert not threaded.is_idle()
    hold.set()
    assert same_key.wait(WAIT)


def test_deliveries_run_on_named_daemon_threads(threaded):
    threads, done = [], threading.Event()

    threaded.post("a", lambda: (threads.append(threading.current_thread()), done.set()))

    assert done.wait(WAIT)
    assert threads[0].name.startswith("tinkex-signals")
    assert threads[0].daemon


def test_a_post_after_the_close_is_dropped_without_an_error(threaded):
    log = []

    threaded.close()
    threaded.post("a", lambda: log.append(1))
    threaded.join(WAIT)

    assert log == []


def test_who_closes_does_not_wait_for_a_backlog_to_be_freed(monkeypatch, threaded):
    monkeypatch.setattr(delivery, "PATIENCE", 0.05)
    gate, entered, parked, freed = (threading.Event() for _ in range(4))
    calls, threads = [], []

    class Payload:
        def call(self):
            calls.append(self)

        def __del__(self):
            threads.append(threading.current_thread())
            freed.set()

    def post(lane, function):
        threaded.queue(lane, [lambda: (Job(function, "hung", "hung"),)])
        threaded.flush()

    post("a", lambda: (entered.set(), gate.wait(WAIT)))
    assert entered.wait(WAIT)
    threaded.post("a", parked.set)  # is called once the lane goes on without the hung call
    assert parked.wait(WAIT)
    post("a", Payload().call)
    taken = threading.Event()
    threaded.post("a", taken.set)  # behind it in the lane: by then it waits for the hung call
    assert taken.wait(WAIT)

    threaded.close()
    assert freed.wait(WAIT)
    gate.set()
    threaded.join(WAIT)

    assert threads != [threading.current_thread()]
    assert calls == []


# Threads that stay for a while


def test_calls_that_follow_each_other_share_threads(threaded):
    names, done = set(), threading.Semaphore(0)

    def call():
        names.add(threading.current_thread().name)
        done.release()

    for number in range(100):
        threaded.post(number, call)
        assert done.acquire(timeout=WAIT)

    # The first one's watch, and two where one is not back yet from its call.
    assert len(names) <= 3


def test_a_thread_that_waits_for_calls_keeps_nothing_of_the_last_one(threaded):
    class Big:
        pass

    made = Big()
    kept, gone = weakref.ref(made), threading.Event()
    weakref.finalize(made, gone.set)
    threaded.post("a", partial(lambda _: None, made))
    del made

    assert gone.wait(WAIT)
    assert kept() is None


def test_threads_that_wait_for_calls_end_by_themselves(monkeypatch):
    monkeypatch.setattr(delivery, "LINGER", 0.01)
    monkeypatch.setattr(delivery, "PATIENCE", 0.04)
    made = Delivery(inline=False, on_idle=lambda: None, name="short")
    for number in range(5):
        made.post(number, lambda: None)

    for thread in [each for each in threading.enumerate() if each.name.startswith("short")]:
        thread.join(WAIT)

    assert not any(each.name.startswith("short") for each in threading.enumerate())


def test_close_ends_threads_that_wait_for_calls(monkeypatch):
    monkeypatch.setattr(delivery, "LINGER", 3600.0)
    made, done = Delivery(inline=False, on_idle=lambda: None, name="long"), threading.Event()
    made.post("a", done.set)
    assert done.wait(WAIT)

    made.close()
    made.join(WAIT)

    assert not any(each.name.startswith("long") for each in threading.enumerate())


def test_an_interrupted_start_leaves_no_wrong_count_of_threads(threaded, monkeypatch):
    start, late, begun = threading.Thread.start, [], threading.Semaphore(0)
    gate = threading.Event()

    def interrupted(thread):
        late.append(thread)
        raise KeyboardInterrupt

    def hangs():
        begun.release()
        gate.wait(WAIT)

    threaded.post("first", hangs)
    assert begun.acquire(timeout=WAIT)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    for number in range(40):
        with pytest.raises(KeyboardInterrupt):
            threaded.post(number, hangs)
    monkeypatch.undo()
    # They had been about to begin.
    for thread in late:
        start(thread)
    for number in range(100):
        threaded.post(number, hangs)
    for _ in range(delivery.LANES_AT_ONCE - 1):
        assert begun.acquire(timeout=WAIT)

    assert not begun.acquire(timeout=0.05)
    gate.set()
