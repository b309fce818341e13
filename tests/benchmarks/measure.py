"""Runs all measurements in order, in the sizes of a `Plan`."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from .control import Control, ServerProcess
from .imports import import_times
from .targets import SLOW
from .variants import PAGE_SIZE
from .workers import TookTooLongError, Worker, ceiling, probe

__all__ = ["FULL", "QUICK", "Plan", "measure"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    `repeats` are the sweeps per number of runs, after a first one; the official SDK is measured
    with up to `sdk` runs, and servers that allow pages of `wide` rows with the numbers of runs in
    `wide_runs`. The other measurements use a `large`, `medium` or `small` number of
    runs, `samples` flags and some `seconds` each. After `limit` seconds no SDK sweep is begun.
    """

    repeats: dict[int, int]
    latencies: tuple[float, ...] = (0.0, SLOW)
    sdk: int
    wide_runs: tuple[int, ...]
    wide: int = 500
    large: int
    medium: int
    small: int
    samples: int
    seconds: float
    imports: int
    limit: float


FULL = Plan(
    repeats={100: 15, 1_000: 15, 10_000: 11, 100_000: 5},
    sdk=10_000,
    wide_runs=(10_000, 100_000),
    large=100_000,
    medium=10_000,
    small=1_000,
    samples=200,
    seconds=8.0,
    imports=20,
    limit=1000.0,
)
QUICK = Plan(
    repeats={100: 7, 1_000: 7, 10_000: 5},
    sdk=100,
    wide_runs=(10_000,),
    large=10_000,
    medium=10_000,
    small=300,
    samples=20,
    seconds=2.0,
    imports=6,
    limit=55.0,
)


def measure(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything; `say` is called with the name of each measurement."""
    began = time.monotonic()
    ends_at = began + plan.limit
    found: dict[str, Any] = {"machine": machine(), "sweeps": []}
    with ServerProcess() as control:
        for latency in plan.latencies:
            for runs in plan.repeats:
                found["sweeps"].extend(_sweeps(plan, control, say, runs, latency))
        for runs in plan.wide_runs:
            found["sweeps"].extend(_sweeps(plan, control, say, runs, SLOW, plan.wide))
        found["sweeps"].extend(_sdk_sweeps(plan, control, say, range(10_000), ends_at))
        for name, run in _others(plan, control).items():
            say(name)
            found[name] = run()
        say("imports")
        found["imports"] = import_times(plan.imports)
        # Last, since they take the longest: if time runs out, these are left out.
        large = range(10_000, plan.sdk + 1)
        found["sweeps"].extend(_sdk_sweeps(plan, control, say, large, ends_at))
    found["machine"]["load_after"] = os.getloadavg()[0]
    found["seconds"] = time.monotonic() - began
    return found


def machine() -> dict[str, Any]:
    """The machine and the versions with which it is measured."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("requests", "urllib3", "tinker")},
        "load_before": os.getloadavg()[0],
        "day": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Sweeps


def _sweeps(
    plan: Plan, control: Control, say: Say, runs: int, latency: float, cap: int = PAGE_SIZE
) -> list[dict[str, Any]]:
    """The sweeps of the floor and of tinkex, in turns; the server allows `cap` rows in a page."""
    say(f"{runs:,} runs at {latency * 1000:g} ms, pages of at most {cap}")
    control("setup", runs=runs, latency=latency, cap=cap, refuses=1)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(name, control, runs, patience=60.0))
            for name in ("floor", "tinkex")
        ]
        for _ in range(plan.repeats[runs] + 1):
            for worker in workers:
                worker.sweep()
    return [_row(worker, runs, latency, cap) for worker in workers]


def _sdk_sweeps(
    plan: Plan, control: Control, say: Say, sizes: range, ends_at: float
) -> Iterator[dict[str, Any]]:
    if importlib.util.find_spec("tinker") is None:
        return
    for runs in filter(sizes.__contains__, plan.repeats):
        # The targets are for the longest latency, so that one comes first, before time runs out.
        for latency in sorted(plan.latencies, reverse=True):
            for name, sweeps in (("sdk", 2 if runs >= 10_000 else 3), ("sdk-loop", 1)):
                left = ends_at - time.monotonic()
                if runs > plan.sdk or left <= 0:
                    continue
                say(f"{name}: {runs:,} runs at {latency * 1000:g} ms")
                control("setup", runs=runs, latency=latency)
                worker = Worker(name, control, runs, patience=left)
                try:
                    with worker:
                        for _ in range(sweeps):
                            worker.sweep()
                except TookTooLongError:
                    say("  left out: no time is left")
                if worker.sweeps:
                    yield _row(worker, runs, latency)


def _row(worker: Worker, runs: int, latency: float, cap: int = PAGE_SIZE) -> dict[str, Any]:
    first, *later = worker.sweeps
    steady = later or [first]
    return {
        "variant": worker.name,
        "runs": runs,
        "latency": latency,
        "cap": cap,
        "first": first["wall"],
        "wall": median(sweep["wall"] for sweep in steady),
        "cpu": median(sweep["cpu"] for sweep in steady),
        "sweeps": len(steady),
        "requests": steady[-1]["counts"]["requests"],
        "connections": worker.connections,
        "memory": worker.sweeps[-1]["memory"],
        "server_cpu": median(sweep["counts"]["cpu"] for sweep in steady),
    }


# Other measurements


def _others(plan: Plan, control: Control) -> dict[str, Callable[[], dict[str, Any]]]:
    """The other measurements, by name."""
    large, medium, small = plan.large, plan.medium, plan.small

    def probed(name: str, setup: dict[str, Any], **arguments: Any) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            control("setup", **setup)
            return {**setup, **probe(name, control.url, **arguments)}

        return run

    def served() -> dict[str, Any]:
        control("setup", runs=100)
        return ceiling(control.url, plan.seconds / 4)

    return {
        "ceiling": served,
        "detection": probed(
            "detection",
            {"runs": medium, "latency": SLOW},
            runs=medium,
            interval=1.0,
            samples=plan.samples,
        ),
        "detection_beside_silence": probed(
            "detection",
            {"runs": small, "latency": SLOW},
            runs=small,
            interval=1.0,
            samples=plan.samples,
            silent=120,
        ),
        "calls_in_sweep": probed(
            "calls",
            {"runs": large + 1, "latency": SLOW},
            runs=large,
            seconds=plan.seconds,
            hang=False,
        ),
        "calls_in_hang": probed(
            "calls", {"runs": small + 1}, runs=small, seconds=plan.seconds / 2, hang=True
        ),
        "calls_in_refusal": probed(
            "calls_in_refusal",
            {"runs": large + 1, "latency": SLOW},
            runs=large,
            rounds=2,
            patience=600.0,
        ),
        "calls_with_loops": probed(
            "calls_with_loops",
            {"runs": small + 1, "latency": SLOW},
            runs=small,
            loops=small // 2,
            sweeps=10,
        ),
        "status_of_all": probed("status_of_all", {"runs": large + 1}, runs=large, repeats=5),
        "memory": probed("memory", {"runs": large}, runs=large),
        "recovery": probed("recovery", {"runs": small, "latency": 0.0}, runs=small, workers=0),
        "recovery_8": probed("recovery", {"runs": small, "latency": SLOW}, runs=small, workers=8),
        "journals": probed(
            "journals", {"runs": large + 1}, runs=large, incidents=plan.samples // 4
        ),
        "idle": probed("idle", {"runs": medium}, runs=medium, seconds=plan.seconds),
        "few": probed("few", {"runs": 5 * medium, "latency": SLOW}, runs=5, sweeps=5),
        "hung_listed": probed(
            "hung",
            {"runs": medium, "listed": medium - 1, "latency": SLOW},
            runs=medium,
            which=medium - 1,
            sweeps=max(4, round(plan.seconds)),
        ),
        "hung_single": probed(
            "hung",
            {"runs": small, "listing": 0, "latency": SLOW},
            runs=small,
            which=0,
            sweeps=max(2, round(plan.seconds / 2)),
        ),
    }
