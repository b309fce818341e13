"""Line charts in text: panels side by side that share one vertical axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: The least columns of a chart, and of a chart with panels side by side.
NARROWEST = 30
BESIDE = 60
#: Columns between two panels.
GAP = 2
#: Rows of a panel, unless told otherwise.
HEIGHT = 10

#: The dots of a braille character, by row and column, as bits.
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BRAILLE_BLANK = 0x2800

Point = tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One curve: `points` are (step, value) in order; `marks` are steps to draw a line at."""

    title: str
    points: Sequence[Point]
    marks: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """The steps and values at the edges of a panel."""

    left: int
    right: int
    low: float
    high: float

    def column(self, step: int, dots: int) -> int:
        """The dot, counted from the left, of a step."""
        return round((step - self.left) / max(1, self.right - self.left) * (dots - 1))

    def row(self, value: float, dots: int) -> int:
        """The dot, counted from the top, of a value."""
        if self.high <= self.low:
            return (dots - 1) // 2
        return round((self.high - value) / (self.high - self.low) * (dots - 1))


def draw(
    panels: Sequence[Panel],
    *,
    width: int = 80,
    height: int = HEIGHT,
    margin: int = 0,
    plain: bool = False,
) -> list[str]:
    """Draw panels side by side, or below each other if `width` is small.

    Args:
        panels: At least one, each with at least one point; all share the scale.
        width: Columns that may be used.
        height: Rows of each panel, without its title and its axis.
        margin: The least columns for the labels of the vertical axis.
        plain: ASCII only.

    Returns:
        The lines, without trailing blanks.
    """
    if not panels or not all(panel.points for panel in panels):
        raise ValueError("a chart needs panels, and each of them points")
    width = max(NARROWEST, width)
    scale = _scale_of(panels)
    labels = _labels(scale, height, margin)
    if len(panels) > 1 and width < BESIDE:
        parts = [_draw_row([one], scale, labels, width, height, plain=plain) for one in panels]
        return [line for part in parts for line in part]
    return _draw_row(panels, scale, labels, width, height, plain=plain)


def _draw_row(
    panels: Sequence[Panel],
    scale: _Scale,
    labels: Sequence[str],
    width: int,
    height: int,
    *,
    plain: bool,
) -> list[str]:
    margin = len(labels[0])
    room = width - margin - GAP * (len(panels) - 1)
    columns = room // len(panels) - 1  # one is the panel's own vertical axis
    boxes = [_box(panel, scale, columns, height, plain=plain) for panel in panels]
    left = [" " * margin, *labels, " " * margin, " " * margin]
    rows = [(" " * GAP).join(parts) for parts in zip(*boxes, strict=True)]
    return [f"{label}{row}".rstrip() for label, row in zip(left, rows, strict=True)]


def _scale_of(panels: Sequence[Panel]) -> _Scale:
    steps = [step for panel in panels for step, _ in panel.points]
    values = [value for panel in panels for _, value in panel.points]
    return _Scale(left=min(steps), right=max(steps), low=min(values), high=max(values))


def _labels(scale: _Scale, height: int, margin: int) -> list[str]:
    """The labels of the vertical axis: one for each row, all of one length."""
    if scale.high <= scale.low:
        texts = {(height - 1) // 2: f"{scale.high:.3g}"}
    else:
        middle = (scale.high + scale.low) / 2
        texts = {0: f"{scale.high:.3g}", height - 1: f"{scale.low:.3g}"}
        if height % 2:
            texts[height // 2] = f"{middle:.3g}"
    margin = max(margin - 1, 1 + max(map(len, texts.values())))
    return [texts.get(row, "").rjust(margin) + " " for row in range(height)]


def _box(panel: Panel, scale: _Scale, columns: int, height: int, *, plain: bool) -> list[str]:
    """A panel's lines, all of one length: title, curve, axis, the steps at its ends."""
    axis, corner, floor = ("|", "+", "-") if plain else ("│", "└", "─")
    marks = {scale.column(step, columns): step for step in panel.marks}
    canvas = _plain_curve if plain else _braille_curve
    curve = canvas(panel.points, scale, columns, height)
    base, footer = floor * columns, _footer(scale, columns)
    for mark, step in marks.items():
        line = ":" if plain else "┊"
        curve = [_with(row, mark, line) if row[mark] == " " else row for row in curve]
        base = _with(base, mark, "^" if plain else "┴")
        footer = _named(footer, mark, str(step))
    return [
        f" {panel.title}"[: columns + 1].ljust(columns + 1),
        *(axis + row for row in curve),
        corner + base,
        " " + footer,
    ]


def _footer(scale: _Scale, columns: int) -> str:
    """The steps at both ends."""
    first, last = str(scale.left), str(scale.right)
    return first.ljust(columns - len(last)) + last


def _named(footer: str, mark: int, text: str) -> str:
    """A footer with the step of a mark below it, if there is room for it."""
    start = min(max(0, mark - len(text) // 2), len(footer) - len(text))
    around = footer[max(0, start - 1) : start + len(text) + 1]
    return footer if around.strip() else footer[:start] + text + footer[start + len(text) :]


def _with(row: str, column: int, character: str) -> str:
    return row[:column] + character + row[column + 1 :]


def _braille_curve(points: Sequence[Point], scale: _Scale, columns: int, height: int) -> list[str]:
    cells = [[0] * columns for _ in range(height)]
    for x, y in _dots(points, scale, columns * 2, height * 4):
        cells[y // 4][x // 2] |= _BRAILLE[y % 4][x % 2]
    return ["".join(chr(_BRAILLE_BLANK + bits) if bits else " " for bits in row) for row in cells]


def _plain_curve(points: Sequence[Point], scale: _Scale, columns: int, height: int) -> list[str]:
    cells = [[" "] * columns for _ in range(height)]
    for x, y in _dots(points, scale, columns, height):
        cells[y][x] = "*"
    return ["".join(row) for row in cells]


def _dots(points: Sequence[Point], scale: _Scale, across: int, down: int) -> set[tuple[int, int]]:
    """The dots of the line through all points, (column, row) from the upper left corner."""
    corners = [(scale.column(step, across), scale.row(value, down)) for step, value in points]
    dots = {corners[0]}
    for (x0, y0), (x1, y1) in pairwise(corners):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots.update(
            (round(x0 + (x1 - x0) * part / count), round(y0 + (y1 - y0) * part / count))
            for part in range(count + 1)
        )
    return dots
