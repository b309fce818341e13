"""The chart of sweep times, as SVG text that is legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from .targets import SLOW
from .variants import PAGE_SIZE

__all__ = ["NAMES", "chart"]

#: The names of the variants.
NAMES = {
    "floor": "bare requests + json",
    "tinkex": "tinkex",
    "sdk": "official SDK, all at once",
    "sdk-loop": "official SDK, one by one",
}

_COLOURS = {"floor": "#8a8f98", "tinkex": "#1f9e89", "sdk": "#e07b39", "sdk-loop": "#c2478d"}
_DASHES = {"floor": "6 5", "tinkex": "none", "sdk": "none", "sdk-loop": "none"}

_WIDTH, _HEIGHT = 800, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 545, 56, 380
_DECADES_X = (2, 5)

_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 15px; font-weight: 600; }
  .quiet { fill: #57606a; }
  .back { fill: #ffffff; }
  .grid { stroke: #d0d7de; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9da7b3; }
    .back { fill: #0d1117; }
    .grid { stroke: #30363d; }
  }
"""


def chart(found: dict[str, Any]) -> str:
    """Seconds of a sweep by number of runs at 10 ms, both axes logarithmic."""
    lines = {
        name: [
            (row["runs"], row["wall"])
            for row in sorted(found["sweeps"], key=lambda row: row["runs"])
            if (row["variant"], row["latency"], row["cap"]) == (name, SLOW, PAGE_SIZE)
        ]
        for name in NAMES
    }
    walls = [wall for points in lines.values() for _, wall in points]
    low, high = math.floor(math.log10(min(walls))), math.ceil(math.log10(max(walls)))
    parts = [*_axes(low, high), *_curves({k: v for k, v in lines.items() if v}, low, high)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
            "<title>Seconds of one sweep by number of monitored runs</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="back" width="{_WIDTH}" height="{_HEIGHT}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _x(runs: float) -> float:
    first, last = _DECADES_X
    return _LEFT + (math.log10(runs) - first) / (last - first) * (_RIGHT - _LEFT)


def _y(wall: float, low: int, high: int) -> float:
    return _BOTTOM - (math.log10(wall) - low) / (high - low) * (_BOTTOM - _TOP)


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def _axes(low: int, high: int) -> Iterator[str]:
    yield _text(_LEFT, 26, "One sweep at 10 ms latency", kind="title")
    yield _text(_LEFT, 44, "seconds, by number of monitored runs; lower is better", kind="quiet")
    for decade in range(low, high + 1):
        y = _y(10.0**decade, low, high)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, f"{10.0**decade:g} s", anchor="end", kind="quiet")
    for decade in range(_DECADES_X[0], _DECADES_X[1] + 1):
        x = _x(10**decade)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>'
        yield _text(x, _BOTTOM + 20, f"{10**decade:,}", anchor="middle", kind="quiet")
    yield _text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "monitored runs", anchor="middle", kind="quiet")


def _curves(lines: dict[str, list[tuple[int, float]]], low: int, high: int) -> Iterator[str]:
    spots = {name: [(_x(r), _y(w, low, high)) for r, w in each] for name, each in lines.items()}
    for name, points in spots.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = _COLOURS[name]
        yield (
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" '
            f'stroke-dasharray="{_DASHES[name]}"/>'
        )
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    below = -math.inf
    for name in sorted(spots, key=lambda name: spots[name][-1][1]):
        x, y = spots[name][-1]
        # If lines end at the same place, their names are put one below the other.
        below = max(y, below + 18)
        seconds = lines[name][-1][1]
        words = (
            f"{NAMES[name]}, {seconds:.2g} s" if seconds < 10 else f"{NAMES[name]}, {seconds:.0f} s"
        )
        yield (
            f'<text x="{x + 10:.1f}" y="{below + 4:.1f}" style="fill: {_COLOURS[name]}; '
            f'font-weight: 600">{escape(words)}</text>'
        )
