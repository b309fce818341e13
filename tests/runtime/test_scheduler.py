"""Time: the clock over any scheduler, and the monitor's own timer thread."""

from __future__ import annotations

import logging
import math
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from tinkex.runtime.scheduler import Clock, ThreadScheduler
from tinkex.testing import DeadlockError, FakeScheduler

WAIT = 10.0


class TimerLog:
    """A scheduler of the plainest shape: it makes timers and nothing else."""

    def __init__(self):
        self.made = []

    def __call__(self, interval, function):
        self.made.append((interval, function))
        return self

    def start(self):
        self.made.append("started")

    def cancel(self):
        self.made.append("cancelled")


@pytest.fixture
def scheduler():
    made = ThreadScheduler("test-timers")
    yield made
    made.close(WAIT)


# The clock


def test_a_clock_takes_the_time_of_a_scheduler_that_has_one():
    fake = FakeScheduler()
    clock = Clock(fake)

    fake.advance(12.5)

    assert clock.monotonic() == 12.5


def test_the_calendar_moves_with_the_time_of_the_scheduler():
    fake = FakeScheduler()
    clock = Clock(fake)
    before = clock.utc()

    fake.advance(3600)

    assert clock.utc() - before == timedelta(hours=1)
    assert clock.utc().utcoffset() == timedelta(0)


def test_a_scheduler_without_a_clock_leaves_time_to_the_machine():
    clock = Clock(TimerLog())

    before, day = time.monotonic(), datetime.now(UTC)
    moment, of_day = clock.monotonic(), clock.utc()

    assert before <= moment <= time.monotonic()
    assert day <= of_day <= datetime.now(UTC)


def test_time_in_which_the_machine_was_suspended_has_elapsed_where_the_system_tells(monkeypatch):
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1000.0 + clock, raising=False)
    assert Clock(threading.Timer).elapsed() == 1007.0

    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert abs(Clock(threading.Timer).elapsed() - time.monotonic()) < 60.0
    assert Clock(FakeScheduler()).elapsed() == 0.0


def test_call_later_makes_a_timer_and_starts_it():
    log = TimerLog()

    fired = []

    timer = Clock(log).call_later(7.0, lambda: fired.append("fired"))

    (seconds, function), started = log.made
    assert (seconds, started, fired) == (7.0, "started", [])
    function()
    assert fired == ["fired"]
    assert timer is log


def test_timers_of_threading_are_taken_and_made_daemon():
    called = threading.Event()

    timer = Clock(threading.Timer).call_later(0.0, called.set)

    assert called.wait(WAIT)
    assert timer.daemon


def test_a_wait_goes_through_a_scheduler_that_has_one():
    fake = FakeScheduler()
    clock = Clock(fake)
    clock.call_later(4.0, lambda: None)

    held = clock.wait(threading.Lock(), lambda: clock.monotonic() >= 4.0, 30.0)

    assert held
    assert fake.now() == 4.0


def test_a_wait_without_a_bound_reaches_the_scheduler_as_an_infinite_one():
    with pytest.raises(DeadlockError):
        Clock(FakeScheduler()).wait(threading.Lock(), lambda: False, None)


@pytest.mark.parametrize("holds", [True, False])
def test_a_wait_without_a_scheduler_of_its_own_uses_the_bell(holds):
    clock = Clock(TimerLog())

    bell = threading.Lock()
    bell.acquire()

    assert clock.wait(bell, lambda: holds, 0.01) is holds


def test_sleeping_on_a_scheduler_with_a_wait_takes_its_seconds_and_not_ours():
    fake = FakeScheduler()

    Clock(fake).sleep()(500.0)

    assert fake.now() == 500.0


def test_a_scheduler_without_a_wait_has_no_way_to_sleep():
    assert Clock(TimerLog()).sleep() is None


# The thread


def test_a_scheduler_has_no_thread_before_its_first_timer_starts():
    scheduler = ThreadScheduler("test-lazy")

    scheduler(0.0, print)

    assert "test-lazy" not in [thread.name for thread in threading.enumerate()]


def test_timers_fire_on_the_schedulers_one_daemon_thread(scheduler):
    seen = []
    done = threading.Event()
    scheduler(0.0, lambda: seen.append(threading.current_thread())).start()
    scheduler(0.01, lambda: (seen.append(threading.current_thread()), done.set())).start()

    assert done.wait(WAIT)
    assert seen[0] is seen[1]
    assert seen[0].daemon
    assert seen[0].name == "test-timers"


def test_timers_fire_in_the_order_they_are_due_and_not_before(scheduler):
    fired, done = [], threading.Event()
    began = time.monotonic()
    scheduler(0.3, lambda: (fired.append(("late", time.monotonic() - began)), done.set())).start()
    scheduler(0.0, lambda: fired.append(("early", time.monotonic() - began))).start()

    assert done.wait(WAIT)
    assert [name for name, _ in fired] == ["early", "late"]
    assert fired[1][1] >= 0.3


def test_timers_due_at_once_fire_in_the_order_they_were_started(scheduler):
    blocked, fired, done = threading.Event(), [], threading.Event()
    scheduler(0.0, lambda: blocked.wait(WAIT)).start()
    for number in range(20):
        scheduler(0.0, lambda number=number: fired.append(number)).start()
    scheduler(0.0, done.set).start()

    blocked.set()

    assert done.wait(WAIT)
    assert fired == list(range(20))


def test_a_cancelled_timer_does_not_fire(scheduler):
    fired, done = [], threading.Event()
    timer = scheduler(0.02, lambda: fired.append("cancelled"))
    timer.start()

    timer.cancel()
    timer.cancel()
    scheduler(0.04, done.set).start()

    assert done.wait(WAIT)
    assert fired == []


def test_a_timer_may_be_cancelled_after_it_fired(scheduler):
    done = threading.Event()
    timer = scheduler(0.0, done.set)
    timer.start()

    assert done.wait(WAIT)
    timer.cancel()


def test_a_function_that_raises_is_logged_and_the_loop_goes_on(scheduler, caplog):
    done = threading.Event()

    with caplog.at_level(logging.ERROR):
        scheduler(0.0, lambda: 1 / 0).start()
        scheduler(0.01, done.set).start()
        assert done.wait(WAIT)

    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_a_timer_may_start_another(scheduler):
    done = threading.Event()

    scheduler(0.0, lambda: scheduler(0.0, done.set).start()).start()

    assert done.wait(WAIT)


def test_a_timer_that_comes_sooner_overtakes_the_one_that_is_waited_for(scheduler):
    done = threading.Event()
    scheduler(3600.0, lambda: None).start()

    scheduler(0.0, done.set).start()

    assert done.wait(WAIT)


def test_a_closed_scheduler_fires_nothing_and_its_thread_ends():
    scheduler = ThreadScheduler("test-closing")
    fired, began = [], threading.Event()
    scheduler(0.0, began.set).start()
    assert began.wait(WAIT)
    scheduler(0.02, lambda: fired.append(1)).start()

    scheduler.close(WAIT)
    scheduler(0.0, lambda: fired.append(2)).start()

    assert "test-closing" not in [thread.name for thread in threading.enumerate()]
    assert fired == []


def test_close_from_a_timer_does_not_wait_for_its_own_thread():
    scheduler = ThreadScheduler("test-own")
    took = []
    done = threading.Event()

    def close():
        began = time.monotonic()
        scheduler.close(WAIT)
        took.append(time.monotonic() - began)
        done.set()

    scheduler(0.0, close).start()

    assert done.wait(WAIT)
    assert took[0] < WAIT / 2


def test_a_scheduler_that_never_began_closes_at_once():
    ThreadScheduler("test-none").close(math.inf)
