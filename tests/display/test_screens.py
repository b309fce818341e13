"""Where a live view is shown."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest

from tinkex.display.screens import Lines, Notebook, Terminal, kernel_here, screen_here
from tinkex.display.table import Table

TABLE = Table.of("1 run", ("run",), ["s:train:0"], lambda run: (run,))


class Stream(io.StringIO):
    def __init__(self, *, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


class Handle:
    def __init__(self, shown):
        self.shown = [shown]

    def update(self, shown):
        self.shown.append(shown)


def test_a_notebook_has_one_display_with_the_last_news_below_the_table():
    handles = []

    def display(panel, *, display_id):
        assert display_id is True
        handles.append(Handle(panel))
        return handles[-1]

    screen = Notebook(display)
    screen.show(TABLE, "1 healthy", ["a < b", "c < d"])
    screen.show(TABLE, "1 healthy", [])
    screen.end()

    [handle] = handles
    first, second = handle.shown
    assert "c &lt; d" in first._repr_html_()
    assert "a &lt; b" not in first._repr_html_()
    assert first._repr_html_() == second._repr_html_()
    assert repr(second) == "1 run\nrun\ns:train:0\nc < d"


def test_a_terminal_has_one_line_that_is_written_over(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Stream(is_terminal=True)
    screen = Terminal(stream)

    screen.show(TABLE, "1 recovering", ["attempt 1 to recover a begins", "x" * 100])
    screen.show(TABLE, "1 healthy", ["y"])
    screen.end()

    _, first, second = stream.getvalue().split("\r")
    assert len(first) == 39
    assert first.startswith("tinkex: 1 recovering · xxx")
    assert second == "tinkex: 1 healthy · y".ljust(39) + "\n"


def test_where_there_is_no_terminal_each_of_the_news_is_a_line():
    stream = Stream(is_terminal=False)
    screen = Lines(stream)

    screen.show(TABLE, "1 healthy", ["a", "b"])
    screen.show(TABLE, "1 healthy", [])
    screen.end()

    assert stream.getvalue() == "tinkex: a\ntinkex: b\n"


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, Terminal), (False, Lines)])
def test_without_a_kernel_standard_error_is_looked_at(monkeypatch, is_terminal, kind):
    monkeypatch.setattr(sys, "stderr", Stream(is_terminal=is_terminal))

    assert type(screen_here()) is kind


@pytest.mark.parametrize(
    ("shell", "kind"),
    [(SimpleNamespace(kernel=object()), Notebook), (SimpleNamespace(), Lines), (None, Lines)],
    ids=["kernel", "IPython at a prompt", "only imported"],
)
def test_a_kernel_of_ipython_shows_a_display(monkeypatch, shell, kind):
    monkeypatch.setattr(sys, "stderr", Stream(is_terminal=False))
    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython, displays.display = lambda: shell, print
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)

    assert type(screen_here()) is kind


class Tee:
    """What many a script puts in the place of standard error, to keep it in a file as well."""

    def __init__(self, *streams):
        self._streams = streams

    def write(self, text):
        for each in self._streams:
            each.write(text)

    def flush(self):
        for each in self._streams:
            each.flush()


def test_standard_error_may_be_anything_that_can_be_written_to(monkeypatch):
    kept = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Tee(kept))

    screen = screen_here()
    screen.show(TABLE, "1 healthy", ["a"])
    screen.end()

    assert kept.getvalue() == "tinkex: a\n"


def test_a_notebook_that_is_still_being_imported_is_none_yet(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))

    assert kernel_here() is None
