"""Where a live view is shown: in a notebook, as one line on a terminal, or as a line per event."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TextIO, TypeGuard

from .table import Table, below
from .words import one_line


class Screen(Protocol):
    """What a live view is shown on."""

    def show(self, table: Table, states: str, news: Sequence[str]) -> None:
        """Show a table, how many there are in which state, and what was told since the last."""

    def end(self) -> None:
        """Leave what is shown as it is."""


class _Panel(NamedTuple):
    """A table with the last news below it, as a notebook shows it."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


class Notebook:
    """One display that is updated in place; `display` is IPython's."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None
        self._last = ""

    def show(self, table: Table, states: str, news: Sequence[str]) -> None:
        """Update the display; the first time, make it."""
        self._last = news[-1] if news else self._last
        panel = _Panel(below(table, self._last), f"{table.text()}\n{self._last}".rstrip())
        if self._handle is None:
            self._handle = self._display(panel, display_id=True)
        else:
            self._handle.update(panel)

    def end(self) -> None:
        """Leave it."""


class Terminal:
    """One line that is written over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""
        self._width = 0

    def show(self, table: Table, states: str, news: Sequence[str]) -> None:
        """Write the line anew."""
        self._last = news[-1] if news else self._last
        told = " · ".join(filter(None, (states or "no runs", self._last)))
        line = one_line(f"tinkex: {told}", shutil.get_terminal_size().columns - 1)
        self._stream.write(f"\r{line.ljust(self._width)}")
        self._stream.flush()
        self._width = len(line)

    def end(self) -> None:
        """Leave the line for the next one."""
        self._stream.write("\n")
        self._stream.flush()


class Lines:
    """A line for all that is told."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, table: Table, states: str, news: Sequence[str]) -> None:
        """Write what is new."""
        self._stream.write("".join(f"{one_line(f'tinkex: {each}')}\n" for each in news))
        self._stream.flush()

    def end(self) -> None:
        """Nothing is left to do."""


def kernel_here() -> Any:
    """The kernel of the notebook that this process runs, if it runs one."""
    # Another thread may be importing it right now.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None)


def screen_here() -> Screen:
    """What the user of this process looks at."""
    if kernel_here() is not None:
        from IPython.display import display  # noqa: PLC0415 (a kernel has it)

        return Notebook(display)
    stream: TextIO | None = sys.stderr
    if is_terminal(stream):
        return Terminal(stream)
    # A process without a console has none, or one that is closed.
    if stream is None or getattr(stream, "closed", False):
        return Lines(io.StringIO())
    return Lines(stream)


def is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    """Whether a user looks at it. A caller's own may have no more than `write` and `flush`."""
    try:
        return stream is not None and not getattr(stream, "closed", False) and stream.isatty()
    except Exception:  # of a caller's own class
        return False
