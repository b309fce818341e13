"""Errors that cannot be shown or read: they are told of like any other, by their class's name."""

from __future__ import annotations

import pytest
from support.world import OTHER, RUN

from tinkex.errors import ServiceError


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("no text for you")


class NotTextError(Exception):
    def __str__(self):
        return 7  # noqa: PLE0307 (that is the error)


class Unshowable:
    def __repr__(self):
        raise ValueError("no repr for you")


class ClosedError(Exception):
    @property
    def status_code(self):
        raise RuntimeError("the answer was closed")


class ImpatientError(Exception):
    @property
    def retry_after(self):
        raise RuntimeError("the answer was closed")


def caused(cause):
    error = LookupError("a plain one")
    error.__cause__ = cause
    return error


ERRORS = {
    "its text raises": UnprintableError,
    "its text is none": NotTextError,
    "its argument cannot be shown": lambda: LookupError(Unshowable()),
    "an attribute raises": ClosedError,
    "another attribute raises": ImpatientError,
    "its cause's text raises": lambda: caused(UnprintableError()),
    "it is in a group": lambda: ExceptionGroup("two", [UnprintableError(), ClosedError()]),
}

unreadable = pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)


@unreadable
def test_a_poll_that_raises_it_is_told_of_and_the_run_is_failing(world, caplog, make):
    monitor = world.monitor()
    for run_id in (RUN, OTHER):
        world.rest.set_run(run_id)
        monitor.monitor_run(run_id, world.service)
    world.rest.fail(make(), times=1)

    world.fake.advance(10.0)

    event = world.events.one("poll_error")
    assert isinstance(event.error, ServiceError)
    assert type(make()).__name__ in str(event.error)
    assert monitor.status(event.run_id).state == "failing"
    assert "poll_error" in caplog.text
    assert "could not be dealt with" not in caplog.text


@unreadable
def test_a_page_that_raises_it_hides_no_run(world, make):
    def refuses(config, *, limit, offset):
        raise make()

    world.rest.list_training_runs = refuses
    monitor = world.monitor()
    for number in range(40):
        world.rest.set_run(f"s:train:{number}")
        monitor.monitor_run(f"s:train:{number}", world.service)

    world.fake.advance(20.0)

    assert all(each.last_poll is not None for each in monitor.status())


@unreadable
def test_an_attempt_that_meets_it_is_made_again(world, make):
    world.corrupt()
    world.service.fail(make())
    monitor = world.monitor(backoff=1.0)
    run = monitor.monitor_run(RUN, world.service)

    world.fake.advance(30.0)

    assert isinstance(world.events.one("failed").error, ServiceError)
    assert run.state == "healthy"
    assert len(run.lineage) == 2


@unreadable
def test_a_list_of_checkpoints_that_raises_it_stops_no_recovery(world, make):
    def list_checkpoints(config, run_id):
        raise make()

    world.corrupt()
    world.rest.list_checkpoints = list_checkpoints
    run = world.monitor().monitor_run(RUN, world.service)

    world.fake.advance(10.0)

    assert len(run.lineage) == 2


@unreadable
def test_a_training_loop_that_reports_it_has_its_run_looked_at(world, make):
    world.rest.set_run(RUN)
    monitor = world.monitor(confirm_within=1.0)
    run = monitor.monitor_run(RUN, world.service)

    assert run.report_failure(make()) is False

    assert run.state == "healthy"
