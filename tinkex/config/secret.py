"""`Secret`, which stands for a value that is used but never shown, and how others spell it."""

from __future__ import annotations

import json
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote
from weakref import ref

T = TypeVar("T")

#: Secrets with fewer characters are not redacted: they may be parts of normal words.
MIN_SECRET = 6

# The values by a reference to what stands for them. Each is let go with that, by no code of Python,
# in which an interrupt would be lost.
_values: dict[ref[Secret[Any]], Any] = {}


class Secret(Generic[T]):
    """Stands for a value that lies elsewhere.

    So no walk through attributes, slots, containers or the locals of stack frames leads from what
    holds a secret to its value, however deep a tool that shows or keeps objects looks.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, value: T) -> None:
        _values[ref(self, _values.pop)] = value

    def reveal(self) -> T:
        """The value; to be used where it is asked for, and kept in no variable."""
        value: T = _values[ref(self)]
        return value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


def spellings(secrets: list[str]) -> list[str]:
    """How a server may repeat secrets: as they are, in JSON or in a URL; the longest first.

    Very short ones are left out: they are normal words.
    """
    spelt = {
        each
        for secret in secrets
        for each in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))
        if len(secret) >= MIN_SECRET
    }
    return sorted(spelt, key=len, reverse=True)
