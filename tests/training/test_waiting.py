"""What a wait for a client shows and tells, while a run is recovered."""

from __future__ import annotations

import logging
import math
import re
import signal
import sys
import threading
import types

import pytest
from support.loops import FailedError, Once, begin, train
from support.recorder import PATIENCE
from support.world import RUN
from tenacity import wait_fixed

from tinkex.testing import DeadlockError


@pytest.fixture
def look(monkeypatch, capsys):
    """Has a user look at standard error; gives what gives the lines that were shown there."""

    def shown():
        lines = re.split("[\r\n]", capsys.readouterr().err)
        return [line.strip() for line in lines if line.strip()]

    def begin():
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        return shown

    return begin


@pytest.fixture
def ill(world):
    """A run whose first attempt failed, and whose second comes five seconds later."""
    world.service.fail(OSError("no backend"))
    monitor = world.monitor(wait=wait_fixed(5.0))
    run = monitor.monitor_run(RUN, world.service)
    world.corrupt()
    monitor.poll_now()
    return run


class Bar:
    """A notebook's bar, which keeps what is shown; the method that is named `fails`."""

    fails = None

    def __init__(self, *, desc, **options):
        self.shown = []
        self.note("__init__", desc)

    def set_description_str(self, words, refresh=True):
        self.note("set_description_str", words)

    def close(self):
        self.note("close", "closed")

    def note(self, method, words):
        if method == self.fails:
            raise OSError("gone")
        self.shown.append(words)


@pytest.fixture
def bars(monkeypatch):
    """The bars that a notebook was given."""
    made = []

    def make(**options):
        made.append(bar := Bar(**options))
        return bar

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    for name in ("tqdm", "tqdm.notebook"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(tqdm=make))
    return made


def test_who_watches_sees_what_is_waited_for(ill, look):
    shown = look()
    ill.wait(60.0)

    lines = shown()
    assert lines[0] == "run 3f0c:train:0: waiting for 0.1 s, next attempt in 4.9 s"
    assert lines[3] == "run 3f0c:train:0: waiting for 3.1 s, next attempt in 1.9 s"
    assert lines[-1] == f"run 3f0c:train:0: recovered as {ill.run_id} after 5.0 s"


def test_a_wait_of_a_loop_is_shown_too(world, ill, look):
    shown = look()
    train(ill, 102, resume_step=100)

    assert any("waiting" in line for line in shown())


def test_who_watches_sees_where_the_loop_goes_on_however_quick_it_was(world, look):
    run, _client = begin(world)
    shown = look()

    def fail(segment):
        world.corrupt(RUN, "000005")
        raise FailedError("it is corrupted", 400)

    train(run, 12, before=Once(9, fail))

    assert set(shown()) == {
        f"run {run.run_id}: its loop goes on at step 5 from 000005, 4 steps lost"
    }


def test_a_wait_that_is_over_at_once_shows_nothing(world, look):
    shown = look()
    run, _client = begin(world)

    train(run, 3)
    run.wait(60.0)

    assert shown() == []


def test_where_the_wait_ends_in_an_error_the_last_line_stays(ill, look):
    shown = look()
    with pytest.raises(TimeoutError, match="is waiting after 3 s"):
        ill.wait(3.0)

    lines = shown()
    assert lines[-1] == "run 3f0c:train:0: waiting for 2.1 s, next attempt in 2.9 s"


@pytest.mark.parametrize("is_there", [True, False])
def test_where_no_user_looks_or_no_bar_can_be_had_nothing_is_shown(
    ill, look, monkeypatch, is_there
):
    shown = look()
    if is_there:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)

    ill.wait(60.0)

    assert shown() == []
    assert ill.status().state == "healthy"


def test_standard_error_may_be_anything_that_can_be_written_to(ill, monkeypatch):
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(write=len, flush=str))

    ill.wait(60.0)

    assert ill.status().state == "healthy"


def test_a_package_that_cannot_be_used_is_told_of_once_and_harms_no_wait(
    ill, look, monkeypatch, caplog
):
    look()
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace())

    ill.wait(60.0)

    told = [each.getMessage() for each in caplog.records if "cannot be shown" in each.msg]
    assert told == ["what is waited for cannot be shown (AttributeError)"]
    assert ill.status().state == "healthy"


def test_in_a_notebook_it_is_a_bar_of_the_notebook(ill, bars):
    ill.wait(60.0)

    (bar,) = bars
    assert bar.shown[0] == "run 3f0c:train:0: waiting for 0.1 s, next attempt in 4.9 s"
    assert bar.shown[-2:] == [f"run 3f0c:train:0: recovered as {ill.run_id} after 5.0 s", "closed"]


@pytest.mark.parametrize("method", ["__init__", "set_description_str", "close"])
def test_a_bar_that_cannot_be_drawn_is_told_of_once_and_harms_no_wait(
    ill, bars, monkeypatch, caplog, method
):
    monkeypatch.setattr(Bar, "fails", method)

    ill.wait(60.0)

    assert [each.getMessage() for each in caplog.records if "cannot be shown" in each.msg] == [
        "what is waited for cannot be shown (OSError)"
    ]
    assert ill.status().state == "healthy"


def test_the_log_tells_each_minute_that_a_loop_waits(world, caplog):
    world.service.fail(OSError("no backend"))
    monitor = world.monitor(wait=wait_fixed(150.0))
    run = monitor.monitor_run(RUN, world.service)
    world.corrupt()
    monitor.poll_now()

    with caplog.at_level(logging.WARNING, "tinkex.training"):
        run.wait(600.0)

    told = [each.getMessage() for each in caplog.records if "its loop waits" in each.msg]
    assert told == ["run 3f0c:train:0: its loop waits, waiting"] * 2


def test_a_user_who_looks_keeps_no_fake_from_finding_a_deadlock(world, look):
    look()
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)

    with pytest.raises(DeadlockError):
        run.wait()


@pytest.mark.parametrize(("timeout", "error"), [(float("nan"), ValueError), ("9", TypeError)])
def test_what_is_no_time_is_refused(world, timeout, error):
    run, _client = begin(world)

    with pytest.raises(error, match="timeout must be a number of seconds or None, not"):
        run.wait(timeout)


def test_where_it_cannot_be_told_whether_there_are_widgets_the_wait_goes_on(ill, bars, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", types.ModuleType("ipywidgets"))

    ill.wait(60.0)

    assert bars == []
    assert ill.status().state == "healthy"


class OwnTime:
    """A scheduler whose clock stands still; it fires no timer."""

    def __call__(self, interval, function):
        return types.SimpleNamespace(start=lambda: None, cancel=lambda: None)

    def now(self):
        return 0.0


class OwnWait(OwnTime):
    """The same, that waits itself, without a clock that says so."""

    now = None

    def wait(self, predicate, timeout=None):
        return predicate()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("scheduler", "timeout"),
    [(OwnTime, 0.05), (OwnWait, 1e6), (OwnWait, math.inf), (OwnWait, None)],
)
def test_a_wait_ends_in_time_whatever_the_clock_of_a_scheduler_tells(world, scheduler, timeout):
    world.fake = scheduler()
    world.rest.set_run(RUN)
    run = world.monitor(start=False).monitor_run(RUN, world.service)

    with pytest.raises(TimeoutError, match="is healthy after"):
        run.wait(timeout)


@pytest.mark.timeout(20)
def test_no_time_to_wait_and_all_time_are_times(world):
    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)

    with pytest.raises(TimeoutError, match="after 0 s"):
        run.wait(0)
    with pytest.raises(DeadlockError):
        run.wait(math.inf)


def test_a_handler_of_the_log_that_raises_ends_no_wait_and_hides_no_error(world, bars, monkeypatch):
    class Raising(logging.Handler):
        def emit(self, record):
            raise OSError("no log")

    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)
    monkeypatch.setattr(Bar, "fails", "close")
    logger = logging.getLogger("tinkex")
    logger.addHandler(handler := Raising())
    try:
        with pytest.raises(TimeoutError, match="after 90 s"):
            run.wait(90.0)
    finally:
        logger.removeHandler(handler)


def test_an_interrupt_does_not_cut_off_what_is_drawn(ill, bars, monkeypatch):
    """Its lock would be kept, for which the bars of all other threads would wait."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    is_drawn = threading.Event()

    def interrupted(bar, words):
        signal.raise_signal(signal.SIGINT)
        is_drawn.set()

    monkeypatch.setattr(Bar, "set_description_str", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            ill.wait(60.0)
        assert is_drawn.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)
