"""A line that shows what a call waits for: a bar of tqdm's, where that is installed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .screens import is_terminal, kernel_here

logger = logging.getLogger(__name__)


class Progress:
    """One line that is written over, in a notebook or on a terminal.

    Of one thread: the one that waits. `call` calls a function and returns when it has ended, or
    raises an interrupt and lets it go on: cut off in the middle, tqdm keeps a lock of all its bars.
    """

    def __init__(self, call: Callable[[Callable[[], object]], object]) -> None:
        self._call = call
        self._make: Any = None
        self._bar: Any = None
        try:
            self._make = _maker()
        except Exception as error:  # of a package that is broken, or of a stream of the caller's
            self._give_up(error)

    @property
    def is_seen(self) -> bool:
        """Whether anything can be shown here."""
        return self._make is not None

    def show(self, words: str) -> None:
        """Show words in place of those before. What tqdm raises is logged, and ends the line."""
        self._try(lambda make: self._write(make, words))

    def end(self, words: str) -> None:
        """Leave it, with these words as its last, where it was shown."""
        bar = self._bar
        if bar is not None:
            # It is drawn once more as it is closed.
            self._try(lambda _: bar.set_description_str(words, refresh=False))
            self.close()

    def write(self, words: str) -> None:
        """Show a line that stays, above those of all bars."""
        self._try(lambda make: make.write(words, file=sys.stderr))

    def close(self) -> None:
        """Leave it as it is."""
        bar, self._bar = self._bar, None
        if bar is not None:
            self._try(lambda _: bar.close())

    def _write(self, make: Any, words: str) -> None:
        if self._bar is None:
            self._bar = make(bar_format="{desc}", desc=words)
        else:
            self._bar.set_description_str(words)

    def _try(self, write: Callable[[Any], object]) -> None:
        make = self._make
        if make is None:
            return
        try:
            self._call(lambda: write(make))
        except Exception as error:  # of a stream that is closed, or of a notebook's widget
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._make = None
        with suppress(Exception):  # handlers of the log are foreign, too
            logger.warning("what is waited for cannot be shown (%s)", type(error).__name__)


def show_line(words: str, call: Callable[[Callable[[], object]], object]) -> None:
    """Show a line that stays; `call` as in `Progress`."""
    Progress(call).write(words)


def _maker() -> Any:
    kernel = kernel_here()
    if kernel is None and not is_terminal(sys.stderr):
        return None
    # In a notebook `tqdm.auto` warns where there are no widgets that it could draw.
    has_widgets = kernel is not None and find_spec("ipywidgets") is not None
    try:
        made: Callable[..., Any] = import_module("tqdm.notebook" if has_widgets else "tqdm").tqdm
    except ImportError:
        return None
    return made
