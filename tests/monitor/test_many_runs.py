"""Many runs at once: the same every time, and no more work for each than for one."""

from __future__ import annotations

import sys

import pytest
from support.world import ManualExecutor, World

from tinkex import signals
from tinkex.errors import (
    ApiStatusError,
    ApiTimeoutError,
)
from tinkex.testing import InlineExecutor

pytestmark = pytest.mark.usefixtures("no_environment")


def eventful(world):
    """A scenario with failures, backoffs, several runs and a second generation."""
    for number in range(6):
        world.corrupt(f"{number}:train:0", "a", "b")
    world.rest.set_run("7:train:0")
    world.service.fail(ConnectionResetError("gone"), times=4)
    world.service.fail(ApiStatusError.of(400, "does not load"))
    world.service.fail(ApiStatusError.of(429, retry_after=7.0), times=2)
    world.rest.fail(ApiTimeoutError("slow"), times=3)
    monitor = world.monitor(max_attempts=2)
    runs = [monitor.monitor_run(f"{number}:train:0", world.service) for number in range(8)]
    world.fake.advance(45)
    for run in runs[:2]:
        world.corrupt(run.run_id)
    world.fake.advance(200)
    told = [
        (
            event.name,
            event.run_id,
            getattr(event, "attempt", None),
            getattr(event, "retry_in", None),
            str(getattr(event, "error", None)),
            getattr(event, "successor_id", None),
        )
        for event in world.events.events
    ]
    return told, [status.state for status in monitor.status()], world.rest.calls


def test_the_same_scenario_run_twice_does_the_same():
    outcomes = []
    for _ in range(2):
        world = World()
        with signals.subscribe(world.events):
            outcomes.append(eventful(world))

    assert outcomes[0] == outcomes[1]
    assert {"failed", "completed", "exhausted", "poll_error", "missing"} <= {
        name for name, *_ in outcomes[0][0]
    }


class CountedId(str):
    """A run id whose comparisons are calls that can be counted."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return str.__eq__(self, other)


def calls_made(function):
    """How many functions were called, ours and built-in ones."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def dispatch(number, pool, measured=lambda function: function()):
    """Have so many runs corrupted at once; what `measured` made of it, and the events."""
    world = World()
    monitor = world.monitor(pool)
    for n in range(number):
        run_id = CountedId(f"{n}:train:0")
        world.corrupt(run_id)
        monitor.monitor_run(run_id, world.service)

    def everything():
        world.fake.advance(10)
        while getattr(pool, "waiting", ()):
            pool.run_next()

    with signals.subscribe(world.events):
        outcome = measured(everything)
    return outcome, world.events


POOLS = pytest.mark.parametrize(
    "make_pool", [ManualExecutor, InlineExecutor], ids=["queued", "at once"]
)


@POOLS
def test_the_work_for_runs_that_are_corrupted_at_once_grows_with_their_number(make_pool):
    few, _ = dispatch(50, make_pool(), calls_made)
    many, _ = dispatch(500, make_pool(), calls_made)

    assert many < 1.1 * (500 / 50) * few


@pytest.mark.large
@POOLS
def test_five_thousand_runs_that_are_corrupted_at_once_are_all_recovered(make_pool):
    _, events = dispatch(5_000, make_pool())

    ids = {f"{n}:train:0" for n in range(5_000)}
    for name in ("detected", "started", "completed"):
        assert len(events.of(name)) == 5_000
        assert {event.run_id for event in events.of(name)} == ids
