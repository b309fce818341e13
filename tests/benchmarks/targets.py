"""The targets for the performance of tinkex, and whether the results meet them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from .figures import exponent
from .variants import PAGE_SIZE

__all__ = ["METHODS", "SLOW", "Target", "growth", "row_of", "targets"]

#: The public methods whose time is measured.
METHODS = ("monitor_run", "status", "stop_monitoring", "state")

#: The latency at which tinkex is compared, in seconds.
SLOW = 0.01

_WORDS = {"wall": "wall time", "cpu": "CPU time"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target: what is measured, the wanted value, the measured value, whether it is met."""

    what: str
    wanted: str
    found: str
    met: bool


def row_of(
    found: dict[str, Any], variant: str, runs: int, latency: float, cap: int = PAGE_SIZE
) -> dict[str, Any] | None:
    """The result of a variant, if it was measured; `cap`: the most rows of a page."""
    wanted = (variant, runs, latency, cap)
    keys = ("variant", "runs", "latency", "cap")
    return next((row for row in found["sweeps"] if tuple(map(row.get, keys)) == wanted), None)


def growth(found: dict[str, Any], variant: str, latency: float) -> list[tuple[int, float]]:
    """Runs and seconds of a variant's sweeps, from 1,000 runs on: fewer take one round trip."""
    return [
        (row["runs"], row["wall"])
        for row in found["sweeps"]
        if (row["variant"], row["latency"], row["cap"]) == (variant, latency, PAGE_SIZE)
        and row["runs"] >= 1_000
    ]


def targets(found: dict[str, Any]) -> list[Target]:
    """Every target for which there is a result."""
    return [*_ratios(found), *_sdk(found), *_growth(found), *_others(found)]


def _at_most(what: str, value: float, most: float, form: str = "{:.2f}x") -> Target:
    return Target(
        what=what,
        wanted="at most " + form.format(most),
        found=form.format(value),
        met=value <= most,
    )


def _ratios(found: dict[str, Any]) -> Iterator[Target]:
    for runs, name in product((10_000, 100_000), ("wall", "cpu")):
        ratio = _ratio(found, runs, name, PAGE_SIZE)
        if ratio is not None:
            what = f"{runs:,} runs at 10 ms: {_WORDS[name]} divided by the floor's"
            yield _at_most(what, ratio, 1.1)
    wide = {(row["runs"], row["cap"]) for row in found["sweeps"] if row["cap"] > PAGE_SIZE}
    for runs, cap in sorted(wide):
        ratio = _ratio(found, runs, "wall", cap)
        if ratio is not None:
            what = f"{runs:,} runs at 10 ms, {cap} in a page: wall time divided by the floor's"
            yield _at_most(what, ratio, 0.6)


def _ratio(found: dict[str, Any], runs: int, name: str, cap: int) -> float | None:
    ours, floor = (row_of(found, each, runs, SLOW, cap) for each in ("tinkex", "floor"))
    return None if ours is None or floor is None else ours[name] / floor[name]


def _sdk(found: dict[str, Any]) -> Iterator[Target]:
    ours = row_of(found, "tinkex", 10_000, SLOW)
    for name, words, least in (
        ("sdk", "the SDK, all at once (a later sweep)", 100),
        ("sdk-loop", "the SDK in a loop", 300),
    ):
        row = row_of(found, name, 10_000, SLOW)
        if row is not None and ours is not None:
            times = row["wall"] / ours["wall"]
            yield Target(
                what=f"10,000 runs at 10 ms: faster than {words}",
                wanted=f"at least {least} times",
                found=f"{times:.0f} times",
                met=times >= least,
            )


def _growth(found: dict[str, Any]) -> Iterator[Target]:
    for latency in sorted({row["latency"] for row in found["sweeps"]}):
        points = growth(found, "tinkex", latency)
        if len(points) > 1:
            runs = f"{min(points)[0]:,} to {max(points)[0]:,} at {1000 * latency:g} ms"
            name = f"growth exponent of the sweep time over the number of runs ({runs})"
            yield _at_most(name, exponent(points), 1.05, "{:.2f}")


def _others(found: dict[str, Any]) -> Iterator[Target]:
    memory = found["memory"]
    what = f"bytes per monitored run, {memory['runs']:,} of them, after two sweeps"
    yield _at_most(what, memory["swept"], 1024, "{:.0f}")
    few = found["few"]
    what = f"requests of a sweep, 5 runs of an account with {few['runs']:,}"
    yield _at_most(what, max(few["requests"]), 5, "{:.0f}")
    refusal, loops = found["calls_in_refusal"], found["calls_with_loops"]
    for during, when in (
        (found["calls_in_sweep"], f"during a sweep of {found['calls_in_sweep']['runs'] - 1:,}"),
        (refusal["refused"], f"while an account of {refusal['runs'] - 1:,} is refused"),
        (refusal["back"], f"while an account of {refusal['runs'] - 1:,} comes back"),
        (loops["with"], "while loops wait for runs that fail"),
    ):
        slowest = max(during[name]["p99"] for name in METHODS)
        what = f"a public method {when}, 99th percentile"
        yield _at_most(what, 1000 * slowest, 1, "{:.2f} ms")
    detection = found["detection"]
    bound = 1.0 + detection["sweep"]["p99"]
    what = "detection at an interval of 1 s, 99th percentile: one interval and one sweep"
    yield _at_most(what, detection["p99"], bound, "{:.2f} s")
    yield _at_most(
        "CPU between sweeps, of one core", 100 * found["idle"]["fraction"], 0.1, "{:.3f} %"
    )
    journals = found["journals"]
    what = f"{journals['runs'] - 1:,} runs registered with a journal, on the disk"
    yield _at_most(what, journals["seconds"], 5, "{:.2f} s")
    incident = journals["incident"]
    more = incident["with"]["median"] - incident["without"]["median"]
    yield _at_most("what a journal costs in an incident", 1000 * more, 15, "{:.1f} ms")
    what = "rows of a journal that two sweeps of healthy runs change"
    yield _at_most(what, journals["changes"], 0, "{:.0f}")
    imports = found["imports"]
    what = "`import tinkex` divided by importing requests, tenacity and blinker"
    yield _at_most(what, imports["tinkex"] / imports["required"], 1.2)
