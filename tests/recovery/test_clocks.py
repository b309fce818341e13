"""Clocks that are wrong or are set: the server's says what has expired; durations stay right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from support.http_servers import Stub, as_json
from support.world import RUN, Recorder, weights

from tinkex import Config, Monitor, Policy, RecoveryExecutor, rest, signals
from tinkex.runtime import scheduler
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

LONG_AGO = "2001-02-03T00:00:00Z"
HOURS = timedelta(hours=1)


# The server's clock


@pytest.fixture
def server():
    """A server whose clock is eight hours behind ours, with one run and two checkpoints."""
    stub = Stub()
    now = datetime.now(UTC)
    stub.clock = now - 8 * HOURS
    handler = stub.server.RequestHandlerClass
    handler.date_time_string = lambda self, timestamp=None: format_datetime(stub.clock, usegmt=True)
    newest = {"tinker_path": weights("new"), "expires_at": (now - 2 * HOURS).isoformat()}
    listed = [{"tinker_path": weights("old")}, newest]
    run = {"training_run_id": RUN, "corrupted": True, "last_checkpoint": newest}

    def answer(handler):
        is_list = handler.path.split("?")[0].endswith("/checkpoints")
        status, headers, body = as_json({"checkpoints": listed} if is_list else run)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    stub.run = run
    stub.will(answer)
    yield stub
    stub.close()


def service_at(server):
    service = FakeServiceClient()
    service._base_url = server.url
    return service


def begun(server, **policy):
    """A monitor of the server's run through the default REST module, and its events."""
    clock, service, events = FakeScheduler(), service_at(server), Recorder()
    policy = Policy(enabled=True, poll_interval=10.0, **policy)
    monitor = Monitor(policy, executor=InlineExecutor(), scheduler=clock).start()
    subscription = signals.subscribe(events, sender=monitor)
    monitor.monitor_run(RUN, service)
    clock.advance(10.0)
    subscription.close()
    monitor.stop()
    return service, events


def test_a_checkpoint_that_is_good_by_the_servers_clock_is_restored_whatever_ours_says(server):
    service, _ = begun(server)

    assert service.created == [(weights("new"), True)]


def test_one_that_has_expired_by_the_servers_clock_is_not_the_first(server):
    server.clock += 7 * HOURS

    service, _ = begun(server)

    assert service.created == [(weights("old"), True)]


def test_a_recovery_without_a_monitor_looks_at_the_servers_clock_too(server):
    service = service_at(server)
    executor = RecoveryExecutor(InlineExecutor(), scheduler=FakeScheduler())

    executor.recover(RUN, service, Policy(enabled=True)).result(0)

    assert service.created == [(weights("new"), True)]


def test_a_run_is_not_told_of_as_unprotected_where_only_our_clock_says_so(server):
    server.run["corrupted"] = False

    assert begun(server)[1].names == []
    server.clock += 5.75 * HOURS
    (told,) = begun(server)[1].of("unprotected")

    assert told.checkpoint.tinker_path == weights("new")


def test_the_servers_time_is_known_from_its_last_answer_and_costs_no_request(server):
    client, config = rest.RestClient(), Config("tml-key", server.url)

    assert client.server_time(config) is None
    client.get_training_run(config, RUN)
    told = client.server_time(config)
    client.close()

    assert timedelta(0) <= told - server.clock.replace(microsecond=0) < HOURS
    assert len(server.requests) == 1


@pytest.mark.parametrize("told", [None, "noon", datetime(2026, 1, 1), OSError("no clock")])
def test_a_module_that_tells_no_proper_time_leaves_it_to_our_clock(world, recover, told):
    class Telling(FakeRest):
        def server_time(self, config):
            if isinstance(told, Exception):
                raise told
            return told

    world.rest = Telling()
    expired = {"tinker_path": weights("b"), "expires_at": LONG_AGO}
    world.rest.set_run(RUN, corrupted=True, checkpoints=[weights("a"), expired])

    assert recover().result(0).checkpoint.tinker_path == weights("a")


# What has expired by the only clock at hand


def test_what_has_expired_is_tried_before_a_run_is_given_up(world, recover):
    expired = {"tinker_path": weights("a"), "expires_at": LONG_AGO}
    world.rest.set_run(RUN, corrupted=True, last_checkpoint=expired)

    assert recover().result(0).checkpoint.tinker_path == weights("a")


def test_what_a_successor_was_made_from_goes_before_its_expired_checkpoints(world, recover):
    expired = {"tinker_path": weights("late"), "expires_at": LONG_AGO}
    source = {"tinkex_checkpoint": weights("source", "elder:train:0")}
    world.rest.set_run(RUN, corrupted=True, last_checkpoint=expired, user_metadata=source)

    assert recover().result(0).checkpoint.tinker_path == source["tinkex_checkpoint"]


def test_older_generations_are_asked_for_what_has_not_expired(world):
    run = world.monitor().monitor_run(RUN, world.service)
    world.corrupt(RUN, "first")
    world.fake.advance(10.0)
    expired = {"tinker_path": weights("second", run.run_id), "expires_at": LONG_AGO}
    world.rest.set_run(run.run_id, corrupted=True, last_checkpoint=expired)
    plan = run.plan()
    world.fake.advance(10.0)

    assert [each.is_expired for each in plan.candidates] == [False, True]
    assert [path for path, _ in world.service.created] == [weights("first")] * 2


# A clock that is set


@pytest.fixture
def wall(monkeypatch):
    """The clock on the wall, which a test may set, over a scheduler that has none of its own."""
    made = SimpleNamespace(fake=FakeScheduler(), ahead=timedelta(0), rest=FakeRest())
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    read = SimpleNamespace(now=lambda zone: noon + timedelta(seconds=made.fake.now()) + made.ahead)
    monkeypatch.setattr(scheduler, "datetime", read)
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(monotonic=made.fake.now))

    class Timers:
        wait = made.fake.wait

        def __call__(self, interval, function):
            return made.fake(interval, function)

    made.monitor = Monitor(
        Policy(enabled=True, poll_interval=100.0),
        rest_module=made.rest,
        executor=InlineExecutor(),
        scheduler=Timers(),
    ).start()
    made.run = made.monitor.monitor_run(RUN, FakeServiceClient())
    made.events = Recorder()
    with signals.subscribe(made.events, sender=made.monitor):
        yield made
    made.monitor.stop()


@pytest.mark.parametrize("hours", [-8, 8], ids=["back", "ahead"])
def test_a_run_is_unprotected_after_as_long_as_ever_when_the_clock_is_set(wall, hours):
    wall.rest.set_run(RUN)
    wall.fake.advance(1_000)

    wall.ahead = hours * HOURS
    wall.fake.advance(700)
    assert wall.events.names == []
    wall.fake.advance(100)
    assert wall.events.names == ["unprotected"]
    wall.ahead = -hours * HOURS
    wall.fake.advance(1_700)
    assert wall.events.names == ["unprotected"]
    wall.fake.advance(100)

    assert wall.events.names == ["unprotected", "unprotected"]


@pytest.mark.parametrize("hours", [-8, 8], ids=["back", "ahead"])
def test_a_generation_lasts_as_long_as_it_did_when_the_clock_is_set(wall, hours):
    wall.rest.set_run(RUN)
    wall.fake.advance(300)
    wall.ahead = hours * HOURS
    wall.rest.set_run(RUN, corrupted=True, last_checkpoint=weights("a"))
    wall.fake.advance(100)
    first, live = wall.run.lineage

    assert first.ended_at - first.started_at == timedelta(seconds=400)
    assert live.started_at == first.ended_at
