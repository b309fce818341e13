"""A rest module of the tests' own: accounts with many runs, a list of them, and what ails it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from types import SimpleNamespace

from tinkex import Config
from tinkex.errors import ApiResponseError, ApiStatusError
from tinkex.rest.pages import PageReader

#: Seconds between two sweeps.
EVERY = 10.0


def ids(count, name="run"):
    return [f"{name}{number}:train:0" for number in range(count)]


def account_of(service):
    """A `rest_client_fun`: each service client stands for an account of its own."""
    return SimpleNamespace(config=service.config)


class Tenant:
    """A service client of one account."""

    def __init__(self, service, name="one"):
        self.config = Config(f"tml-{name}", "https://tinker.invalid")
        self.create_training_client_from_state = service.create_training_client_from_state
        self.create_training_client_from_state_with_optimizer = (
            service.create_training_client_from_state_with_optimizer
        )


class Site:
    """Answers for the runs of `listed`; what a list leaves out can still be asked for.

    `total` replaces what pages say of the account's size, `cap` is the most rows of a page,
    `hidden` are in no page, `order` turns the list's rows before each page, `page` may change
    or refuse a page: it gets its rows and offset.
    """

    def __init__(self, listed, *, total="right", cap=500, hidden=(), order=None, page=None):
        self.listed = list(listed)
        self.total = total
        self.cap = cap
        self.hidden = set(hidden)
        self.order = order or list
        self.page = page or (lambda rows, offset: rows)
        self.corrupted = set()
        self.rows = defaultdict(dict)
        self.lists = []
        self.gets = Counter()
        self.get_errors = {}
        self.accounts = Counter()

    @property
    def requests(self):
        return len(self.lists) + self.gets.total()

    def forget_calls(self):
        """Count from here on."""
        self.lists.clear()
        self.gets.clear()
        self.accounts.clear()

    def row(self, run_id):
        path = f"tinker://{run_id}/weights/000001"
        return {
            "training_run_id": run_id,
            "base_model": "any",
            "corrupted": run_id in self.corrupted,
            "last_checkpoint": {"tinker_path": path, "time": "2026-01-01T00:00:00Z"},
            **self.rows[run_id],
        }

    def get_training_run(self, config, run_id):
        self.gets[run_id] += 1
        self.accounts[config] += 1
        if run_id in self.get_errors:
            raise self.get_errors[run_id]
        if run_id not in self.listed and not run_id.startswith("fake:"):
            raise ApiStatusError.of(404)
        return self.row(run_id)

    def list_training_runs(self, config, *, limit, offset):
        self.lists.append((offset, limit))
        self.accounts[config] += 1
        shown = [run_id for run_id in self.order(self.listed) if run_id not in self.hidden]
        size = min(limit, self.cap)
        rows = [self.row(run_id) for run_id in shown[offset : offset + size]]
        total = len(shown) if self.total == "right" else self.total
        return SimpleNamespace(training_runs=self.page(rows, offset), total_count=total)


class TextSite(Site):
    """The same, whose pages are texts, read as those of the real server are."""

    compact = (",", ":")

    def read_training_runs(self, config, *, limit, offset):
        page = self.list_training_runs(config, limit=limit, offset=offset)
        found = {"training_runs": page.training_runs, "cursor": {"total_count": page.total_count}}
        text = json.dumps(found, separators=self.compact)
        return PageReader(text.encode(), lambda: ApiResponseError("no page"))


class WideTextSite(TextSite):
    """The same, with spaces between the parts of its texts."""

    compact = None


def refuses(error):
    def page(rows, offset):
        raise error

    return page


def watch(world, site, monitored, tenant=None, monitor=None, **policy):
    """Monitor these runs of an account; each sweep is one `world.fake.advance(EVERY)`."""
    tenant = tenant or Tenant(world.service)
    options = {"rest_module": site, "rest_client_fun": account_of}
    monitor = monitor or world.monitor(options=options, poll_interval=EVERY, **policy)
    runs = [monitor.monitor_run(run_id, tenant) for run_id in monitored]
    return monitor, runs


def sweep(world, site, count=1):
    """Sweep, and give the number of requests of the last one."""
    for _ in range(count):
        site.forget_calls()
        world.fake.advance(EVERY)
    return site.requests


def not_polled(monitor, since):
    """The runs that the last sweeps said nothing of."""
    return [s.run_id for s in monitor.status() if s.last_poll is None or s.last_poll <= since]


def assert_all_are_polled(world, site, monitor, sweeps=4):
    """Each sweep brings news of every run, and no run is thought to fail or be gone."""
    for _ in range(sweeps):
        before = [s.last_poll for s in monitor.status() if s.last_poll is not None]
        sweep(world, site)
        assert not before or not_polled(monitor, max(before)) == []
    assert {status.state for status in monitor.status()} == {"healthy"}
    assert world.events.names == []


def assert_each_is_recovered(world, site, runs):
    """Whichever run is corrupted, the next sweep sees it."""
    for run in runs:
        site.corrupted.add(run.run_id)
        world.fake.advance(EVERY)
        assert run.status().recoveries == 1, run
