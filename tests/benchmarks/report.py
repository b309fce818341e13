"""The results as a table for the terminal and as the page `docs/performance.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import account
from .chart import NAMES
from .figures import exponent
from .targets import METHODS, growth, row_of, targets

__all__ = ["page", "table"]

_HEADS = (
    "runs",
    "latency",
    "page",
    "",
    "sweep",
    "first",
    "CPU",
    "requests",
    "conn.",
    "peak",
    "/ floor",
)


def table(found: dict[str, Any]) -> str:
    """All results, in columns for the terminal."""
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
        row_bytes=len(account.row_of(0)),
        news_every=account.NEWS_EVERY,
        odd_every=account.ODD_EVERY,
    )


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    order = [*NAMES]

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["cap"], row["latency"], row["runs"], order.index(row["variant"])

    for row in sorted(found["sweeps"], key=place):
        floor = row_of(found, "floor", row["runs"], row["latency"], row["cap"])
        ratio = row["wall"] / floor["wall"] if floor else None
        yield (
            f"{row['runs']:,}",
            f"{1000 * row['latency']:g} ms",
            f"{row['cap']}",
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
            f"Growth exponent of the sweep time over the number of runs, {1000 * latency:g} ms",
            ", ".join(f"{NAMES[name]} {exponent(each):.2f}" for name, each in powers.items()),
        )
    seen = found["detection"]
    yield (
        f"Detection, {seen['runs']:,} runs at 10 ms polled every second, {seen['count']} flags",
        f"median {seen['median']:.2f} s, 99th percentile {seen['p99']:.2f} s "
        f"(a sweep: {seen['sweep']['median']:.2f} s, at most {seen['sweep']['max']:.2f} s)",
    )
    yield from _calls(found)
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
    journals = found["journals"]
    yield (
        f"{journals['runs'] - 1:,} runs registered, with a journal until they are on the disk",
        f"{journals['seconds']:.2f} s, without one {journals['without']:.2f} s",
    )
    told = [f"{1000 * journals['incident'][each]['median']:.1f} ms" for each in ("with", "without")]
    yield ("An incident, with a journal and without, median", ", ".join(told))
    imports = found["imports"]
    yield (
        "Import: requests, tenacity and blinker; `import tinkex`; `Monitor` too",
        ", ".join(f"{1000 * imports[each]:.0f} ms" for each in ("required", "tinkex", "monitor")),
    )
    idle = found["idle"]
    yield (
        f"CPU between sweeps, {idle['runs']:,} runs",
        f"{100 * idle['fraction']:.4f} % of one core",
    )
    few = found["few"]
    yield (
        f"5 runs of an account with {few['runs']:,}: requests of each sweep",
        ", ".join(map(str, few["requests"])),
    )
    for name, words in (("hung_listed", "polled by list"), ("hung_single", "polled one by one")):
        hung = found[name]
        yield (
            f"With one run whose GET hangs, the other {hung['runs'] - 1:,}, {words}, take",
            f"{hung['with']['median']:.2f} s; without it {hung['without']['median']:.2f} s",
        )
    ceiling = found["ceiling"]
    yield (
        "The server alone, on 8 connections",
        f"{ceiling['pages']:,.0f} pages or {ceiling['runs']:,.0f} single runs a second",
    )


def _calls(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    refusal, loops, looks = (
        found[name] for name in ("calls_in_refusal", "calls_with_loops", "status_of_all")
    )
    for runs, during, words in (
        (found["calls_in_sweep"]["runs"], found["calls_in_sweep"], "during sweeps of {} runs"),
        (found["calls_in_hang"]["runs"], found["calls_in_hang"], "during a hang of {} runs"),
        (refusal["runs"], refusal["refused"], "while an account of {} runs is refused"),
        (refusal["runs"], refusal["back"], "while an account of {} runs comes back"),
        (loops["runs"], loops["without"], "while {} runs fail"),
        (loops["runs"], loops["with"], "while {} runs fail and a loop waits for each second one"),
        (looks["runs"], looks, "while another thread asks for the `status()` of all {} runs"),
    ):
        yield (
            f"Calls {words.format(f'{runs - 1:,}')}, 99th percentile",
            ", ".join(f"`{each}` {_milliseconds(during[each]['p99'])}" for each in METHODS),
        )
    ratio = loops["with"]["sweep"]["median"] / loops["without"]["sweep"]["median"]
    yield "The sweeps that fail with those loops, divided by those without", f"{ratio:.2f}x"
    yield (
        f"`status()` of all {looks['runs'] - 1:,} runs",
        f"{looks['seconds']['median']:.2f} s, {looks['ratio']:.1f}x a list of as many small tuples",
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

How fast a monitor polls, compared with a minimal program (the floor) and with the official SDK.
The benchmark itself writes this page:

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

- **bare requests + json** is the floor: eight threads, each with a `requests.Session`, ask for
  pages of 100 runs, parse them with `json.loads` and look at each row's `corrupted`; they do
  nothing else.
- **tinkex** is a `Monitor` with its defaults; its `poll_now()` is timed. It has at most eight
  connections, too.
- **official SDK, all at once** submits `get_training_run` for each run, then waits for all
  futures; **one by one** waits for each before it asks for the next.
- *page* is the most rows that the server gives at a time; it answers 422 to who asks for more.
- *first* is the time of the first sweep, which opens the connections; *sweep* is the median of
  the later ones. "One by one" makes only one sweep. *CPU* is the CPU time of the client's process,
  *peak* its highest memory use, all imports included. *requests* are those of one sweep, *conn.*
  all connections that were opened, both counted by the server.

## Other figures

| | |
|---|---|
{facts}

## How it is measured

- One server for all, in its own process on the same machine, without TLS. It uses asyncio on
  plain sockets, and rows are encoded beforehand; the latency is a timer before each answer. Alone,
  on eight connections, it gives at least {ceiling_pages:,.0f} pages or {ceiling_runs:,.0f} single
  runs a second, many times more than any client here asked for.
- A row is what the hosted service sends, of {row_bytes} bytes: both checkpoints with an expiry, the
  step in the newest one's metadata, metadata of the run. Between two sweeps each run's last request
  becomes a later one, and one run in {news_every} saves. One row in {odd_every:,} has an
  unexpected value, such as `"lora_rank": "32"`. Every figure is measured with these rows.
- Each variant has a fresh process. The floor and tinkex make their sweeps in turns, so that
  other work of the machine affects both. No number is extrapolated: all were measured.
- There is a pause before each timed call, so that the calls are spread over the sweep.
- Memory per run is what the monitor keeps: the newest checkpoint that the server sent, but not the
  text of the run's id, which the caller already has. Each run was given with a service client that
  has its own key and base URL.
- A detection is timed from the moment when the server sets the flag.
- Recoveries list the run's checkpoints over REST; the service client only pretends to load.

## How to read it

- Look at the ratios. Times depend on the machine; if it has few cores, the server and the client
  share them.
- tinkex is fast because it lists: one page has 100 runs. If a server has no list, or if few of
  very many runs are monitored, it asks for each run in a request of its own, eight at a time; a
  sweep then takes as long as that many requests.
- The SDK variants use `get_training_run`: that is the first way to write it, and the way of the
  Elixir original of this monitor. The SDK has a list of runs too; a program that reads its pages
  needs a hundredth of the requests.
- The SDK's later sweeps are compared, not the first, in which it opens a connection for each run.
- Without latency a page takes longer if there are more runs, for the floor as for tinkex: the
  exponent at 0 ms is that of the machine, not of the monitor.
- The first use of `Monitor` imports the parts that `import tinkex` does not need; the last number
  in the row on imports includes both.
"""
