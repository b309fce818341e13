"""Measurements of tinkex other than sweeps, each in its own process.

`python -m tests.benchmarks.probes NAME URL ARGUMENTS` prints the result of a probe as JSON.
"""

from __future__ import annotations

import gc
import json
import random
import socket
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from tinkex import Monitor, Policy, signals

from .account import run_id
from .callers import calls, calls_in_refusal, calls_with_loops, status_of_all
from .control import Control
from .figures import spread
from .journals import journals
from .variants import Service

__all__ = ["PROBES"]


def _monitor(interval=3600.0, **options):
    return Monitor(Policy(enabled=True, poll_interval=interval), **options)


def detection(url, *, runs, interval, samples, silent=0):
    """Seconds from the moment when the server flags a run to `detected`, during normal polls.

    `silent`: so many runs of an account beside it, whose server takes requests and never answers.
    """
    control = Control(url)
    service = Service(url, Control(url))
    flagged, seen, sweeps = {}, {}, []

    def on_detected(sender, *, event):
        seen[event.run_id] = time.monotonic()

    def on_swept(sender, *, event):
        sweeps.append(event.duration)

    chance = random.Random(1)
    with (
        signals.subscribe(on_detected, "detected"),
        signals.subscribe(on_swept, "swept"),
        ExitStack() as ends,
        _monitor(interval) as monitor,
    ):
        for index in range(runs):
            monitor.monitor_run(run_id(index), service)
        monitor.poll_now()
        if silent:
            ends.enter_context(_silent_neighbour(monitor, silent))
        for index in chance.sample(range(runs), samples):
            time.sleep(chance.uniform(0.0, 0.3))
            flagged[run_id(index)] = control("corrupt", first=index)["at"]
        deadline = time.monotonic() + 10 * interval
        while len(seen) < samples and time.monotonic() < deadline:
            time.sleep(0.01)
    latencies = [seen[run] - at for run, at in flagged.items() if run in seen]
    return {"missed": samples - len(latencies), **spread(latencies), "sweep": spread(sweeps)}


@contextmanager
def _silent_neighbour(monitor, runs):
    """Have runs monitored on a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as silent:
        service = Service(f"http://127.0.0.1:{silent.getsockname()[1]}")
        for index in range(runs):
            monitor.monitor_run(f"silent-{index}:train:0", service)
        yield


def memory(url, *, runs):
    """Bytes per monitored run, as `tracemalloc` counts them, before and after sweeps."""
    ids = [run_id(index) for index in range(runs)]
    service = Service(url)
    monitor = _monitor().start()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for each in ids:
        monitor.monitor_run(each, service)
    gc.collect()
    registered, _ = tracemalloc.get_traced_memory()
    monitor.poll_now()
    monitor.poll_now()
    gc.collect()
    swept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    monitor.stop()
    return {"registered": (registered - before) / runs, "swept": (swept - before) / runs}


def recovery(url, *, runs, workers):
    """Seconds from the moment when all runs are flagged to the last `completed`."""
    control = Control(url)
    service = Service(url)
    done = threading.Semaphore(0)

    def on_completed(sender, *, event):
        done.release()

    pool = ThreadPoolExecutor(workers) if workers else None
    with signals.subscribe(on_completed, "completed"), _monitor(executor=pool) as monitor:
        for index in range(runs):
            monitor.monitor_run(run_id(index), service)
        monitor.poll_now()
        control("corrupt", first=0, count=runs)
        control("reset")
        began = time.monotonic()
        monitor.poll_now()
        recovered = sum(done.acquire(timeout=60) for _ in range(runs))
        seconds = time.monotonic() - began
    return {"recovered": recovered, "seconds": seconds, "requests": control("counts")["requests"]}


def idle(url, *, runs, seconds):
    """The fraction of a core that a monitor uses between two sweeps."""
    service = Service(url)
    with _monitor() as monitor:
        for index in range(runs):
            monitor.monitor_run(run_id(index), service)
        monitor.poll_now()
        time.sleep(2.0)
        began, cpu = time.monotonic(), time.process_time()
        time.sleep(seconds)
        used = time.process_time() - cpu
        return {"fraction": used / (time.monotonic() - began)}


def few(url, *, runs, sweeps):
    """Requests of each sweep over a few runs of a large account."""
    control = Control(url)
    service = Service(url)
    found = []
    with _monitor() as monitor:
        for index in range(runs):
            monitor.monitor_run(run_id(index * 997), service)
        for _ in range(sweeps):
            control("reset")
            monitor.poll_now()
            found.append(control("counts")["requests"])
    return {"requests": found}


def hung(url, *, runs, which, sweeps):
    """Seconds until all other runs are polled, without and with one whose GET is not answered."""
    control = Control(url)
    service = Service(url)
    found = {"without": [], "with": []}
    with _monitor(1.0) as monitor:
        for index in range(runs):
            monitor.monitor_run(run_id(index), service)
        monitor.poll_now()
        for case, hanging in (("without", ""), ("with", run_id(which))):
            control("hang", run=hanging)
            for _ in range(sweeps):
                control("reset")
                monitor.poll_now()
                found[case].append(control("counts")["span"])
                time.sleep(0.2)
    return {case: spread(each) for case, each in found.items()}


PROBES = {
    each.__name__: each
    for each in (
        detection,
        calls,
        calls_in_refusal,
        calls_with_loops,
        status_of_all,
        memory,
        recovery,
        journals,
        idle,
        few,
        hung,
    )
}


if __name__ == "__main__":
    _name, _url, _arguments = sys.argv[1:]
    sys.stdout.write(json.dumps(PROBES[_name](_url, **json.loads(_arguments))) + "\n")
