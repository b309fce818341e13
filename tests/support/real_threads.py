"""What the tests with real threads stand on: waits with a bound, and parts that hang on a gate."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Executor, Future

from tinkex import Monitor, Policy, signals
from tinkex.testing import FakeServiceClient

from .recorder import PATIENCE, Recorder

#: A policy under which everything comes at once.
QUICK = Policy(enabled=True, poll_interval=0.01, backoff=0.01, max_backoff=0.02)

HEALTHY = tuple(f"healthy:train:{number}" for number in range(20))


def path_of(run_id):
    return f"tinker://{run_id}/weights/000001"


def wait_until(event):
    assert event.wait(PATIENCE)


class Server:
    """A rest module whose runs are corrupted, or do not answer before `release` is called."""

    def __init__(self):
        self._changed = threading.Condition()
        self._corrupted = set()
        self._hanging = set()
        self._released = threading.Event()
        self.polls = Counter()
        self.threads = set()

    def corrupt(self, *run_ids):
        self._corrupted.update(run_ids)

    def hang(self, *run_ids):
        self._hanging.update(run_ids)

    def release(self):
        self._hanging.clear()
        self._released.set()

    def get_training_run(self, config, run_id):
        with self._changed:
            self.polls[run_id] += 1
            self.threads.add(threading.current_thread())
            self._changed.notify_all()
            hangs = run_id in self._hanging
        if hangs:
            self._released.wait(3 * PATIENCE)
        return {
            "training_run_id": run_id,
            "corrupted": run_id in self._corrupted,
            "last_checkpoint": {"tinker_path": path_of(run_id)},
        }

    def list_checkpoints(self, config, run_id):
        return [{"tinker_path": path_of(run_id)}]

    def wait_for_poll(self, run_id):
        """Wait until a run was polled at all."""
        self._wait_for_polls(run_id, 1)

    def wait_for_more_polls(self, run_id, count=2):
        """Wait for so many polls of a run from now on."""
        self._wait_for_polls(run_id, self.polls[run_id] + count)

    def _wait_for_polls(self, run_id, count):
        with self._changed:
            came = self._changed.wait_for(lambda: self.polls[run_id] >= count, PATIENCE)
        assert came, f"run {run_id} is not polled"


class HungService(FakeServiceClient):
    """A service client that makes no client before `gate` is opened."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.threads = set()

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        self.threads.add(threading.current_thread())
        self.entered.set()
        self.gate.wait(3 * PATIENCE)
        return super().create_training_client_from_state_with_optimizer(path, user_metadata)


class HeldExecutor(Executor):
    """An executor whose jobs begin, and end only when the test says so."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_running_or_notify_cancel()
        self.jobs.append((future, lambda: function(*args, **kwargs)))
        return future

    def finish(self, number):
        future, work = self.jobs[number]
        future.set_result(work())

    def kill(self, number, error):
        self.jobs[number][0].set_exception(error)


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
        made = {thread for thread in threading.enumerate() if thread not in self._before}
        # The event loop of an SDK that an earlier test used may make some at any time.
        return {thread for thread in made if not thread.name.startswith("asyncio_")}

    def join(self, *threads):
        # One that another thread is just starting cannot be joined yet; it has nothing to do.
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(PATIENCE)
            assert not thread.is_alive()
