"""Ages, durations, times, sizes, ids and the facts of an event in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

#: How many characters of a session's id are shown.
ID_LENGTH = 8

#: Seconds of a unit, its name, and below how many seconds the unit before it is used.
_UNITS = ((86_400, "d", 172_800), (3600, "h", 7200), (60, "min", 120), (1, "s", 1))

_SIZES = ("B", "kB", "MB", "GB", "TB")

#: Finds the server's message in the text of an error of the official SDK.
_DETAIL = re.compile(r"'detail': '(?:Future failed: )?([^']+)'")

#: Finds ids of sessions, of which only the beginning is shown.
_SESSION = re.compile(r"\b([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")

#: More than any size: a whole number of JSON may be larger than any float.
_MOST_BYTES = 10**30


def duration(seconds: float) -> str:
    """A length of time in its largest unit of which there are two or more, such as "4 min".

    Below ten seconds with one decimal.
    """
    for unit, name, least in _UNITS:
        if seconds >= max(least, 10 if unit == 1 else 0):
            return f"{int(seconds // unit)} {name}"
    return f"{max(seconds, 0.0):.1f} s"


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago a moment was, or in how long it will be; empty where there is none."""
    if moment is None:
        return ""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def clock(moment: datetime) -> str:
    """The time of day, such as "12:03:04 UTC"."""
    return f"{_in_utc(moment):%H:%M:%S} UTC"


def day_and_time(moment: datetime | None) -> str:
    """The day and the time in UTC, such as "2026-01-02 12:03:04"; empty where there is none."""
    return "" if moment is None else f"{_in_utc(moment):%Y-%m-%d %H:%M:%S}"


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first or the last day there is, in another zone
        return (datetime.min if moment.year == 1 else datetime.max).replace(tzinfo=UTC)


def text_of(value: object) -> str:
    """What `str` makes of a value; the name of its class where that raises."""
    try:
        return str(value)
    except Exception:  # of a caller's own class
        return f"<{type(value).__qualname__}>"


def text_of_error(error: object) -> str:
    """What an error says; of one of the official SDK what the server said in it.

    Ids of sessions are shortened as by `short_id`.
    """
    told = text_of(error)
    found = _DETAIL.search(told)
    return _SESSION.sub(r"\1..", found[1] if found else told)


def one_line(text: object, most: int | None = None) -> str:
    """A text on one line, without control characters, with at most so many characters."""
    told = text_of(text)
    if not told.isprintable():
        told = "".join(each if each.isprintable() else " " for each in told)
    line = " ".join(told.split())
    return line if most is None or len(line) <= most else f"{line[: most - 2]}.."


def count(number: int, thing: str, things: str | None = None) -> str:
    """So many of a thing, such as "1 run" and "2,000 runs"."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def tally(things: Iterable[object]) -> str:
    """How many there are of each kind, such as "2 healthy, 1 failing"."""
    return ", ".join(f"{number:,} {kind}" for kind, number in Counter(things).most_common())


def size(number: int | None) -> str:
    """A number of bytes in its largest decimal unit, such as "1.2 MB"; empty where it is `None`."""
    if number is None:
        return ""
    value = float(min(number, _MOST_BYTES))
    for name in _SIZES[:-1]:
        if value < 1000:
            return f"{value:.0f} {name}" if name == "B" else f"{value:.1f} {name}"
        value /= 1000
    return f"{value:.1f} {_SIZES[-1]}"


def short_id(run_id: str | None) -> str:
    """A run's id with the end of its session's id left out, on one line."""
    told = one_line(run_id or "(none)")
    session, colon, rest = told.partition(":")
    if len(session) <= ID_LENGTH:
        return told
    return f"{session[:ID_LENGTH]}..{colon}{rest}"


def name_of(path: str) -> str:
    """A checkpoint's name, from its path, on one line."""
    return one_line(path.rpartition("/")[2])


#: The facts of an event that are told, in this order, and how.
_FACTS: Mapping[str, Callable[[Any], str]] = {
    "cause": str,
    "attempt": lambda number: f"attempt {number}",
    "checkpoint": lambda path: f"checkpoint {name_of(str(path))}",
    "successor_id": lambda run_id: f"new run {run_id}",
    "step": lambda step: f"step {step}",
    "duration": lambda seconds: f"after {duration(seconds)}",
    "retry_in": lambda seconds: f"next in {duration(seconds)}",
    "reason": str,
    "evidence": str,
    "owner": lambda owner: f"owner {owner}",
    "error": str,
}


def facts(body: Mapping[str, Any]) -> str:
    """What is known of an event, on one line; what cannot be told in its words is told as it is."""
    told = []
    for name, tell in _FACTS.items():
        value = body.get(name)
        if value is not None and value != "":
            try:
                told.append(" ".join(tell(value).split()))
            except (TypeError, ValueError):
                told.append(f"{name} {value}")
    return ", ".join(told)
