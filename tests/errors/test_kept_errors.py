"""Errors that are kept and shown hold nothing of the calls that they came from."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
from support.http_servers import Stub, as_json
from support.world import RUN

from tinkex import Config
from tinkex.errors import causes
from tinkex.testing import FakeServiceClient

KEY = "tml-0123456789abcdef-secret"


def framed(error):
    """Those of an error's chain that hold stack frames."""
    return [each for each in causes(error) if each.__traceback__ is not None]


def wrapped():
    try:
        raise KeyError("inside")
    except KeyError as inner:
        raise RuntimeError("outside") from inner


FAILURES = {
    "an error of a library": wrapped,
    "a group": lambda: (_ for _ in ()).throw(ExceptionGroup("two", [ValueError(), KeyError()])),
}

failures = pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)


@failures
def test_a_poll_error_holds_no_stack_frames(world, fail):
    world.rest.get_training_run = lambda config, run_id: fail()
    monitor = world.monitor()
    monitor.monitor_run(RUN, world.service)

    world.fake.advance(10.0)

    assert framed(world.events.one("poll_error").error) == []
    assert framed(monitor.status(RUN).last_error) == []


@failures
def test_a_failed_attempt_and_the_error_that_ends_it_hold_none(world, fail):
    failed = []

    class Fails(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, **options):
            fail()

    world.corrupt()
    monitor = world.monitor(on_failure=lambda run_id, error: failed.append(error), max_attempts=2)
    run = monitor.monitor_run(RUN, Fails())
    world.fake.advance(10.0)
    world.fake.advance(60.0)

    told = [event.error for name in ("failed", "exhausted") for event in world.events.of(name)]
    assert run.state == "exhausted"
    assert len(failed) == 1
    assert [framed(error) for error in (*told, *failed, run.status().last_error)] == [[]] * 5


def test_an_error_of_a_training_loop_reaches_its_caller_with_its_frames(world):
    world.rest.set_run(RUN)
    run = world.monitor(confirm_within=1.0).monitor_run(RUN, world.service)
    try:
        wrapped()
    except RuntimeError as caught:
        error = caught
    before = [each.__traceback__ for each in causes(error)]

    run.report_failure(error)

    assert [each.__traceback__ for each in causes(error)] == before
    assert None not in before


@pytest.mark.parametrize("runs", [1, 40], ids=["asked for alone", "listed"])
def test_what_its_caller_was_handling_just_then_keeps_its_frames(world, runs):
    def fails(config, run_id=None, **page):
        raise ConnectionError("no")

    world.rest.get_training_run = world.rest.list_training_runs = fails
    monitor = world.monitor()
    for number in range(runs):
        monitor.monitor_run(f"s:train:{number}", world.service)
    with pytest.raises(KeyError, match="a step"):
        try:
            raise KeyError("a step that failed")
        finally:
            world.fake.advance(10.0)
            frames = sys.exception().__traceback__

    assert frames is not None
    assert world.events.of("poll_error")


def test_the_place_of_a_bug_is_told_in_the_log(world, caplog):
    caplog.set_level(logging.DEBUG)
    world.rest.get_training_run = lambda config, run_id: wrapped()
    world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10.0)

    assert "in wrapped" in caplog.text


def test_an_answer_that_does_not_fit_is_let_go(world):
    stub = Stub()
    stub.will(as_json({"training_run_id": RUN, "base_model": "m", "corrupted": "perhaps"}))
    config = Config(KEY, stub.url)
    given = {"rest_module": None, "rest_client_fun": lambda _: SimpleNamespace(config=config)}
    monitor = world.monitor(options=given)
    monitor.monitor_run(RUN, world.service)

    world.fake.advance(10.0)
    stub.close()

    assert framed(world.events.one("poll_error").error) == []
    monitor.stop()
