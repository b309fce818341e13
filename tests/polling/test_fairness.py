"""With real threads: an account that hangs holds up no other, and a slow list no sweep."""

from __future__ import annotations

import logging
import threading
from collections import Counter

import pytest
from support.recorder import PATIENCE, Recorder
from support.sites import Site, Tenant, account_of, ids

from tinkex import Monitor, Policy, signals
from tinkex.runs.run_map import RunMap
from tinkex.testing import FakeScheduler, FakeServiceClient

SELDOM = Policy(enabled=True, poll_interval=1000.0)
OFTEN = Policy(enabled=True, poll_interval=1.0)

#: So many polls of one account may hang for good.
MOST_HUNG = 32


class Hanging(Site):
    """Requests about `hung` runs, or to `hung` accounts, hang until `gate` is opened."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hung = set()
        self.gate = threading.Event()
        self.asked = Counter()
        self.threads = set()
        self._changed = threading.Condition()

    def _pass(self, *keys):
        with self._changed:
            self.asked.update(keys)
            self.threads.add(threading.get_ident())
            self._changed.notify_all()
            while self.hung.intersection(keys) and not self.gate.is_set():
                assert self._changed.wait(3 * PATIENCE)

    def get_training_run(self, config, run_id):
        self._pass(run_id, config)
        return super().get_training_run(config, run_id)

    def list_training_runs(self, config, *, limit, offset):
        self._pass("page", offset, config)
        return super().list_training_runs(config, limit=limit, offset=offset)

    def let_go(self, keys=None):
        """Answer what hangs: these, or all for good."""
        with self._changed:
            if keys is None:
                self.gate.set()
            self.hung.difference_update(keys or ())
            self._changed.notify_all()

    def wait_until_asked(self, key, count=1):
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked[key] >= count, PATIENCE), self.asked

    def holds_soon(self, predicate):
        """Whether that comes true before no request has come for a moment."""
        with self._changed:
            before = -1
            while before != self.asked.total():
                before = self.asked.total()
                if self._changed.wait_for(predicate, 0.1):
                    return True
            return False


class Setting:
    """A monitor of several tenants' runs at one site, on a clock that the test moves."""

    def __init__(self, site, stack, **options):
        self.site, self.told = site, Recorder()
        self.fake = ThreadedTime()
        site.now = self.fake.now
        options.setdefault("policy", SELDOM)
        self.monitor = Monitor(
            rest_module=site,
            rest_client_fun=account_of,
            scheduler=self.fake,
            poll_workers=8,
            **options,
        )
        stack.append(self)
        self.subscription = signals.subscribe(self.told, sender=self.monitor)
        self.monitor.start()

    def watch(self, name, run_ids):
        tenant = Tenant(FakeServiceClient(), name)
        for run_id in run_ids:
            self.monitor.monitor_run(run_id, tenant)
        return tenant.config

    def advance_until(self, predicate, *, within):
        """Let seconds pass one by one until then; say whether it took no more than `within`."""
        return any(self.site.holds_soon(predicate) or self.advance() for _ in range(within))

    def advance(self):
        self.fake.advance(1.0)
        self.site.let_go(())

    def advance_until_asked(self, key, count, *, within):
        return self.advance_until(lambda: self.site.asked[key] >= count, within=within)

    def close(self):
        self.site.let_go()
        self.monitor.stop()
        self.subscription.close()


class ThreadedTime:
    """The time of a `FakeScheduler`, moved by the test while polls run on threads."""

    def __init__(self):
        self._fake = FakeScheduler()
        self._lock = threading.RLock()

    def __call__(self, interval, function):
        with self._lock:
            return _Timer(self._lock, self._fake(interval, function))

    def now(self):
        return self._fake.now()

    def advance(self, seconds):
        with self._lock:
            self._fake.advance(seconds)


class _Timer:
    def __init__(self, lock, timer):
        self._lock, self._timer = lock, timer

    def start(self):
        with self._lock:
            self._timer.start()

    def cancel(self):
        with self._lock:
            self._timer.cancel()


@pytest.fixture
def settings():
    made = []
    yield lambda site, **options: Setting(site, made, **options)
    for each in made:
        each.close()


def test_a_silent_account_does_not_starve_another(settings):
    silent, other = ids(120, "silent"), ids(1, "other")
    site = Hanging([*silent, *other])
    setting = settings(site, policy=OFTEN)
    site.hung.add(setting.watch("silent", silent))
    setting.watch("other", other)
    site.list_training_runs = None

    for count in range(1, 6):
        assert setting.advance_until_asked(other[0], count, within=10)

    assert sum(site.asked[run_id] for run_id in silent) <= MOST_HUNG


def test_an_account_that_hung_gets_no_more_than_half_of_the_workers(settings):
    silent, other = ids(120, "silent"), ids(100, "other")
    site = Hanging([*silent, *other])
    setting = settings(site)
    site.hung.add(setting.watch("silent", silent))
    site.list_training_runs = None
    setting.fake.advance(1000.0)
    site.wait_until_asked(silent[7])

    for more in (4, 8, 12):
        setting.fake.advance(1.0)
        site.wait_until_asked(silent[7 + more])
        assert sum(site.asked[run_id] for run_id in silent) == 8 + more


def test_many_polls_that_hang_for_good_are_told_of_and_end_no_sweep_of_others(settings, caplog):
    hung, other = ids(200, "hung"), ids(3, "other")
    site = Hanging([*hung, *other])
    site.list_training_runs = None
    setting = settings(site, policy=OFTEN)
    site.hung.add(setting.watch("hung", hung))
    setting.watch("other", other)

    with caplog.at_level(logging.ERROR):
        for count in range(1, 16):
            assert setting.advance_until_asked(other[2], count, within=10)
        setting.told.wait_for("poll_error", hung[199])

    assert sum(site.asked[run_id] for run_id in hung) == MOST_HUNG
    assert len(site.threads) <= MOST_HUNG + 8
    assert setting.monitor.status(hung[199]).state == "failing"
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "32 polls hang for more than 5 s in the rest module" in errors[0]


def test_no_outage_is_seen_where_polls_only_hang_in_a_foreign_module(settings):
    hung = ids(60, "hung")
    site = Hanging(hung)
    site.list_training_runs = None
    setting = settings(site, policy=OFTEN)
    site.hung.add(setting.watch("hung", hung))
    last = setting.monitor.monitor_run(hung[59], Tenant(FakeServiceClient(), "hung"))
    assert setting.advance_until(lambda: last.state == "failing", within=40)

    error = setting.monitor.status(hung[59]).last_error

    assert "not polled" in str(error)
    assert type(error).__name__ == "RestError"


def test_a_slow_first_page_ends_the_sweep_and_its_list_goes_on_by_itself(settings):
    runs, other = ids(1900, "slow"), ids(20, "other")
    site = Hanging(runs)
    setting = settings(site)
    slow = setting.watch("slow", runs)
    site.hung.add(slow)

    setting.fake.advance(1000.0)
    site.wait_until_asked(slow)
    setting.fake.advance(1.0)
    setting.told.wait_for("swept")
    site.let_go()
    site.wait_until_asked("page", 4)
    setting.fake.advance(0.01)
    setting.monitor.poll_now()

    assert site.gets.total() == 0
    assert {s.state for s in setting.monitor.status()} == {"healthy"}
    assert all(s.last_poll is not None for s in setting.monitor.status())
    assert other


def test_a_list_that_hangs_has_its_runs_asked_for_one_by_one_at_the_next_sweep(settings):
    runs = ids(30)
    site = Hanging(runs)
    site.hung.add("page")
    setting = settings(site, policy=OFTEN)
    setting.watch("one", runs)
    setting.fake.advance(1.0)
    site.wait_until_asked("page")

    setting.fake.advance(1.0)
    setting.fake.advance(1.0)
    for run_id in runs:
        site.wait_until_asked(run_id)

    assert site.asked["page"] == 1


def test_a_list_that_hung_for_longer_than_a_call_may_is_asked_for_again(settings):
    runs = ids(150)
    site = Hanging(runs)
    site.hung.add("page")
    setting = settings(site, policy=OFTEN)
    setting.watch("one", runs)
    assert setting.advance_until_asked(runs[-1], 8, within=24)

    site.let_go(["page"])

    assert setting.advance_until_asked("page", 5, within=24)
    assert {s.state for s in setting.monitor.status()} == {"healthy"}


def test_poll_now_waits_for_an_account_that_hung_and_answers_again(settings):
    runs = ids(5)
    site = Hanging(runs)
    site.list_training_runs = None
    setting = settings(site)
    site.hung.add(setting.watch("one", runs))
    setting.fake.advance(1000.0)
    site.wait_until_asked(runs[4])
    setting.fake.advance(1.0)
    setting.told.wait_for("swept")
    site.let_go()

    setting.monitor.poll_now()

    assert {s.state for s in setting.monitor.status()} == {"healthy"}
    assert min(site.asked[run_id] for run_id in runs) >= 1


def test_runs_that_a_slow_list_never_shows_are_all_asked_for_in_the_end(settings):
    hidden = ids(60, "hidden")
    runs = [*ids(300), *hidden]
    site = Slow(runs, hidden=hidden)
    setting = settings(site, policy=OFTEN)
    setting.watch("one", runs)

    assert setting.advance_until(lambda: all(site.asked[each] for each in hidden), within=200)


class Slow(Hanging):
    """Each request is in flight for one second and a half of the test's time."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.now = None

    def _pass(self, *keys):
        super()._pass(*keys)
        ends = self.now() + 1.5
        with self._changed:
            self._changed.wait_for(lambda: self.gate.is_set() or self.now() >= ends, PATIENCE)


def test_an_account_that_was_late_once_goes_on_beside_two_that_hang_for_good(settings):
    hung = [ids(40, "left"), ids(40, "right")]
    site = Hanging([*hung[0], *hung[1], *ids(1)])
    site.list_training_runs = None
    setting = settings(site, policy=OFTEN)
    setting.watch("late", ids(1))
    site.hung.update(setting.watch(name, runs) for name, runs in zip("lr", hung, strict=True))
    full = [run_id for runs in hung for run_id in runs]
    assert setting.advance_until(lambda: sum(site.asked[i] for i in full) == 64, within=60)
    site.hung.update(ids(1))
    assert setting.advance_until_asked(ids(1)[0], site.asked[ids(1)[0]] + 1, within=10)

    setting.fake.advance(1.5)
    before = site.asked[ids(1)[0]]
    site.let_go(ids(1))

    assert setting.advance_until_asked(ids(1)[0], before + 3, within=60)


def test_a_hundred_accounts_that_hang_for_good_starve_no_other(settings):
    site = Hanging([*ids(100, "hung"), *ids(1)])
    site.list_training_runs = None
    setting = settings(site, policy=OFTEN)
    setting.watch("well", ids(1))
    for run_id in ids(100, "hung"):
        setting.watch(run_id, [run_id])
    site.hung.update(ids(100, "hung"))
    assert setting.advance_until(
        lambda: all(site.asked[each] for each in ids(100, "hung")), within=60
    )

    assert setting.advance_until_asked(ids(1)[0], site.asked[ids(1)[0]] + 3, within=20)


def test_an_interrupt_in_poll_now_leaves_sweeps_that_come(bench, monkeypatch):
    monitor = bench.monitor()
    monitor.monitor_run("one:train:0", FakeServiceClient())
    polled, places = RunMap.polled, []

    def interrupted(runs):
        if threading.current_thread() is threading.main_thread():
            places.append("main")
            raise KeyboardInterrupt
        return polled(runs)

    monkeypatch.setattr(RunMap, "polled", interrupted)

    monitor.poll_now()
    bench.server.wait_for_more_polls("one:train:0", 3)

    assert places == []
