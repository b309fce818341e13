"""`LiveView`: shows the runs of a monitor, and keeps what is shown up to date."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakMethod

from .display.screens import Screen, screen_here
from .display.table import ROWS_SHOWN
from .display.words import short_id
from .errors import MonitorStoppedError, in_words
from .parts import Parts
from .runs.status import StatusTable
from .runtime.delivery import Delivery
from .signals import Event, Subscription, subscribe
from .signals.words import in_words as sentence

logger = logging.getLogger(__name__)

#: The least seconds between two updates.
EVERY = 1.0

#: How many seconds the last update may take.
PATIENCE = 1.0


class LiveView:
    """What `Monitor.live` shows, until `close()`, the end of a `with` block or the monitor's stop.

    Threads: safe from any thread. Updates are made on a thread of their own (`tinkex-live_N`).
    """

    def __init__(self, monitor: object, parts: Parts, screen: Screen) -> None:
        self._parts = parts
        self._screen = screen
        self._delivery = Delivery(inline=parts.is_inline, on_idle=lambda: None, name="tinkex-live")
        self._ended = threading.Event()
        self._lock = threading.Lock()
        # Guarded by _lock: _news, what was told since the last update, of much the last;
        # _is_due, whether an update is coming; _is_wanted, whether one is to be drawn, and
        # _is_drawing, whether a thread draws, one at a time; _shown_at, when it last began;
        # _is_open.
        self._news: deque[str] = deque(maxlen=ROWS_SHOWN)
        self._is_due = self._is_wanted = self._is_drawing = False
        self._shown_at = parts.clock.monotonic()
        self._is_open = True
        # Held weakly: the monitor holds its view, and is held by no signal.
        note = WeakMethod(self._note)

        def receive(_: object, *, event: Event) -> None:
            if (to := note()) is not None:
                to(event)

        self._subscription: Subscription = subscribe(receive, sender=monitor)

    def __repr__(self) -> str:
        return f"<LiveView, {'closed' if self._ended.is_set() else 'open'}>"

    def close(self, timeout: float = PATIENCE) -> None:
        """Update it once more and leave it as it is; the second time without effect.

        Where the display hangs it is given up after `timeout` seconds. In a forked child it does
        nothing: the display is its parent's.
        """
        self._end_by(self._finish, timeout)

    def give_way(self) -> None:
        """Leave it as it is, for another view; where the display hangs it is given up."""
        self._end_by(self.end, PATIENCE)

    def _end_by(self, function: Callable[[], object], timeout: float) -> None:
        if not self._parts.home.is_left() and not self._ended.is_set():
            self._delivery.post(self, function)
            self._ended.wait(timeout)
            self.let_go()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _note(self, event: Event) -> None:
        words = sentence(event, None if event.run_id is None else short_id(event.run_id))
        with self._lock:
            if words is not None:
                self._news.append(words)
            if self._is_due or not self._is_open:
                return
            self._is_due = True
            # A clock of the caller's may be set back.
            wait = min(EVERY, max(0.0, self._shown_at + EVERY - self._parts.clock.monotonic()))
        try:
            self._parts.clock.call_surely(wait, lambda: self._delivery.post(self, self.show))
        except BaseException:  # no thread: the next event tries again
            with self._lock:
                self._is_due = False
            raise

    def show(self) -> None:
        """Update it now. What the display raises is logged, and ends the view."""
        if self._parts.home.is_left():
            return
        with self._lock:
            self._is_wanted = True
            if self._is_drawing:  # that thread draws once more
                return
            self._is_drawing = True
        while (news := self._taken()) is not None:
            self._draw(news)

    def _taken(self) -> tuple[str, ...] | None:
        """What is new in an update that is to be drawn, `None` where none is."""
        with self._lock:
            if not (self._is_wanted and self._is_open):
                self._is_drawing = False
                return None
            self._is_wanted = self._is_due = False
            self._shown_at = self._parts.clock.monotonic()
            news = tuple(self._news)
            self._news.clear()
        return news

    def _draw(self, news: tuple[str, ...]) -> None:
        try:
            runs = StatusTable(self._parts.runs.status_of_all())
            self._screen.show(runs.table(), runs.states(), news)
        except Exception as error:
            logger.warning("the live view ended, as it could not be shown (%s)", in_words(error))
            self.end()
        except BaseException:  # an interrupt or an exit
            self.end()
            raise

    def _finish(self) -> None:
        self.show()
        self.end()

    def end(self) -> None:
        """Leave it as it is."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            try:
                with suppress(Exception):  # of a display that failed before
                    self._screen.end()
            finally:
                self.let_go()

    def let_go(self) -> None:
        """Show nothing more, whatever the display is doing."""
        with self._lock:
            self._is_open = False
        self._subscription.close()
        self._delivery.close()
        self._ended.set()


class Viewed:
    """The part of a `Monitor` that shows its runs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._view_lock = threading.Lock()
        # Guarded by _view_lock: _view, the live view of now; _is_over, whether none may follow.
        self._view: LiveView | None = None
        self._is_over = False

    def live(self) -> LiveView:
        """Show the runs, and keep what is shown up to date while they are monitored.

        In a notebook it is a table with the last event below it, on a terminal one line on stderr,
        else a line on stderr for each event that matters. It is updated with each event and sweep,
        at most once a second. Called again, it takes the place of the one before.

        Returns:
            The view, which ends with the monitor, by its `close()`, or as a `with` block.

        Raises:
            MonitorStoppedError: The monitor was stopped, or this is a forked child.
        """
        self._parts.home.check()
        view = LiveView(self, self._parts, screen_here())
        with self._view_lock:
            before, is_over = self._view, self._is_over
            self._view = None if is_over else view
        if before is not None:
            before.give_way()
        if is_over:
            view.let_go()
            raise MonitorStoppedError("this monitor was stopped; make a new one")
        view.show()
        return view

    def _end_view(self, timeout: float) -> None:
        with self._view_lock:
            self._is_over, view = True, self._view
        if view is not None:
            view.close(min(timeout, PATIENCE))

    def _repr_html_(self) -> str:
        return StatusTable(self._parts.runs.status_of_all())._repr_html_()
