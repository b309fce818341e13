"""The monitor with real threads: what hangs, blocks or raises holds up nothing else."""

from __future__ import annotations

import logging
import queue
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic, perf_counter

import pytest
from real_threads import (
    PATIENCE,
    QUICK,
    HungService,
    Recorder,
    Server,
    path_of,
    wait_until,
)

from tinkex import Monitor, Policy, RecoveryExecutor, signals
from tinkex.errors import (
    ApiTimeoutError,
    AttemptTimeoutError,
    MonitorStoppedError,
)
from tinkex.testing import FakeServiceClient

RUN = "3f0c:train:0"
OTHER = "77aa:train:0"
HEALTHY = tuple(f"healthy:train:{number}" for number in range(20))


class Bench:
    """Monitors with real threads, all of them ended with the test."""

    def __init__(self, stack):
        self._stack = stack
        self._before = set(threading.enumerate())
        self.told = Recorder()
        self.server = Server()
        stack.callback(self.server.release)

    def monitor(self, policy=QUICK, *, started=True, **options):
        options.setdefault("rest_module", self.server)
        monitor = Monitor(policy, **options)
        self._stack.callback(monitor.stop, 0.0)
        self._stack.enter_context(signals.subscribe(self.told, sender=monitor))
        return monitor.start() if started else monitor

    def service(self):
        """A service client that hangs; let go at the end of the test."""
        service = HungService()
        self._stack.callback(service.gate.set)
        return service

    def gate(self):
        gate = threading.Event()
        self._stack.callback(gate.set)
        return gate

    def threads(self):
        """The threads that were made since the test began."""
        return {thread for thread in threading.enumerate() if thread not in self._before}

    def join(self, *threads):
        # One that another thread is just starting cannot be joined yet; it has nothing to do.
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def bench():
    with ExitStack() as stack:
        made = Bench(stack)
        yield made
    # What was hung is free now: a test leaves no thread to the next one.
    made.join(*made.threads())


# Commands and polls


def test_commands_stay_quick_while_polls_attempts_and_receivers_hang(bench):
    blocked = bench.gate()
    hung = [f"hung:train:{number}" for number in range(4)]
    bench.server.hang(*hung)
    bench.server.corrupt(RUN)
    service = bench.service()
    monitor = bench.monitor()
    times = []

    def timed(function, *args):
        began = perf_counter()
        function(*args)
        times.append(perf_counter() - began)

    with signals.subscribe(lambda *_, **__: blocked.wait(PATIENCE), "swept", sender=monitor):
        for run_id in hung:
            monitor.monitor_run(run_id, service)
        monitor.monitor_run(RUN, service)
        wait_until(service.entered)
        for number in range(300):
            timed(monitor.monitor_run, f"new:train:{number}", service)
            timed(monitor.status)
            timed(monitor.status, f"new:train:{number}")
            timed(monitor.stop_monitoring, f"new:train:{number}")
    times.sort()

    assert times[len(times) * 99 // 100] < 0.05


def test_other_runs_are_polled_and_recovered_while_some_polls_hang(bench):
    bench.server.hang("hung:train:0", "hung:train:1", "hung:train:2")
    monitor = bench.monitor()
    for run_id in ("hung:train:0", "hung:train:1", "hung:train:2", *HEALTHY, RUN):
        monitor.monitor_run(run_id, FakeServiceClient())

    bench.server.wait_for_poll("hung:train:2")
    bench.server.corrupt(RUN)
    bench.told.wait_for("completed", RUN)
    bench.server.wait_for_more_polls(HEALTHY[0])

    assert bench.server.polls["hung:train:2"] == 1
    assert len(monitor.status()) == 24


def test_more_hung_polls_than_workers_do_not_stop_the_others(bench):
    hung = [f"hung:train:{number}" for number in range(12)]
    bench.server.hang(*hung)
    monitor = bench.monitor(poll_workers=4, scheduler=Fast())
    for run_id in (*hung, *HEALTHY, RUN):
        monitor.monitor_run(run_id, FakeServiceClient())

    bench.server.wait_for_more_polls(HEALTHY[-1])
    bench.server.corrupt(RUN)

    bench.told.wait_for("completed", RUN)


def test_an_exit_in_a_rest_module_costs_one_poll_and_not_the_run(bench):
    class Exits(Server):
        def get_training_run(self, config, run_id):
            answer = super().get_training_run(config, run_id)
            if run_id == RUN and self.polls[run_id] == 1:
                raise SystemExit(3)
            return answer

    rest = Exits()
    monitor = bench.monitor(rest_module=rest)
    for run_id in (RUN, *HEALTHY):
        monitor.monitor_run(run_id, FakeServiceClient())

    bench.told.wait_for("poll_error", RUN)
    rest.wait_for_more_polls(RUN)
    rest.wait_for_more_polls(HEALTHY[0])

    assert monitor.status(RUN).state == "healthy"


def test_a_receiver_may_call_the_monitor_while_a_sweep_is_under_way(bench):
    monitor = bench.monitor()
    returned = threading.Event()

    def add_another(sender, *, event):
        sender.monitor_run(OTHER, FakeServiceClient())
        sender.poll_now()
        sender.stop_monitoring(RUN)
        returned.set()

    with signals.subscribe(add_another, "completed", sender=monitor):
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(returned)

    assert [status.run_id for status in monitor.status()] == [OTHER]


def test_runs_may_be_given_from_many_threads_at_once(bench):
    monitor = bench.monitor(Policy(enabled=True, poll_interval=60.0))
    service = FakeServiceClient()
    together = threading.Barrier(8)

    def give(thread):
        together.wait(PATIENCE)
        own = [monitor.monitor_run(f"{thread}:train:{n}", service) for n in range(50)]
        return own, monitor.monitor_run(RUN, service)

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(give, range(8)))

    assert len(monitor.status()) == 8 * 50 + 1
    assert len({id(common) for _, common in given}) == 1


def test_poll_now_returns_when_the_monitor_is_stopped_meanwhile(bench):
    bench.server.hang(RUN)
    monitor = bench.monitor(Policy(enabled=True, poll_interval=60.0))
    monitor.monitor_run(RUN, FakeServiceClient())
    asking = threading.Thread(target=monitor.poll_now, daemon=True)
    asking.start()
    bench.server.wait_for_poll(RUN)

    monitor.stop(timeout=0.1)

    bench.join(asking)


class Storm(Server):
    """Every run of the first three generations is corrupted, and some polls fail."""

    def __init__(self, luck):
        super().__init__()
        self._luck = luck

    def get_training_run(self, config, run_id):
        answer = super().get_training_run(config, run_id)
        if self._luck.random() < 0.2:
            raise ConnectionError("no route")
        return {**answer, "corrupted": run_id.count("fake:") < 3}


class Unlucky(FakeServiceClient):
    """A service client that cannot make every client."""

    def __init__(self, luck):
        super().__init__()
        self._luck = luck

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        if self._luck.random() < 0.2:
            raise TimeoutError("no capacity")
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


def test_many_runs_that_are_corrupted_again_and_again_all_end_up_healthy(bench, caplog):
    policy = Policy(
        enabled=True, poll_interval=0.001, backoff=0.001, max_backoff=0.001, max_attempts=99
    )
    rest, luck = Storm(random.Random(1)), random.Random(2)
    executor = RecoveryExecutor(max_concurrent=4)
    monitor = bench.monitor(policy, rest_module=rest, executor=executor)
    together = threading.Barrier(4)

    def train(thread):
        together.wait(PATIENCE)
        for number in range(10):
            run_id = f"{thread}-{number}:train:0"
            monitor.monitor_run(run_id, Unlucky(luck))
            monitor.monitor_run(f"dropped-{run_id}", Unlucky(luck))
            monitor.status()
            monitor.stop_monitoring(f"dropped-{run_id}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(train, range(4)))
    last = [bench.told.wait_for("completed", run_id) for run_id in third_generations()]
    handles = [monitor.status(event.successor_id) for event in last]
    monitor.stop()
    executor.shutdown()

    assert [status.recoveries for status in handles] == [3] * 40
    assert all(generations_in_order(bench.told, run_id) for run_id in third_generations())
    assert [r.getMessage() for r in caplog.records if r.exc_info] == []


def third_generations():
    """The ids that the runs of the storm have after two recoveries."""
    return [f"fake:fake:{t}-{n}:train:0:1:2" for t in range(4) for n in range(10)]


def generations_in_order(told, run_id):
    names = [name for name in told.names(run_id) if name not in ("poll_error", "missing")]
    return names[:2] == ["detected", "started"] and names[-2:] == ["client_created", "completed"]


# Receivers and callbacks


def test_a_receiver_that_blocks_holds_up_its_own_run_alone(bench):
    blocked, entered = bench.gate(), threading.Event()

    def block(sender, *, event):
        if event.run_id == RUN:
            entered.set()
            blocked.wait(PATIENCE)

    monitor = bench.monitor()
    with signals.subscribe(block, "detected", sender=monitor):
        bench.server.corrupt(RUN)
        handle = monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(entered)
        for run_id in (OTHER, *HEALTHY):
            monitor.monitor_run(run_id, FakeServiceClient())
        bench.server.corrupt(OTHER)

        bench.told.wait_for("completed", OTHER)
        bench.server.wait_for_more_polls(HEALTHY[0])

        assert handle.wait(PATIENCE) is not None
        assert bench.told.names(OTHER) == [
            "detected",
            "started",
            "checkpoint_selected",
            "client_created",
            "completed",
        ]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_receiver_that_raises_is_named_in_the_log_and_changes_nothing(bench, caplog, kind):
    def broken_receiver(sender, *, event):
        raise kind("not today")

    monitor = bench.monitor()
    with signals.subscribe(broken_receiver, sender=monitor):
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())

        bench.told.wait_for("completed", RUN)

    assert "broken_receiver of signal detected failed" in caplog.text


@pytest.mark.parametrize("raises", [ValueError, SystemExit, None])
def test_an_on_recovery_that_blocks_or_raises_holds_up_no_other_run(bench, raises):
    blocked, entered = bench.gate(), threading.Event()

    def on_recovery(old_client, new_client, checkpoint):
        if RUN in checkpoint.tinker_path:
            entered.set()
            if raises:
                raise raises("not today")
            blocked.wait(PATIENCE)

    policy = Policy(enabled=True, poll_interval=0.01, on_recovery=on_recovery)
    monitor = bench.monitor(policy)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    wait_until(entered)

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", OTHER)
    bench.server.wait_for_more_polls(monitor.status(RUN).run_id)


@pytest.mark.parametrize("raises", [ValueError, SystemExit, None])
def test_an_on_failure_that_blocks_or_raises_holds_up_no_other_run(bench, raises):
    blocked, entered = bench.gate(), threading.Event()

    def on_failure(run_id, error):
        entered.set()
        if raises:
            raise raises("not today")
        blocked.wait(PATIENCE)

    policy = Policy(enabled=True, poll_interval=0.01, max_attempts=1, on_failure=on_failure)
    monitor = bench.monitor(policy)
    broken = FakeServiceClient()
    broken.fail(RuntimeError("no capacity"), times=9)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, broken)
    wait_until(entered)

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", OTHER)
    assert monitor.status(RUN).state == "exhausted"


def test_a_done_callback_that_blocks_does_not_hold_up_the_next_recovery(bench):
    blocked, entered = bench.gate(), threading.Event()
    service = bench.service()
    monitor = bench.monitor()
    handle = monitor.monitor_run(RUN, service)
    future = handle.recover()
    wait_until(service.entered)
    future.add_done_callback(lambda _: (entered.set(), blocked.wait(PATIENCE)))
    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.told.wait_for("detected", OTHER)

    service.gate.set()
    wait_until(entered)

    bench.told.wait_for("completed", OTHER)


# The executor


def test_a_pool_that_is_shut_down_costs_the_recovery_and_not_the_run(bench):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monitor = bench.monitor(executor=pool)
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.monitor_run(OTHER, FakeServiceClient())

    exhausted = bench.told.wait_for("exhausted", RUN)
    bench.server.wait_for_more_polls(OTHER)

    assert "after shutdown" in str(exhausted.error)
    assert {status.run_id for status in monitor.status()} == {RUN, OTHER}


def test_a_pool_that_is_full_is_asked_again_until_it_has_room(bench):
    class FullAtFirst(ThreadPoolExecutor):
        refused = 0

        def submit(self, function, /, *args, **kwargs):
            if self.refused < 2:
                self.refused += 1
                raise queue.Full
            return super().submit(function, *args, **kwargs)

    with FullAtFirst(1) as pool:
        monitor = bench.monitor(executor=pool)
        bench.server.corrupt(RUN)
        handle = monitor.monitor_run(RUN, FakeServiceClient())

        bench.told.wait_for("completed", RUN)

        assert [type(event.error) for event in bench.told.named("failed")] == [queue.Full] * 2
        assert handle.status().recoveries == 1


def test_an_attempt_that_hangs_gives_its_slot_back_and_what_it_brings_is_an_orphan(bench, caplog):
    service = bench.service()
    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.05, max_attempts=1)
    monitor = bench.monitor(policy)
    bench.server.corrupt(RUN, OTHER)
    handle = monitor.monitor_run(RUN, service)
    wait_until(service.entered)

    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.told.wait_for("completed", OTHER)
    failed = bench.told.wait_for("exhausted", RUN)
    service.gate.set()
    monitor.stop()
    bench.join(*service.threads)
    [client] = service.clients
    told_of_it = [r for r in caplog.records if client.model_id in r.getMessage()]

    assert isinstance(failed.error, AttemptTimeoutError)
    assert handle.client is None
    assert bench.told.named("client_created", RUN) == bench.told.named("completed", RUN) == []
    assert [record.levelno for record in told_of_it] == [logging.WARNING]
    assert handle.lineage[0].orphans == (client.model_id,)


def test_no_more_attempts_hang_beside_the_slots_than_there_are_slots(bench):
    services = [bench.service() for _ in range(2)]
    policy = Policy(enabled=True, poll_interval=0.01, attempt_timeout=0.05, max_attempts=1)
    executor = RecoveryExecutor(max_concurrent=1)
    monitor = bench.monitor(policy, executor=executor)
    for number, service in enumerate(services):
        bench.server.corrupt(f"hung:train:{number}")
        monitor.monitor_run(f"hung:train:{number}", service)
        wait_until(service.entered)
    for number in range(2):
        bench.told.wait_for("exhausted", f"hung:train:{number}")

    bench.server.corrupt(OTHER)
    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.told.wait_for("detected", OTHER)
    bench.server.corrupt(RUN)
    names_before = bench.told.names(OTHER)
    services[0].gate.set()
    bench.told.wait_for("completed", OTHER)

    assert names_before == ["detected"]
    executor.shutdown(timeout=0.0)


def test_an_exit_in_an_executor_ends_neither_the_loop_nor_the_run(bench):
    class Exits(ThreadPoolExecutor):
        submitted = 0

        def submit(self, function, /, *args, **kwargs):
            self.submitted += 1
            if self.submitted == 2:
                raise SystemExit(3)
            return super().submit(function, *args, **kwargs)

    policy = Policy(
        enabled=True, poll_interval=0.01, backoff=0.01, max_backoff=0.02, attempt_timeout=0.1
    )
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))
    with Exits(1) as pool:
        monitor = bench.monitor(policy, executor=pool)
        bench.server.corrupt(RUN)
        handle = monitor.monitor_run(RUN, service)
        monitor.monitor_run(OTHER, FakeServiceClient())

        bench.told.wait_for("completed", RUN)
        bench.server.wait_for_more_polls(OTHER)

        assert pool.submitted == 3
        assert handle.status().recoveries == 1


# An executor of one's own


def policy_for(path):
    return Policy(enabled=True, backoff=0.01, max_backoff=0.02, checkpoint_strategy=path)


def test_shutting_an_executor_down_leaves_no_thread(bench):
    executor = RecoveryExecutor(rest_module=bench.server)
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))

    future = executor.recover(RUN, service, policy_for(path_of(RUN)))
    event = future.result(timeout=PATIENCE)
    names = {thread.name.rpartition("_")[0] or thread.name for thread in bench.threads()}
    executor.shutdown()

    assert event.client is service.clients[0]
    assert names == {"tinkex-executor", "tinkex-recovery", "tinkex-signals"}
    assert bench.threads() == set()


def test_what_an_executor_did_is_told_before_its_shutdown_returns(bench):
    gate = bench.gate()
    executor = RecoveryExecutor(rest_module=bench.server)

    def block(sender, *, event):
        gate.wait(PATIENCE)

    with (
        signals.subscribe(block, "started", sender=executor),
        signals.subscribe(bench.told, sender=executor),
    ):
        future = executor.recover(RUN, FakeServiceClient(), policy_for(path_of(RUN)))
        future.result(timeout=PATIENCE)
        stopping = threading.Thread(target=executor.shutdown, kwargs={"timeout": PATIENCE})
        stopping.start()
        gate.set()
        bench.join(stopping)

    assert bench.told.names(RUN)[-1] == "completed"


def test_shutting_an_executor_down_abandons_an_attempt_that_hangs(bench):
    service = bench.service()
    executor = RecoveryExecutor(rest_module=bench.server)
    future = executor.recover(RUN, service, policy_for(path_of(RUN)))
    wait_until(service.entered)

    began = monotonic()
    executor.shutdown(timeout=0.1)
    took = monotonic() - began

    assert took < 2.0
    assert isinstance(future.exception(timeout=0), MonitorStoppedError)
    assert bench.threads() == service.threads


# Stopping


def test_stop_leaves_no_thread_of_a_monitor_that_worked(bench):
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    for run_id in (RUN, *HEALTHY):
        monitor.monitor_run(run_id, FakeServiceClient())
    bench.told.wait_for("completed", RUN)

    monitor.stop()

    assert bench.threads() == set()


def test_stop_keeps_to_its_timeout_and_leaves_only_what_hangs_in_a_service_client(bench):
    service = bench.service()
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    handle = monitor.monitor_run(RUN, service)
    wait_until(service.entered)
    monitor.monitor_run(OTHER, FakeServiceClient())
    bench.server.wait_for_poll(OTHER)

    began = monotonic()
    monitor.stop(timeout=0.5)
    took = monotonic() - began

    assert took < 0.5 + 0.3
    assert bench.threads() == service.threads
    assert handle.state == "stopped"


def test_stop_keeps_to_its_timeout_whatever_hangs(bench):
    blocked, entered = bench.gate(), threading.Event()
    service = bench.service()
    bench.server.hang(OTHER)
    bench.server.corrupt(RUN)
    monitor = bench.monitor()

    def block(sender, *, event):
        entered.set()
        blocked.wait(PATIENCE)

    with signals.subscribe(block, "started", sender=monitor):
        monitor.monitor_run(OTHER, FakeServiceClient())
        monitor.monitor_run(RUN, service)
        wait_until(service.entered)
        wait_until(entered)

        began = monotonic()
        monitor.stop(timeout=1.0)
        took = monotonic() - began

    assert took < 1.0 + 0.2


def test_an_attempt_under_way_may_end_before_stop_does(bench):
    service = bench.service()
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    handle = monitor.monitor_run(RUN, service)
    wait_until(service.entered)
    stopping = threading.Thread(target=monitor.stop, args=(PATIENCE,), daemon=True)
    stopping.start()

    service.gate.set()
    bench.join(stopping)

    assert bench.told.names(RUN)[-1] == "completed"
    assert handle.client is service.clients[0]
    assert bench.threads() == set()


def test_what_an_attempt_brings_after_stop_is_an_orphan_and_never_published(bench, caplog):
    service = bench.service()
    monitor = bench.monitor()
    handle = monitor.monitor_run(RUN, service)
    future = handle.recover()
    wait_until(service.entered)

    monitor.stop(timeout=0.1)
    told = bench.told.names(RUN)
    service.gate.set()
    bench.join(*service.threads)
    [client] = service.clients
    told_of_it = [r for r in caplog.records if client.model_id in r.getMessage()]

    assert isinstance(future.exception(timeout=0), MonitorStoppedError)
    assert [record.levelno for record in told_of_it] == [logging.WARNING]
    assert bench.told.names(RUN) == told
    assert handle.client is None


def test_nothing_is_delivered_after_stop_has_returned(bench):
    blocked, entered = bench.gate(), threading.Event()
    called = []

    def receiver(name):
        def receive(sender, *, event):
            called.append((name, event.name))
            entered.set()
            blocked.wait(PATIENCE)

        return receive

    monitor = bench.monitor()
    with (
        signals.subscribe(receiver("one"), "detected", "started", sender=monitor),
        signals.subscribe(receiver("two"), "detected", "started", sender=monitor),
    ):
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(entered)

        monitor.stop(timeout=0.2)
        left = bench.threads()
        blocked.set()
        bench.join(*left)

    assert len(called) == 1


@pytest.mark.parametrize("name", ["swept", "detected", "completed"])
def test_stop_may_be_called_from_a_receiver(bench, name):
    returned = threading.Event()

    def stop(sender, *, event):
        sender.stop(timeout=PATIENCE)
        returned.set()

    monitor = bench.monitor()
    with signals.subscribe(stop, name, sender=monitor):
        began = monotonic()
        bench.server.corrupt(RUN)
        monitor.monitor_run(RUN, FakeServiceClient())
        wait_until(returned)

    assert monotonic() - began < PATIENCE / 2
    assert monitor.is_stopped


def test_stop_may_be_called_from_a_callback(bench):
    returned = threading.Event()

    def on_recovery(old_client, new_client, checkpoint):
        monitor.stop(timeout=PATIENCE)
        returned.set()

    policy = Policy(enabled=True, poll_interval=0.01, on_recovery=on_recovery)
    monitor = bench.monitor(policy)
    began = monotonic()
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, FakeServiceClient())
    wait_until(returned)

    assert monotonic() - began < PATIENCE / 2
    assert monitor.is_stopped


def test_stop_may_be_called_from_a_service_client_and_from_a_rest_module(bench):
    returned = threading.Semaphore(0)

    class StopsTheMonitor(FakeServiceClient):
        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            monitor.stop(timeout=PATIENCE)
            returned.release()
            return super().create_training_client_from_state_with_optimizer(path)

    class StopsTheOther(Server):
        def get_training_run(self, config, run_id):
            other.stop(timeout=PATIENCE)
            returned.release()
            return super().get_training_run(config, run_id)

    monitor = bench.monitor()
    other = bench.monitor(rest_module=StopsTheOther())
    began = monotonic()
    bench.server.corrupt(RUN)
    monitor.monitor_run(RUN, StopsTheMonitor())
    other.monitor_run(OTHER, FakeServiceClient())

    for _ in range(2):
        assert returned.acquire(timeout=PATIENCE)

    assert monotonic() - began < PATIENCE / 2


def test_stop_during_a_backoff_does_not_wait_for_it(bench):
    policy = Policy(enabled=True, poll_interval=0.01, backoff=60.0)
    service = FakeServiceClient()
    service.fail(RuntimeError("no capacity"))
    monitor = bench.monitor(policy)
    handle = monitor.monitor_run(RUN, service)
    future = handle.recover()
    bench.told.wait_for("failed", RUN)

    began = monotonic()
    monitor.stop(timeout=PATIENCE)
    took = monotonic() - began

    assert took < 1.0
    assert isinstance(future.exception(timeout=0), MonitorStoppedError)
    assert bench.threads() == set()


def test_whoever_waits_for_a_run_is_woken_by_stop(bench):
    bench.server.hang(RUN)
    monitor = bench.monitor()
    handle = monitor.monitor_run(RUN, FakeServiceClient())
    waiting = ThreadPoolExecutor(1)
    waited = waiting.submit(handle.wait, 3 * PATIENCE)

    monitor.stop(timeout=0.1)

    assert isinstance(waited.exception(timeout=PATIENCE), MonitorStoppedError)
    waiting.shutdown()


# Threads as such


def test_every_thread_is_daemon_and_named(bench):
    monitor = bench.monitor()
    bench.server.corrupt(RUN)
    service = bench.service()
    service.gate.set()
    for run_id in (RUN, *HEALTHY):
        monitor.monitor_run(run_id, service)

    bench.told.wait_for("completed", RUN)
    threads = bench.threads()

    assert {thread.name.rstrip("0123456789") for thread in threads} == {
        "tinkex-monitor",
        "tinkex-poll_",
        "tinkex-recovery_",
        "tinkex-signals_",
    }
    assert all(thread.daemon for thread in threads)
    assert {t.name.rpartition("_")[0] for t in bench.server.threads} == {"tinkex-poll"}
    assert {t.name.rpartition("_")[0] for t in service.threads} == {"tinkex-recovery"}
    assert {t.name.rpartition("_")[0] for t in bench.told.threads} == {"tinkex-signals"}


def test_a_monitor_at_rest_has_no_thread(bench):
    monitor = bench.monitor()

    monitor.status()

    assert bench.threads() == set()


def test_the_timer_of_threading_is_a_scheduler(bench):
    service = bench.service()
    service.gate.set()
    monitor = bench.monitor(scheduler=threading.Timer)
    bench.server.corrupt(RUN)
    handle = monitor.monitor_run(RUN, service)
    monitor.monitor_run(OTHER, FakeServiceClient())

    bench.told.wait_for("completed", RUN)
    bench.server.wait_for_more_polls(OTHER)
    threads = bench.threads() | bench.server.threads
    monitor.stop()
    bench.join(*bench.threads())

    assert handle.status().recoveries == 1
    assert {thread.name for thread in bench.server.threads} == {"tinkex-timer"}
    assert all(thread.daemon for thread in threads)


def test_a_timer_of_threading_is_not_left_behind_by_a_poll_that_hung(bench):
    bench.server.hang(RUN)
    monitor = bench.monitor(scheduler=threading.Timer, poll_workers=2)
    monitor.monitor_run(RUN, FakeServiceClient())
    bench.server.wait_for_poll(RUN)

    monitor.stop(timeout=0.1)
    began = monotonic()
    bench.join(*(thread for thread in bench.threads() if thread.name == "tinkex-timer"))

    assert monotonic() - began < 0.5


class Fast:
    """A scheduler whose seconds pass in a fraction of one."""

    FACTOR = 20

    def __call__(self, interval, function):
        return threading.Timer(interval / self.FACTOR, function)

    def now(self):
        return monotonic() * self.FACTOR


def test_a_poll_over_its_bound_is_a_poll_error_even_if_it_never_returns(bench):
    time = Fast()
    bench.server.hang(RUN)
    monitor = bench.monitor(scheduler=time, poll_workers=2)
    monitor.monitor_run(RUN, FakeServiceClient())
    monitor.monitor_run(OTHER, FakeServiceClient())

    began = time.now()
    error = bench.told.wait_for("poll_error", RUN).error
    took = time.now() - began
    bench.server.wait_for_more_polls(OTHER)

    assert isinstance(error, ApiTimeoutError)
    assert 5.0 <= took < 5.0 + 15.0
    assert monitor.status(RUN).state == "failing"
    assert bench.server.polls[RUN] == 1
