"""`Monitor.live`: one display, kept up to date by the monitor's own signals."""

from __future__ import annotations

import threading

import pytest
from support.real_threads import QUICK, wait_until
from support.recorder import PATIENCE
from support.world import RUN, weights

from tinkex import Monitor, signals
from tinkex.errors import MonitorStoppedError
from tinkex.testing import FakeRest, FakeServiceClient


def raiser(error):
    def fail():
        raise error

    return fail


def test_it_is_shown_at_once(monitor, screens):
    monitor.live()

    [(table, states, news)] = screens[0].shown
    assert RUN in table
    assert (states, news) == ("1 healthy", ())


def test_a_recovery_is_seen_with_its_last_event_in_words(world, monitor, screens):
    monitor.live()
    world.rest.set_run(RUN, corrupted=True, last_checkpoint=weights("000100"))
    world.fake.advance(12)

    assert f"{RUN} is corrupted, says the server" in screens[0].news
    assert any("is recovered" in each for each in screens[0].news)
    table, states, _ = screens[0].shown[-1]
    assert states == "1 healthy"
    assert "000100" in table


def test_there_is_at_most_one_update_a_second_and_the_last_state_is_shown(world, monitor, screens):
    monitor.live()
    world.fake.advance(5)
    screens[0].shown.clear()
    run = monitor.monitor_run(RUN, world.service)
    run.record_checkpoint(weights("000100"), step=0)
    for number in range(20):
        run.record_checkpoint(weights(f"{number}"), step=number)
        monitor.poll_now()
    assert len(screens[0].shown) <= 1

    world.fake.advance(1)

    assert len(screens[0].shown) <= 2
    assert "19 (step 19)" in screens[0].shown[-1][0]


def test_a_cell_that_is_run_again_has_one_display(world, monitor, screens):
    first = monitor.live()
    monitor.live()
    before = len(screens[0].shown)
    world.fake.advance(30)

    assert len(screens[0].shown) == before
    assert screens[0].ended == 1
    assert len(screens[1].shown) > 1
    first.close()
    assert screens[0].ended == 1


def test_it_ends_with_its_block_and_shows_the_last_state(world, monitor, screens):
    with monitor.live():
        monitor.poll_now()
    after = len(screens[0].shown)
    world.fake.advance(30)

    assert screens[0].ended == 1
    assert len(screens[0].shown) == after


def test_it_ends_with_the_monitor_and_none_begins_afterwards(monitor, screens):
    monitor.live()
    monitor.stop()

    assert screens[0].ended == 1
    with pytest.raises(MonitorStoppedError):
        monitor.live()


def test_what_a_display_raises_is_logged_once_and_harms_no_monitor(world, monitor, screens, caplog):
    monitor.live()
    screens[0].on_show = raiser(ValueError("no display"))
    world.rest.set_run(RUN, corrupted=True, last_checkpoint=weights("000100"))
    world.fake.advance(60)

    assert monitor.status(RUN).state == "healthy"
    assert monitor.status(RUN).recoveries == 1
    assert caplog.text.count("the live view ended") == 1


def test_a_display_that_hangs_holds_up_neither_polls_nor_the_stop(screens):
    gate, entered = threading.Event(), threading.Event()
    rest = FakeRest()
    rest.set_run(RUN)
    monitor = Monitor(QUICK, rest_module=rest).start()
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.live()

    def hang(table, states, news):
        entered.set()
        gate.wait(3 * PATIENCE)

    screens[0].show = hang
    with signals.subscribe(lambda sender, event: None, sender=monitor):
        wait_until(entered)
        monitor.poll_now()
    stopping = threading.Thread(target=monitor.stop, args=(5.0,), daemon=True)
    stopping.start()
    stopping.join(PATIENCE)
    gate.set()

    assert not stopping.is_alive()


def test_what_a_cell_ends_with_is_told_in_words(monitor, screens):
    live = monitor.live()
    all_of_it = signals.subscribe(print)
    ends = signals.subscribe(print, "completed", "exhausted")

    assert repr(live) == "<LiveView, open>"
    assert repr(all_of_it) == "<Subscription to all signals>"
    for each in (live, all_of_it, ends):
        each.close()
    assert repr(live) == "<LiveView, closed>"
    assert repr(ends) == "<Subscription to completed, exhausted, closed>"
