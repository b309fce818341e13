"""What a monitor keeps over a month in which accounts fail: nothing that grows."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from collections import Counter, deque
from concurrent.futures import Future
from types import FrameType, FunctionType, SimpleNamespace, TracebackType

from support.http_servers import KEY, RUN_JSON, Stub, as_json
from support.world import RUN, ManualExecutor

from tinkex import Config, Monitor, Policy
from tinkex.errors import ApiConnectionError, ApiStatusError
from tinkex.testing import FakeScheduler, FakeServiceClient, InlineExecutor

HOUR = 3600.0
#: What anything that is kept lies in; other tests of this process leave a few behind, too.
CONTAINERS = {dict, list, tuple, deque, Future, FrameType, TracebackType, FunctionType}

ACCOUNTS = ("refused", "now-and-then", "down", "recovered")


class RefusalError(ApiStatusError):
    """An error with a large body."""

    def __init__(self, status):
        super().__init__(status, f"no {status}")
        self.body = bytearray(10_000)


class DownError(ApiConnectionError):
    """The same of a server that does not answer."""

    def __init__(self):
        super().__init__("the server is down")
        self.body = bytearray(10_000)


class Accounts:
    """A rest module of several accounts, two runs each; `failing` has the status of each."""

    def __init__(self):
        self.failing = {}
        self.corrupted = set()

    def get_training_run(self, config, run_id):
        self._check(config)
        last = {"tinker_path": f"tinker://{run_id}/weights/000001"}
        is_corrupted = run_id in self.corrupted
        return {"training_run_id": run_id, "corrupted": is_corrupted, "last_checkpoint": last}

    def list_checkpoints(self, config, run_id):
        self._check(config)
        return []

    def _check(self, config):
        status = self.failing.get(config.api_key)
        if status is not None:
            raise DownError() if status == 0 else RefusalError(status)


class Month:
    """A monitor of the accounts, on a clock of its own."""

    def __init__(self):
        self.fake, self.rest = FakeScheduler(), Accounts()
        self.monitor = Monitor(
            Policy(enabled=True, poll_interval=HOUR / 2),
            rest_module=self.rest,
            executor=InlineExecutor(),
            scheduler=self.fake,
            rest_client_fun=lambda service: service,
        ).start()
        for account in ACCOUNTS:
            service = self._service(account)
            for number in range(2):
                run = self.monitor.monitor_run(f"{account}-{number}:train:0", service)
        self.recovered, self.service = run, service

    def _service(self, account):
        service = FakeServiceClient()
        service.config = Config(account)
        return service

    def day(self):
        """One account is always refused, one at times, one is down at times; a run is lost."""
        self.rest.failing["refused"] = 402
        for hour in range(24):
            self.rest.failing["now-and-then"] = (401, None)[hour // 3 % 2]
            self.rest.failing["down"] = (0, 500)[hour % 2] if hour < 20 else None
            self.rest.failing["recovered"] = 403 if 6 <= hour < 18 else None
            self.rest.corrupted = {self.recovered.run_id} if hour in (4, 5, 20) else set()
            self.fake.advance(HOUR)
            self.service.clients.clear()
            self.service.created.clear()
            if self.recovered.state == "exhausted":
                self.monitor.monitor_run(self.recovered.run_id, self.service)


def kept():
    """How many objects of ours and containers are alive, by type, and how many errors."""
    gc.collect()
    found = gc.get_objects()
    errors = [each for each in found if type(each) in (RefusalError, DownError)]
    kinds = map(type, found)
    ours = (
        each for each in kinds if each in CONTAINERS or str(each.__module__).startswith("tinkex")
    )
    return Counter(each.__name__ for each in ours), len(errors)


def test_a_month_of_failing_accounts_leaves_as_much_behind_as_a_week(caplog):
    caplog.set_level(logging.CRITICAL, logger="tinkex")  # what is logged would be kept
    month = Month()
    for _ in range(7):
        month.day()
    week, week_errors = kept()

    for _ in range(23):
        month.day()
    later, errors = kept()

    assert len(month.recovered.lineage) > 30
    # A lineage, which grows with each recovery, is what a user asks for.
    # What is kept of each hour would be 552 more; threads of other tests may have some meanwhile.
    grown = {name for name in later if later[name] > week[name] + 100}
    assert grown <= {"Generation", "Checkpoint"}
    assert errors <= week_errors + 2 <= 20
    assert len(month.fake.pending) < 20


def test_an_account_that_is_refused_and_works_again_costs_no_thread_and_no_descriptor():
    server = Stub()
    service = FakeServiceClient()
    config = Config(KEY, server.url)
    options = {"rest_client_fun": lambda _: SimpleNamespace(config=config)}
    with Monitor(Policy(enabled=True, poll_interval=HOUR), **options) as monitor:
        monitor.monitor_run(RUN_JSON["training_run_id"], service)
        counts = []
        for _ in range(4):
            for _ in range(5):
                for answer in (as_json({}, 402), (200, {}, b"no JSON"), as_json(RUN_JSON)):
                    server.will(answer)
                    monitor.poll_now()
            counts.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    server.close()

    # Other tests of this process may have left some; of ours there were 30 polls more.
    assert all(last < early + 10 for early, last in zip(counts[1], counts[-1], strict=True))


def test_a_month_of_real_requests_leaves_as_many_descriptors_and_threads_as_a_week():
    server, fake = Stub(), FakeScheduler()
    keys = {}
    options = {"rest_client_fun": lambda service: SimpleNamespace(config=keys[service])}
    service = FakeServiceClient()
    bad = [as_json({}, 402), (200, {}, b"no JSON"), (404, {"Connection": "close"}, b"gone")]
    counts = []
    monitor = Monitor(Policy(enabled=True, poll_interval=HOUR), scheduler=fake, **options).start()
    for day in range(30):
        keys[service] = Config(f"{KEY}-{day}", server.url)  # renewed each day
        monitor.monitor_run(RUN_JSON["training_run_id"], service)
        for answer in (*bad, as_json(RUN_JSON)):
            server.will(answer)
            fake.advance(6 * HOUR)
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    requests = len(server.requests)
    monitor.stop()
    server.close()

    assert requests > 30 * 10
    # Other tests of this process may leave some behind; each day had a key of its own.
    assert all(month < week + 5 for week, month in zip(counts[6], counts[-1], strict=True))


def test_a_recovery_that_was_joined_and_is_over_keeps_no_client(world):
    world.corrupt()
    pools = [ManualExecutor() for _ in range(2)]
    monitors = [world.monitor(each) for each in pools]
    runs = [each.monitor_run(RUN, world.service) for each in monitors]
    world.fake.advance(10)
    for each in pools:
        while each.waiting:
            each.run_next()
    client = weakref.ref(world.service.clients[0])
    assert [each.client for each in runs] == [client(), client()]

    for each in monitors:
        each.stop_monitoring(RUN)
    world.service.clients.clear()
    world.events.events.clear()
    runs.clear()
    gc.collect()

    assert client() is None
