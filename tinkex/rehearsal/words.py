"""One short line of text for each event, for the user who watches a rehearsal."""

from __future__ import annotations

from ..display.words import one_line
from ..signals import Event
from ..signals.words import in_words as whole

#: The longest sentence, so that a line with the time before it fits in 80 columns.
LENGTH = 49


def in_words(event: Event) -> str | None:
    """The sentence for an event; `None` for an event that is not shown."""
    words = whole(event)
    return None if words is None else one_line(words, LENGTH)
