"""One line of text for each event, for the user who watches a rehearsal."""

from __future__ import annotations

import re

from ..signals import (
    CheckpointSelected,
    ClientCreated,
    Completed,
    Detected,
    Event,
    Exhausted,
    Failed,
    Missing,
    Paused,
    PollError,
    Resumed,
    RolledBack,
    Started,
    Unprotected,
)
from ..types import Checkpoint

#: How many characters of a session's id are shown.
ID_LENGTH = 8
#: The longest sentence, so that a line with the time before it fits in 80 columns.
LENGTH = 49

#: Finds the server's message in the text of an error of the official SDK.
_DETAIL = re.compile(r"'detail': '(?:Future failed: )?([^']+)'")


def short_id(run_id: str | None) -> str:
    """A run's id with the middle of its session's id left out."""
    session, colon, rest = (run_id or "").partition(":")
    if len(session) <= ID_LENGTH:
        return run_id or "(none)"
    return f"{session[:ID_LENGTH]}..{colon}{rest}"


def name_of(checkpoint: Checkpoint) -> str:
    """A checkpoint's name without its run."""
    return checkpoint.tinker_path.rpartition("/")[2]


def in_words(event: Event) -> str | None:  # noqa: PLR0912 (one sentence per event)
    """The sentence for an event; `None` for an event that is not shown."""
    match event:
        case Detected():
            lost = f"{short_id(event.run_id)} is corrupted"
            return _told(lost, event.reason) if event.reason else f"{lost}, says the server"
        case PollError():
            return _with_error(f"a poll of {short_id(event.run_id)} failed", event.error)
        case Started():
            return f"attempt {event.attempt} to recover it begins"
        case CheckpointSelected():
            return f"checkpoint {name_of(event.checkpoint)} is chosen"
        case ClientCreated():
            return f"it is loaded into a new run: {short_id(event.successor_id)}"
        case Completed():
            return f"recovered within {event.duration:.2f} s"
        case Failed():
            return _with_error(f"attempt {event.attempt} failed", event.error)
        case Exhausted():
            return _with_error("no attempt is left", event.error)
        case Missing():
            return f"{short_id(event.run_id)} cannot be found any more"
        case Unprotected():
            return f"{short_id(event.run_id)} has no usable checkpoint"
        case Paused():
            return _with_error("recoveries wait", event.error)
        case Resumed():
            return "the account works again"
        case RolledBack():
            return "its weights are back at an older state"
        case _:
            return None


def _with_error(words: str, error: BaseException) -> str:
    found = _DETAIL.search(str(error))
    return _told(words, found[1] if found else str(error))


def _told(words: str, text: str) -> str:
    sentence = f"{words}: {' '.join(text.split())}"
    return sentence if len(sentence) <= LENGTH else sentence[: LENGTH - 2] + ".."
