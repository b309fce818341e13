"""One sentence for each event, for users who watch what becomes of their runs."""

from __future__ import annotations

from ..display.words import name_of, one_line, short_id, text_of_error
from .events import (
    Cause,
    CheckpointSelected,
    ClientCreated,
    Completed,
    Detected,
    Event,
    Exhausted,
    Failed,
    Fenced,
    JournalFailed,
    Missing,
    Paused,
    PollError,
    Resumed,
    RolledBack,
    Started,
    Unprotected,
)

#: What a run is that was found to be lost.
_LOST = {
    Cause.UNUSABLE: "cannot be used any more",
    Cause.ERROR: "has failed",
    Cause.ROLLED_BACK: "is back at an older state",
}


def in_words(event: Event, run: str | None = None) -> str | None:  # noqa: PLR0912 (one each)
    """The sentence for an event; `None` for one that users need not see, such as a sweep's end.

    `run` is what the run is called in it; without it the sentence is for a reader who knows which
    run is being recovered.
    """
    it, of_it = run or "it", f" for {run}" if run else ""
    match event:
        case Detected():
            lost = f"{short_id(event.run_id)} {_LOST.get(event.cause, 'is corrupted')}"
            says = ", says the server" if event.cause is Cause.CORRUPTED else ""
            return _told(lost, event.reason) if event.reason else f"{lost}{says}"
        case PollError():
            return _with_error(f"a poll of {short_id(event.run_id)} failed", event.error)
        case Started():
            return f"attempt {event.attempt} to recover {it} begins"
        case CheckpointSelected():
            return f"checkpoint {name_of(event.checkpoint.tinker_path)} is chosen{of_it}"
        case ClientCreated():
            return f"{it} is loaded into a new run: {short_id(event.successor_id)}"
        case Completed():
            is_run = f"{run} is " if run else ""
            return f"{is_run}recovered within {event.duration:.2f} s"
        case Failed():
            return _with_error(f"attempt {event.attempt}{of_it} failed", event.error)
        case Exhausted():
            return _with_error(f"no attempt is left{of_it}", event.error)
        case Missing():
            return f"{short_id(event.run_id)} cannot be found any more"
        case Unprotected():
            return f"{short_id(event.run_id)} has no usable checkpoint"
        case Paused():
            return _with_error("recoveries wait", event.error)
        case Resumed():
            return "the account works again"
        case Fenced():
            return f"{short_id(event.successor_id)} has taken {it} over"
        case JournalFailed():
            return _with_error("the journal fails", event.error)
        case RolledBack():
            weights = f"the weights of {run}" if run else "its weights"
            return f"{weights} are back at an older state"
        case _:
            return None


def _with_error(words: str, error: BaseException) -> str:
    return _told(words, text_of_error(error))


def _told(words: str, text: str) -> str:
    return one_line(f"{words}: {text}")
