"""`Monitor.live` where displays hang, exit or are slow, with forks and without threads."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from support.forks import in_child
from support.real_threads import QUICK, wait_until
from support.recorder import PATIENCE
from support.screens import Screen
from support.world import RUN

from tinkex import Monitor, signals, view
from tinkex.testing import FakeRest, FakeServiceClient


@pytest.fixture
def threaded():
    """A monitor with threads of its own."""
    rest = FakeRest()
    rest.set_run(RUN)
    made = Monitor(QUICK, rest_module=rest).start()
    made.monitor_run(RUN, FakeServiceClient())
    yield made
    made.stop()


def receivers(monitor):
    """How many live views receive what a monitor tells."""
    found = signals.swept.receivers_for(monitor)
    return sum("LiveView" in getattr(each.__wrapped__, "__qualname__", "") for each in found)


def raiser(error):
    def fail():
        raise error

    return fail


def ends_soon(function, *arguments):
    """Whether a call ends although a display hangs."""
    calling = threading.Thread(target=function, args=arguments, daemon=True)
    calling.start()
    calling.join(PATIENCE)
    return not calling.is_alive()


@pytest.fixture
def hanging(threaded, screens):
    """A live view whose display hangs in all that it does, until the test is over."""
    gate, entered = threading.Event(), threading.Event()
    threaded.live()

    def hang():
        entered.set()
        gate.wait(6 * PATIENCE)

    screens[0].on_show = screens[0].on_end = hang
    wait_until(entered)
    yield threaded
    gate.set()


def test_a_stop_does_not_wait_for_the_end_of_a_display_that_hangs(hanging):
    assert ends_soon(hanging.stop, 5.0)


def test_a_new_view_does_not_wait_for_one_that_hangs(hanging, screens):
    assert ends_soon(hanging.live)
    assert len(screens[1].shown) >= 1


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ValueError("no")])
def test_what_a_display_raises_at_its_end_stops_no_stop(threaded, screens, error):
    threaded.live()
    screens[0].on_end = raiser(error)

    threaded.stop()

    assert threaded.is_stopped
    assert receivers(threaded) == 0


def test_a_display_that_exits_ends_its_view_and_is_told_of_once(world, monitor, screens, caplog):
    monitor.live()
    screens[0].on_show = raiser(SystemExit(1))

    world.fake.advance(60)

    assert screens[0].ended == 1
    assert receivers(monitor) == 0
    # A thread that another test has left may tell of its end meanwhile.
    here = [record for record in caplog.records if record.thread == threading.get_ident()]
    assert sum(record.exc_info is not None for record in here) == 1
    assert monitor.status(RUN).state == "healthy"


def test_an_interrupt_of_the_first_look_ends_the_view(monitor, screens, monkeypatch):
    monkeypatch.setattr(Screen, "show", lambda *_: raiser(KeyboardInterrupt())())

    with pytest.raises(KeyboardInterrupt):
        monitor.live()

    assert receivers(monitor) == 0


def test_a_stop_that_was_interrupted_at_the_view_ends_it_the_next_time(
    monitor, screens, monkeypatch
):
    live = monitor.live()
    close = live.close
    monkeypatch.setattr(live, "close", lambda timeout: raiser(KeyboardInterrupt())())
    with pytest.raises(KeyboardInterrupt):
        monitor.stop()
    monkeypatch.setattr(live, "close", close)

    monitor.stop()

    assert screens[0].ended == 1
    assert receivers(monitor) == 0


def test_a_slow_first_look_is_the_only_one_at_that_time(threaded, screens, monkeypatch):
    at_once, most, slow = [], [], threading.Event()

    def show(self, table, states, news):
        at_once.append(self)
        most.append(len(at_once))
        if len(most) == 1:
            slow.wait(2.5 * view.EVERY)
        at_once.pop()

    monkeypatch.setattr(Screen, "show", show)

    threaded.live()
    threaded.stop()

    assert len(most) > 1
    assert max(most) == 1


def test_no_thread_is_left_of_views_that_were_closed_or_replaced(threaded, screens):
    for _ in range(20):
        with threaded.live():
            threaded.live()
    threaded.stop()

    left = [each for each in threading.enumerate() if each.name.startswith("tinkex-live")]
    for each in left:
        each.join(PATIENCE)
    assert not any(each.is_alive() for each in left)
    assert receivers(threaded) == 0


def test_many_threads_leave_one_view(threaded, screens):
    threads = [threading.Thread(target=threaded.live, daemon=True) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)

    assert receivers(threaded) == 1
    threaded.stop()
    assert receivers(threaded) == 0


def test_where_no_thread_can_be_had_the_next_event_tries_again(world, monitor, screens, caplog):
    monitor.live()
    clock = monitor._parts.clock
    works = clock.call_surely

    def fail_once(delay, function):
        clock.call_surely = works
        raise RuntimeError("can't start new thread")

    clock.call_surely = fail_once
    monitor.poll_now()
    before = len(screens[0].shown)

    world.fake.advance(30)

    assert len(screens[0].shown) > before


def test_a_clock_that_is_set_back_holds_up_no_update(world, monitor, screens):
    monitor.live()
    world.fake._now -= 10_000  # what was armed before is due long after
    monitor.poll_now()
    before = len(screens[0].shown)

    world.fake.advance(1)

    assert len(screens[0].shown) > before


def test_a_monitor_with_a_view_that_was_never_started_can_be_collected(world, screens):
    made = world.monitor(start=False)
    made.live()
    gone = weakref.ref(made)

    del made
    gc.collect()

    assert gone() is None


def test_in_a_forked_child_a_view_shows_nothing(threaded, screens):
    live = threaded.live()
    shown = len(screens[0].shown)

    def work():
        del screens[0].shown[:]
        live.show()
        with live:
            pass
        assert screens[0].ended == 0
        assert screens[0].shown == []
        assert not any(each.name.startswith("tinkex") for each in threading.enumerate())

    assert in_child(work) == ""
    assert len(screens[0].shown) >= shown


@pytest.mark.parametrize("kind", ["none", "closed"])
def test_without_a_standard_error_it_shows_nothing_and_goes_on(world, monitor, monkeypatch, kind):
    import io

    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", None if kind == "none" else closed)

    monitor.live()
    world.fake.advance(30)

    assert monitor.status(RUN).state == "healthy"
