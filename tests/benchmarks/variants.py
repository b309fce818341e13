"""The compared ways to poll, each in its own process.

`python -m tests.benchmarks.variants NAME URL RUNS` prepares, then makes one sweep for each line of
its standard input and answers with the sweep's times and the highest memory use so far.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from .account import KEY, run_id

__all__ = ["VARIANTS", "peak_memory"]

#: The connections of the floor, and the most of tinkex.
CONNECTIONS = 8

#: How many runs are asked for in one page.
PAGE_SIZE = 100


class Floor:
    """Only `requests` and `json`: eight threads with a session each look at all rows' flags."""

    def __init__(self, url, runs):
        import requests

        self._urls = [
            f"{url}/api/v1/training_runs?limit={PAGE_SIZE}&offset={offset}&access_scope=owned"
            for offset in range(0, runs, PAGE_SIZE)
        ]
        self.corrupted = []
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._sessions = [requests.Session() for _ in range(CONNECTIONS)]
        for session in self._sessions:
            session.trust_env = False  # a search for proxies at each request takes longer
            session.headers["X-API-Key"] = KEY

    def sweep(self):
        """Ask for every page, and look for corrupted runs."""
        urls = iter(self._urls)
        next_url = threading.Lock()

        def drain(session):
            while True:
                with next_url:
                    url = next(urls, None)
                if url is None:
                    return
                for row in json.loads(session.get(url, timeout=30).content)["training_runs"]:
                    if row["corrupted"]:
                        self.corrupted.append(row["training_run_id"])

        for done in [self._pool.submit(drain, session) for session in self._sessions]:
            done.result()


class Service:
    """A service client whose clients train nothing; the monitor's polls are real.

    With a `control`, each new run is also made on the server, which then lists it.
    """

    def __init__(self, url, control=None):
        # The official client has attributes of these names; a monitor reads them.
        self._api_key = KEY
        self._base_url = url
        self._control = control
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def create_training_client_from_state(self, path, **options):
        """Make a client."""
        return self.create_training_client_from_state_with_optimizer(path)

    def create_training_client_from_state_with_optimizer(self, path, **options):
        """Make a client, and a run for it."""
        run = path.split("/")[2]
        if self._control is None:
            return Client(f"{run.rpartition(':')[0]}:{next(self._numbers)}")
        with self._lock:
            return Client(self._control("succeed", of=run)["run_id"])


class Client:
    """A training client that has only the id of its run."""

    def __init__(self, model_id):
        self.model_id = model_id


class Tinkex:
    """A monitor with its defaults, except that it sweeps only on `poll_now()`."""

    def __init__(self, url, runs):
        from tinkex import Monitor, Policy

        self.monitor = Monitor(Policy(enabled=True, poll_interval=3600.0)).start()
        service = Service(url)
        for index in range(runs):
            self.monitor.monitor_run(run_id(index), service)

    def sweep(self):
        """Poll every run."""
        self.monitor.poll_now()


class _Sdk:
    def __init__(self, url, runs):
        import tinker

        make = getattr(tinker, "RestClient", None)
        if make is None:
            self._client = tinker.ServiceClient(base_url=url, api_key=KEY).create_rest_client()
        else:
            self._client = make(base_url=url, api_key=KEY)
        self._ids = [run_id(index) for index in range(runs)]
        # It reads no answer in which a value is odd.
        self._unreadable = tinker.APIResponseValidationError

    def _wait(self, future):
        with suppress(self._unreadable):
            future.result()


class SdkAtOnce(_Sdk):
    """The official SDK: ask for all runs at once, then wait for all answers."""

    def sweep(self):
        """Ask for every run."""
        for future in [self._client.get_training_run(each) for each in self._ids]:
            self._wait(future)


class SdkLoop(_Sdk):
    """The official SDK in a simple loop, one run after the other."""

    def sweep(self):
        """Ask for every run."""
        for each in self._ids:
            self._wait(self._client.get_training_run(each))


VARIANTS = {"floor": Floor, "tinkex": Tinkex, "sdk": SdkAtOnce, "sdk-loop": SdkLoop}


def peak_memory():
    """The highest memory use of this process so far, in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        # Linux counts in KiB; a child may inherit the peak of its parent.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _main(name, url, runs):
    variant = VARIANTS[name](url, int(runs))
    _answer({"ready": True})
    for _ in sys.stdin:
        cpu, began = time.process_time(), time.perf_counter()
        variant.sweep()
        wall = time.perf_counter() - began
        _answer({"wall": wall, "cpu": time.process_time() - cpu, "memory": peak_memory()})


def _answer(found):
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
