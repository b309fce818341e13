"""`Table`: some rows of text, as HTML for a notebook and as aligned text for a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeVar

from .words import one_line, text_of, text_of_error

T = TypeVar("T")

#: How many rows are shown.
ROWS_SHOWN = 100

#: How many characters of a long text are shown.
TEXT_SHOWN = 60

#: How many of them where a pointer rests on it.
MOST_SHOWN = 2000

#: Up to how many characters a text stays on one line of its cell.
ONE_LINE = 24

#: How a thing stands: well, being mended, not well, lost, or in the hands of another owner.
Tone = Literal["good", "busy", "warn", "bad", "away"]

#: The colours of tones. They are seen on light and on dark ground, whichever a notebook has.
_RGB: Final[dict[Tone, str]] = {
    "good": "46,160,67",
    "busy": "56,139,253",
    "warn": "210,153,34",
    "bad": "229,72,77",
    "away": "163,113,247",
}

#: The tones of which a whole row is tinted.
_TINTED = frozenset({"busy", "warn", "bad"})

# Only styles that notebooks leave in what they do not trust: of colours no `currentColor`, and a
# border without a colour has that of the text.
_TABLE = "border-collapse:collapse;margin:4px 0"
_CAPTION = "caption-side:top;text-align:left;padding:2px 10px;opacity:0.75"
_CELL = "text-align:left;vertical-align:top;padding:3px 10px"
_HEAD = f"{_CELL};font-weight:600;white-space:nowrap;border-bottom:1px solid"
_LINE = "border-bottom:1px solid rgba(128,128,128,0.2)"


@dataclass(frozen=True, slots=True)
class Cell:
    """A text; `full` is shown when a pointer rests on it, `tone` says how what it tells stands."""

    text: str
    full: str | None = None
    tone: Tone | None = None

    @classmethod
    def long(cls, text: object, tone: Tone | None = None) -> Self:
        """One whose text may be too long to be shown whole; `None` is empty."""
        told = "" if text is None else text_of(text)[:MOST_SHOWN]
        shown = one_line(told, TEXT_SHOWN)
        return cls(shown, None if shown == told else told, tone)

    @classmethod
    def error(cls, error: object) -> Self:
        """One for an error or its text: what the server said in it; `full` is all of it."""
        if error is None:
            return cls("")
        told = text_of(error)[:MOST_SHOWN]
        shown = one_line(text_of_error(error), TEXT_SHOWN)
        return cls(shown, None if shown == told else told)


#: The cells of a row; a text stands for a cell that has nothing else.
Row = tuple[Cell | str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under the titles of their columns; a column without any text is not shown.

    `left_out` says how many rows there would be beside those.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0

    @classmethod
    def of(
        cls, title: str, columns: tuple[str, ...], things: Sequence[T], row: Callable[[T], Row]
    ) -> Self:
        """One with a row for each thing, of many only for the first."""
        made = (map(_as_cell, row(each)) for each in things[:ROWS_SHOWN])
        return cls(title, columns, tuple(map(tuple, made)), max(0, len(things) - ROWS_SHOWN))

    def text(self) -> str:
        """The title and the rows with aligned columns, without a line's end after the last."""
        shown = self._shown()
        lines = [[one_line(row[i].text) for i in shown] for row in self.rows]
        if self._has_head():
            lines.insert(0, [self.columns[i] for i in shown])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([one_line(self.title), *aligned, *self._more()])

    def html(self) -> str:
        """A table with all its styles in it; every text is escaped."""
        shown = self._shown()
        titles = "".join(f'<th style="{_HEAD}">{_escape(self.columns[i])}</th>' for i in shown)
        head = f"<thead><tr>{titles}</tr></thead>" if self._has_head() else ""
        body = "".join(_row([row[i] for i in shown]) for row in self.rows)
        body += "".join(
            f'<tr><td colspan="{len(shown)}" style="{_CELL}">{_escape(more)}</td></tr>'
            for more in self._more()
        )
        title = f'<caption style="{_CAPTION}">{_escape(self.title)}</caption>'
        return f'<table style="{_TABLE}">{title}{head}<tbody>{body}</tbody></table>'

    def _shown(self) -> list[int]:
        """The columns that have any text."""
        numbers = range(len(self.columns))
        return [i for i in numbers if any(row[i].text for row in self.rows)]

    def _has_head(self) -> bool:
        return bool(self.rows) and any(self.columns)

    def _more(self) -> list[str]:
        return [f"… and {self.left_out:,} more"] if self.left_out else []


class Tabular:
    """Something that is shown as a table, in a notebook and at a prompt."""

    __slots__ = ()

    def table(self) -> Table:
        """What is shown."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


def facts_table(title: str, facts: dict[str, Cell | str]) -> Table:
    """What is known of one thing, a row for each fact; empty ones are left out."""
    known = [(name, cell) for name, cell in facts.items() if _as_cell(cell).text]
    return Table.of(title, ("", ""), known, lambda fact: fact)


def below(table: Table, text: str) -> str:
    """A table as HTML with a line of text below it."""
    line = f'<div style="{_CAPTION}">{_escape(text)}</div>' if text else ""
    return f"<div>{table.html()}{line}</div>"


def _as_cell(given: Cell | str) -> Cell:
    return given if isinstance(given, Cell) else Cell(given)


def _row(cells: Sequence[Cell]) -> str:
    tone = next((cell.tone for cell in cells if cell.tone in _TINTED), None)
    ground = f"rgba({_RGB[tone]},0.13)" if tone else "transparent"
    bar = f"rgb({_RGB[tone]})" if tone else "transparent"
    bars = [f"border-left:3px solid {bar};", *[""] * (len(cells) - 1)]
    inner = "".join(
        f'<td style="{bar}{_CELL};{_LINE}{_breaks(cell)}"{_tooltip(cell)}>'
        f"{_dot(cell)}{_escape(cell.text)}</td>"
        for bar, cell in zip(bars, cells, strict=True)
    )
    return f'<tr style="background-color:{ground}">{inner}</tr>'


def _breaks(cell: Cell) -> str:
    return "" if len(cell.text) > ONE_LINE else ";white-space:nowrap"


def _tooltip(cell: Cell) -> str:
    return f' title="{_escape(cell.full)}"' if cell.full else ""


def _dot(cell: Cell) -> str:
    return f'<span style="color:rgb({_RGB[cell.tone]})">●</span> ' if cell.tone else ""


def _escape(text: str) -> str:
    import html  # noqa: PLC0415 (only a notebook needs it)

    # Half of a character, as a server may send it, would end the page: a kernel sends UTF-8.
    return html.escape(text.encode("utf-8", "replace").decode())
