"""The targets for the performance of tinkex, and whether the results meet them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .figures import exponent

__all__ = ["METHODS", "SLOW", "Target", "growth", "row_of", "targets"]

#: The public methods whose time is measured.
METHODS = ("monitor_run", "status", "stop_monitoring", "state")

#: The latency at which tinkex is compared, in seconds.
SLOW = 0.01


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target: what is measured, the wanted value, the measured value, whether it is met."""

    what: str
    wanted: str
    found: str
    met: bool


def row_of(found: dict[str, Any], variant: str, runs: int, latency: float) -> dict[str, Any] | None:
    """The result of a variant, if it was measured."""
    return next(
        (
            row
            for row in found["sweeps"]
            if (row["variant"], row["runs"], row["latency"]) == (variant, runs, latency)
        ),
        None,
    )


def growth(found: dict[str, Any], variant: str, latency: float) -> list[tuple[int, float]]:
    """Runs and seconds of a variant's sweeps, from 1,000 runs on: fewer take one round trip."""
    return [
        (row["runs"], row["wall"])
        for row in found["sweeps"]
        if (row["variant"], row["latency"]) == (variant, latency) and row["runs"] >= 1_000
    ]


def targets(found: dict[str, Any]) -> list[Target]:
    """Every target for which there is a result."""
    return [*_ratios(found), *_large(found), *_others(found)]


def _at_most(what: str, value: float, most: float, form: str = "{:.2f}x") -> Target:
    return Target(
        what=what,
        wanted="at most " + form.format(most),
        found=form.format(value),
        met=value <= most,
    )


def _ratios(found: dict[str, Any]) -> Iterator[Target]:
    ours, floor = (row_of(found, name, 10_000, SLOW) for name in ("tinkex", "floor"))
    if ours is None or floor is None:
        return
    yield _at_most(
        "10,000 runs at 10 ms: wall time divided by the floor's", ours["wall"] / floor["wall"], 1.5
    )
    yield _at_most(
        "10,000 runs at 10 ms: CPU time divided by the floor's", ours["cpu"] / floor["cpu"], 1.5
    )
    for name, words, least in (
        ("sdk", "the SDK, all at once (a later sweep)", 50),
        ("sdk-loop", "the SDK in a loop", 300),
    ):
        row = row_of(found, name, 10_000, SLOW)
        if row is not None:
            times = row["wall"] / ours["wall"]
            yield Target(
                what=f"10,000 runs at 10 ms: faster than {words}",
                wanted=f"at least {least} times",
                found=f"{times:.0f} times",
                met=times >= least,
            )


def _large(found: dict[str, Any]) -> Iterator[Target]:
    for kind in ("wall", "cpu"):
        ratios = []
        for runs in (10_000, 100_000):
            ours, floor = (row_of(found, name, runs, SLOW) for name in ("tinkex", "floor"))
            if ours is not None and floor is not None:
                ratios.append(ours[kind] / floor[kind])
        if len(ratios) == 2:
            name = "wall time" if kind == "wall" else "CPU time"
            yield Target(
                what=f"100,000 runs at 10 ms: {name} divided by the floor's",
                wanted=f"at most 20 % above {ratios[0]:.2f}x",
                found=f"{ratios[1]:.2f}x",
                met=ratios[1] <= 1.2 * ratios[0],
            )
    points = growth(found, "tinkex", SLOW)
    if len(points) > 1:
        runs = f"{min(points)[0]:,} to {max(points)[0]:,}"
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
    imports = found["imports"]
    what = "`import tinkex` divided by importing requests, tenacity and blinker"
    yield _at_most(what, imports["tinkex"] / imports["required"], 1.2)
