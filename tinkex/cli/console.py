"""What all commands share: exit statuses, lines and tables of output, number arguments."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Exit statuses beside 0: something failed; the command could not begin; the server could not be
#: asked; it was interrupted; nothing reads what it writes any more.
FAILED = 1
UNUSABLE = 2
UNREACHABLE = 3
INTERRUPTED = 130
BROKEN_PIPE = 141

#: Columns: text is never set narrower.
NARROWEST = 40

#: Columns that the frame of a table takes for each of its own.
FRAME = 3

#: Where a table leaves its first column less than this, all columns are narrowed alike.
LEAST_ROOM = 12


def prepare() -> None:
    """Make the standard streams take any text, also where the caller has closed them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """Text that a terminal shows and does not obey: servers may send any characters."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def say(line: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(plain(line) + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Write a line to standard error, after the program's name; where it takes none, do nothing."""
    with suppress(OSError):
        sys.stderr.write(f"tinkex: {plain(line)}\n")


def width() -> int:
    """The columns of the terminal, at least `NARROWEST`."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def can_print(text: str) -> bool:
    """Whether the encoding of standard output has all characters of `text`."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def terminal() -> Console:
    """Standard output for tables; needs the extra `cli`."""
    from rich.console import Console  # noqa: PLC0415 (an extra)

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # Nothing of a run's id is read as markup, an emoji or a number to be coloured.
    console = Terminal(markup=False, emoji=False, highlight=False)
    if console.width < NARROWEST:  # noqa: PLR1730 (a width that is set follows no resizing)
        console.width = NARROWEST
    return console


def table(
    caption: str,
    titles: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str]],
    *,
    styled: str = "",
) -> Table:
    """A table in which nothing is cut; each row has a style for the column `styled`.

    Where the first column does not fit, it has what the longest words of the others leave.
    """
    from rich.markup import escape  # noqa: PLC0415 (an extra)
    from rich.table import Table  # noqa: PLC0415 (an extra)
    from rich.text import Text  # noqa: PLC0415 (an extra)

    listed = [(tuple(map(plain, cells)), style) for cells, style in rows]
    columns = list(zip(titles, *(cells for cells, _ in listed), strict=True))
    made = Table(caption=escape(plain(caption)), caption_justify="left")
    for title, fixed in zip(titles, _widths(columns), strict=True):
        made.add_column(title, overflow="fold", width=fixed)
    for cells, style in listed:
        shown = zip(titles, cells, strict=True)
        made.add_row(*(Text(text, style if title == styled else "") for title, text in shown))
    return made


def _widths(columns: Sequence[Sequence[str]]) -> list[int | None]:
    """The widths of columns; `None`: as it fits."""
    words = [max(len(word) for text in column for word in text.split()) for column in columns[1:]]
    room = terminal().width - sum(words) - FRAME * len(columns) - 1
    longest = max(map(len, columns[0]))
    if room >= longest:
        return [longest, *[None] * len(words)]
    return [room, *words] if room >= LEAST_ROOM else [None] * len(columns)


def seconds(text: str) -> float:
    """Read an argument that is a number of seconds, from 1 to a day."""
    number = float(text)
    if not 1 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to 86400 seconds")
    return number


def run_id(text: str) -> str:
    """Read an argument that is the id of a run."""
    from ..rest.paths import checked_id  # noqa: PLC0415 (with it comes what asks servers)

    try:
        return checked_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def filled(text: str) -> str:
    """Read an argument that is any text but none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def whole(text: str) -> int:
    """Read an argument that is a whole number, 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number
