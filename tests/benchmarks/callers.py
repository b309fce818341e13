"""How long the public methods take, in their callers' eyes, while a monitor is busy."""

from __future__ import annotations

import threading
import time
from statistics import median

from tinkex import Monitor, Policy

from .account import run_id
from .control import Control
from .figures import spread
from .targets import METHODS
from .variants import Service

__all__ = ["calls", "calls_in_refusal", "calls_with_loops", "status_of_all"]


class _Caller:
    """Calls each method in turn, of a monitor with some runs, and keeps how long that took.

    The server knows one run more, which comes and goes.
    """

    def __init__(self, url, runs):
        self._service = Service(url)
        self._runs = runs
        self.monitor = Monitor(Policy(enabled=True, poll_interval=3600.0)).start()
        self.handles = [self.monitor.monitor_run(run_id(i), self._service) for i in range(runs)]
        self.monitor.poll_now()
        self._calls = {
            "monitor_run": lambda: self.monitor.monitor_run(run_id(runs), self._service),
            "status": lambda: self.monitor.status(run_id(runs // 2)),
            "stop_monitoring": lambda: self.monitor.stop_monitoring(run_id(runs)),
            "state": lambda: self.handles[runs // 2].state,
        }

    def until(self, is_over, taken=None):
        """Call until something is over; the seconds of each call, by method."""
        taken = {name: [] for name in METHODS} if taken is None else taken
        while not is_over():
            for name, call in self._calls.items():
                # A pause, so that the calls are spread over the sweep; it also lets other threads
                # run, as they would between the calls of a normal program.
                time.sleep(0.001)
                began = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - began)
        return taken

    def during_sweep(self, taken, state):
        """Call while one sweep brings all runs to a state and that is told; the seconds of both."""
        sweeper = threading.Thread(target=self.monitor.poll_now, name="sweeps", daemon=True)
        sweeper.start()
        began, is_idle = time.perf_counter(), self.monitor._parts.publisher.is_idle

        def is_over():
            return (
                not sweeper.is_alive()
                and is_idle()
                and all(handle.state == state for handle in self.handles)
            )

        self.until(is_over, taken)
        return time.perf_counter() - began


def _spreads(taken):
    return {name: spread(each) for name, each in taken.items()}


def calls(url, *, runs, seconds, hang):
    """During sweeps, or during a hang of the server."""
    caller = _Caller(url, runs)
    over = threading.Event()

    def sweep():
        while not over.is_set():
            try:
                caller.monitor.poll_now()
            except Exception:
                return

    if hang:
        Control(url)("hang", run="all")
    threading.Thread(target=sweep, name="sweeps", daemon=True).start()
    ends_at = time.monotonic() + seconds
    taken = caller.until(lambda: time.monotonic() >= ends_at)
    over.set()
    caller.monitor.stop()
    return _spreads(taken)


def calls_in_refusal(url, *, runs, rounds):
    """While the account is refused, and when it comes back; with the seconds of those sweeps."""
    caller, control = _Caller(url, runs), Control(url)
    found = {each: {name: [] for name in METHODS} for each in ("refused", "back")}
    sweeps = {each: [] for each in found}
    for _ in range(rounds):
        for case, status, state in (("refused", 401, "failing"), ("back", 0, "healthy")):
            control("refuse", status=status)
            sweeps[case].append(caller.during_sweep(found[case], state))
    caller.monitor.stop()
    return {
        case: {**_spreads(taken), "sweep": spread(sweeps[case])} for case, taken in found.items()
    }


def calls_with_loops(url, *, runs, loops, sweeps):
    """In sweeps that fail, without and with loops that wait for their runs; and those sweeps."""
    caller, control = _Caller(url, runs), Control(url)
    control("refuse", status=402)
    caller.monitor.poll_now()  # a loop waits for a run that fails
    found = {}
    for case in ("without", "with"):
        taken = {name: [] for name in METHODS}
        seconds = [caller.during_sweep(taken, "failing") for _ in range(sweeps)]
        found[case] = {**_spreads(taken), "sweep": spread(seconds)}
        if case == "without":
            for handle in caller.handles[:loops]:
                threading.Thread(target=_wait, args=(handle,), name="loop", daemon=True).start()
            time.sleep(1.0)
    caller.monitor.stop()
    return found


def _wait(handle):
    try:
        handle.wait(None)
    except Exception:
        return


def status_of_all(url, *, runs, repeats, seconds=3.0):
    """Seconds of `status()` of all runs, and of one call beside it."""
    caller = _Caller(url, runs)
    caller.monitor.poll_now()
    looks = []
    for _ in range(repeats):
        began = time.perf_counter()
        found = caller.monitor.status()
        looks.append(time.perf_counter() - began)
        assert len(found) >= runs
        del found
    over = threading.Event()

    def ask():
        while not over.is_set():
            caller.monitor.status()

    threading.Thread(target=ask, name="statuses", daemon=True).start()
    ends_at = time.monotonic() + seconds
    taken = caller.until(lambda: time.monotonic() >= ends_at)
    over.set()
    caller.monitor.stop()
    ratio = median(looks) / _seconds_of_tuples(runs)
    return {"seconds": spread(looks), "ratio": ratio, **_spreads(taken)}


def _seconds_of_tuples(count):
    """How long a list of as many tuples of ten takes, the least that could be made."""
    began = time.perf_counter()
    made = [(each,) * 10 for each in range(count)]
    return (time.perf_counter() - began) * count / len(made)
