"""A screen for live views that keeps what it is shown."""

from __future__ import annotations


class Screen:
    """Keeps what is shown; `show` and `end` first call what a test sets."""

    def __init__(self):
        self.shown, self.ended = [], 0
        self.on_show = self.on_end = lambda: None

    def show(self, table, states, news):
        self.on_show()
        self.shown.append((table.text(), states, news))

    def end(self):
        self.on_end()
        self.ended += 1

    @property
    def news(self):
        return [each for _, _, news in self.shown for each in news]
