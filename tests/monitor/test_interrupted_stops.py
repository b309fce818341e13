"""Ctrl-C anywhere in the end of one run: what it has begun goes on to its end."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from support.interrupts import interrupted_at
from support.real_threads import HungService, wait_until
from support.recorder import PATIENCE

from tinkex.errors import MonitorStoppedError
from tinkex.testing import FakeServiceClient


@pytest.mark.parametrize("is_handle", [True, False], ids=["run.stop", "stop_monitoring"])
def test_an_interrupt_as_a_run_is_stopped_loses_neither_its_future_nor_another_run(
    bench, is_handle
):
    monitor = bench.monitor(started=False)
    for place in itertools.count():
        service = HungService()
        run = monitor.monitor_run(f"a{place}:train:0", service)
        other = monitor.monitor_run(f"b{place}:train:0", FakeServiceClient())
        future = run.recover()
        wait_until(service.entered)
        others = other.recover()  # waits for the slot
        stop = run.stop if is_handle else partial(monitor.stop_monitoring, run)

        was_interrupted = interrupted_at(place, stop)

        if run.state != "stopped":
            service.gate.set()
        error = future.exception(PATIENCE)
        assert isinstance(error, MonitorStoppedError) is (run.state == "stopped"), place
        assert others.result(PATIENCE), place
        service.gate.set()
        if not was_interrupted:
            break
    assert run.state == "stopped"
