"""With real threads: calls and polls go on beside what hangs, exits or storms."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, perf_counter

from support.real_threads import HEALTHY, Server, wait_until
from support.recorder import PATIENCE
from support.world import OTHER, RUN

from tinkex import Policy, RecoveryExecutor, signals
from tinkex.testing import FakeServiceClient, FakeTrainingClient


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
    names = [name for name in told.names_of(run_id) if name not in ("poll_error", "missing")]
    return names[:2] == ["detected", "started"] and names[-2:] == ["client_created", "completed"]


class Fast:
    """A scheduler whose seconds pass in a fraction of one."""

    FACTOR = 20

    def __call__(self, interval, function):
        return threading.Timer(interval / self.FACTOR, function)

    def now(self):
        return monotonic() * self.FACTOR


class Hangs:
    """A future of no standard kind, whose result does not come before the gate is opened."""

    def __init__(self, gate):
        self.result = lambda: gate.wait(3 * PATIENCE)


def test_a_recovery_can_be_asked_for_while_many_futures_of_the_client_hang(bench):
    bench.server.corrupt(RUN)
    client, gate = FakeTrainingClient(RUN), bench.gate()
    client.optim_step = lambda *_: Hangs(gate)
    run = bench.monitor(started=False).monitor_run(RUN, FakeServiceClient(), client=client)
    with ThreadPoolExecutor(1) as pool, next(run.segments()) as segment:
        for _ in range(100):
            segment.client.optim_step()
        begun = pool.submit(run.recover).result(PATIENCE)
        begun.result(PATIENCE)
