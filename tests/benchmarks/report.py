"""What was measured, as a table for the terminal and as a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .chart import NAMES
from .figures import exponent
from .targets import growth, row_of, targets

__all__ = ["page", "table"]

_METHODS = ("monitor_run", "status", "stop_monitoring")

_HEADS = ("runs", "latency", "", "sweep", "first", "CPU", "requests", "conn.", "peak", "to floor")


def table(found: dict[str, Any]) -> str:
    """Everything, in columns for the terminal."""
    rows = [_HEADS, *_rows(found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines += ["", *(f"{name}: {value}" for name, value in _facts(found)), ""]
    for each in targets(found):
        mark = "met   " if each.met else "MISSED"
        lines.append(f"{mark}  {each.what}: {each.found} ({each.wanted})")
    lines.append(f"\n{_where(found)}; {found['seconds']:.0f} s in all")
    return "\n".join(lines)


def page(found: dict[str, Any]) -> str:
    """The page `docs/performance.md`."""
    goals = [
        f"| {each.what} | {each.wanted} | {each.found} | {'yes' if each.met else 'no'} |"
        for each in targets(found)
    ]
    sweeps = ["| " + " | ".join(row) + " |" for row in _rows(found)]
    facts = [f"| {name} | {value} |" for name, value in _facts(found)]
    return _PAGE.format(
        where=_where(found),
        seconds=found["seconds"],
        goals="\n".join(goals),
        heads="| " + " | ".join(_HEADS) + " |\n|" + "---:|" * len(_HEADS),
        sweeps="\n".join(sweeps),
        facts="\n".join(facts),
        ceiling_pages=found["ceiling"]["pages"],
        ceiling_runs=found["ceiling"]["runs"],
    )


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    order = [*NAMES]
    for row in sorted(
        found["sweeps"], key=lambda row: (row["latency"], row["runs"], order.index(row["variant"]))
    ):
        floor = row_of(found, "floor", row["runs"], row["latency"])
        ratio = row["wall"] / floor["wall"] if floor else None
        yield (
            f"{row['runs']:,}",
            f"{1000 * row['latency']:g} ms",
            NAMES[row["variant"]],
            _seconds(row["wall"]),
            _seconds(row["first"]),
            _seconds(row["cpu"]),
            f"{row['requests']:,}",
            f"{row['connections']:,}",
            f"{row['memory'] / 1e6:.0f} MB",
            "" if ratio is None else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:,.0f}x",
        )


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for latency in sorted({row["latency"] for row in found["sweeps"]}):
        powers = {name: growth(found, name, latency) for name in ("tinkex", "floor")}
        yield (
            f"Sweep time at {1000 * latency:g} ms grows with the number of runs to the power of",
            ", ".join(f"{NAMES[name]} {exponent(each):.2f}" for name, each in powers.items()),
        )
    seen = found["detection"]
    yield (
        f"Detection, {seen['runs']:,} runs at 10 ms polled every second, {seen['count']} flags",
        f"median {seen['median']:.2f} s, 99th percentile {seen['p99']:.2f} s "
        f"(a sweep: {seen['sweep']['median']:.2f} s, at most {seen['sweep']['max']:.2f} s)",
    )
    for name, words in (("calls_in_sweep", "sweeps"), ("calls_in_hang", "a hang")):
        during = found[name]
        yield (
            f"Calls during {words} of {during['runs'] - 1:,} runs, 99th percentile",
            ", ".join(f"`{each}` {_milliseconds(during[each]['p99'])}" for each in _METHODS),
        )
    memory = found["memory"]
    yield (
        f"Memory per monitored run, {memory['runs']:,} of them (`tracemalloc`)",
        f"{memory['registered']:.0f} bytes when registered, {memory['swept']:.0f} after two sweeps",
    )
    for name, words in (
        ("recovery", "one attempt at a time, 0 ms"),
        ("recovery_8", "8 at a time, 10 ms"),
    ):
        recovery = found[name]
        yield (
            f"Recovery of {recovery['runs']:,} runs corrupted at once, {words}",
            f"{recovery['seconds']:.2f} s for {recovery['recovered']:,}",
        )
    imports = found["imports"]
    yield (
        "Import: requests, tenacity and blinker; `tinkex`; `Monitor` from it",
        ", ".join(f"{1000 * imports[each]:.0f} ms" for each in ("required", "tinkex", "monitor")),
    )
    idle = found["idle"]
    yield f"Idle between sweeps, {idle['runs']:,} runs", f"{100 * idle['fraction']:.4f} % of a core"
    few = found["few"]
    yield (
        f"5 runs of an account with {few['runs']:,}: requests of each sweep",
        ", ".join(map(str, few["requests"])),
    )
    for name, words in (("hung_listed", "listed"), ("hung_single", "asked for one by one")):
        hung = found[name]
        yield (
            f"One run whose GET hangs: the other {hung['runs'] - 1:,}, {words}, are seen in",
            f"{hung['with']['median']:.2f} s, without it in {hung['without']['median']:.2f} s",
        )
    ceiling = found["ceiling"]
    yield (
        "The server alone, on 8 connections",
        f"{ceiling['pages']:,.0f} pages or {ceiling['runs']:,.0f} single runs a second",
    )


def _where(found: dict[str, Any]) -> str:
    machine = found["machine"]
    packages = ", ".join(f"{name} {each}" for name, each in machine["packages"].items() if each)
    return (
        f"{machine['day']}: {machine['cores']} cores of {machine['cpu']}, {machine['system']}, "
        f"Python {machine['python']}, {packages}; load average {machine['load_before']:.2f} before "
        f"and {machine['load_after']:.2f} after"
    )


def _seconds(value: float) -> str:
    return f"{value:.4f} s" if value < 0.1 else f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.2f} ms"


_PAGE = """\
# Performance

How fast a monitor polls, beside a bare floor and beside the official SDK. This page is written
by the benchmark itself:

```
python -m tests.benchmarks             # everything, about ten minutes
python -m tests.benchmarks --quick     # the smaller sizes, less than one
python -m tests.benchmarks --write     # everything, and this page
```

Measured {where}; {seconds:.0f} s in all.

![Seconds of one sweep by number of monitored runs](performance.svg)

## Targets

| | wanted | measured | met |
|---|---|---|---|
{goals}

## Sweeps

{heads}
{sweeps}

- **bare requests + json** is the floor: eight threads, each with a `requests.Session`, ask for the
  same pages of 100 runs and parse them with `json.loads`; nothing else is done with them.
- **tinkex** is a `Monitor` with its defaults, whose `poll_now()` is timed. It has at most eight
  connections, too.
- **official SDK, all at once** submits `get_training_run` for each run, then waits for all
  futures; **one by one** waits for each before it asks for the next.
- *sweep* is the median of the sweeps after the first one, *first* is that one: it opens the
  connections. Of the SDK one by one there is only that. *CPU* is what the client's process used,
  *peak* the most memory it had, its imports and the SDK's included. *requests* are those of one
  sweep, *conn.* the connections opened in all, both as the server counted them.

## Other figures

| | |
|---|---|
{facts}

## How it is measured

- One server for all, in a process of its own on the same machine, without TLS. It is asyncio on
  bare sockets and sends rows of 889 bytes that are encoded beforehand; the latency is a timer
  before each answer. Alone, on eight connections, it gives at least {ceiling_pages:,.0f} pages or
  {ceiling_runs:,.0f} single runs a second, many times what any client here asked of it.
- Each variant has a fresh process. The floor and tinkex make their sweeps in turns, so that
  what else the machine does meets both. Nothing is scaled up: what stands here was run.
- The calls are timed with a pause before each, so that they lie all over the sweep.
- Memory per run counts what the monitor keeps: not the text of the run's id, which the caller has
  already, but the newest checkpoint that the server told of. Each run came with a service
  client's own key and base URL.
- A detection is timed from the moment at which the server sets the flag.
- Recoveries list the run's checkpoints over REST; the service client only pretends to load.

## What to make of it

- The ratios are the message. Times depend on the machine, and on one with few cores the server
  and the client share them.
- tinkex is fast because it lists: a page tells of 100 runs. Where a server has no list, or the
  monitored runs are few among very many, each is asked for by itself, eight at a time; a sweep
  then takes as long as that many requests do.
- The SDK is asked with `get_training_run`, since that is what one writes first to look after
  runs, and what the Elixir original of this monitor does. It has a list of runs too: whoever
  pages through that by hand needs a hundredth of the requests.
- The SDK's later sweeps are compared, not the first, in which it opens a connection for each run.
- Without latency a page costs more the more runs there are, for the floor just as for tinkex:
  the exponents there are the machine's, not the monitor's.
- The first use of `Monitor` imports the parts that `import tinkex` leaves for later; together
  they take what stands last in the row on imports.
"""
