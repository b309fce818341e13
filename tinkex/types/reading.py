"""Reads the plain values of the API's JSON, and says what does not fit."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from datetime import UTC, datetime
from typing import Any

from ..errors import ApiResponseError


def list_of_objects(owner: type, data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the list `name` of an answer, after a check that it holds only objects."""
    rows = data.get(name)
    if not isinstance(rows, list):
        raise misfit_error(owner, name, rows, "a list")
    for row in rows:
        if not isinstance(row, Mapping):
            raise misfit_error(owner, name, row, "a list of objects")
    return rows


def mapping_of(owner: type, data: Any) -> Mapping[str, Any]:
    """A JSON object, or what the official SDK made of one."""
    if isinstance(data, Mapping):
        return data
    dump = getattr(data, "model_dump", None)
    dumped = dump() if callable(dump) else None
    if isinstance(dumped, Mapping):
        return dumped
    raise ApiResponseError(f"a {owner.__name__} should be a JSON object, but is {shown(data)}")


def misfit_error(owner: type, name: str, value: Any, allowed: str) -> ApiResponseError:
    """Why a field of an answer cannot be used."""
    return ApiResponseError(
        f"{owner.__name__} field {name!r} should be {allowed}, but is {shown(value)}"
    )


def shown(value: Any) -> str:
    """A value as a message tells it, by its type."""
    if value is None or value is MISSING:
        return "missing or null"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def as_whole(value: Any) -> int | None:
    """A whole number; `None` if it is none: a bool is one in Python, and not in the API."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _object(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None


def as_time(value: Any) -> datetime | None:
    """A time of the API, aware; one without a zone is UTC. `None` if it is no time."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.utcoffset() is None else value


#: How a field of each type is read, and what fits in words; `None` is what does not fit.
READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "str": (lambda value: _text(value) or None, "text that is not empty"),
    "str | None": (_text, "text"),
    "bool": (_flag, "true or false"),
    "bool | None": (_flag, "true or false"),
    "int | None": (as_whole, "a whole number"),
    "datetime | None": (as_time, "a time in ISO 8601"),
    "Mapping[str, Any] | None": (_object, "an object"),
}
