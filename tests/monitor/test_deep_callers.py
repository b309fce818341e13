"""Calls from so deep a stack that no room is left: each is refused, or comes about as a whole."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from support.real_threads import QUICK
from support.recorder import PATIENCE
from support.world import RUN

from tinkex.testing import FakeServiceClient

#: How many frames are left for a call at most: with more of them it comes about.
ROOM = 40


def called_deep(room, function):
    """Call a function on a thread on which so many more frames may be entered."""

    def deeper(left):
        return function() if left == 0 else deeper(left - 1)

    def call():
        frame, depth = sys._getframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1
        with suppress(RecursionError):
            deeper(sys.getrecursionlimit() - depth - room)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_recovery_that_a_deep_caller_asks_for_leaves_no_run_half_way(bench):
    monitor = bench.monitor(QUICK)
    run_ids = [f"{room:04}:train:0" for room in range(1, ROOM)]
    for room, run_id in enumerate(run_ids, 1):
        run = monitor.monitor_run(run_id, FakeServiceClient())
        called_deep(room, run.recover)

    bench.server.corrupt(*run_ids)

    for run_id in run_ids:
        bench.told.wait_for("completed", run_id)


@pytest.mark.parametrize("room", range(1, ROOM))
def test_a_sweep_that_a_deep_caller_begins_stops_no_later_one(bench, room):
    monitor = bench.monitor(QUICK)
    monitor.monitor_run(RUN, FakeServiceClient())

    called_deep(room, monitor.poll_now)

    bench.server.wait_for_more_polls(RUN)
    called_deep(500, monitor.poll_now)


def test_a_look_that_a_deep_caller_asks_for_keeps_no_other_run_from_its_recovery(bench):
    policy = replace(QUICK, poll_interval=1000.0, confirm_within=0.0, recover_on="corrupted")
    monitors = [bench.monitor(policy) for _ in range(ROOM)]
    # The first call is not deep: it makes what later ones find made, and need no frame for.
    for room, monitor in zip((500, *range(1, ROOM)), monitors, strict=True):
        run = monitor.monitor_run(RUN, FakeServiceClient())
        called_deep(room, partial(run.report_failure, ConnectionResetError()))
    bench.server.hang(RUN)

    polls = [threading.Thread(target=each.poll_now, daemon=True) for each in monitors]
    for poll in polls:
        poll.start()

    bench.join(*polls)
