"""Reads a page of runs row by row, so that not all of its objects live at the same time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ..errors import ApiResponseError
from ..types import TrainingRunPage

_SPACE = re.compile(r"[ \t\n\r]*")
_read = json.JSONDecoder().raw_decode


class PageReader:
    """The rows of a page, read from its text as they are asked for; to be read once.

    Objects that live for long cost the garbage collector more than all else that a sweep does.
    `total_count` is known when all rows were read. What is no page raises what `misfit` makes of
    the text.
    """

    def __init__(self, body: bytes, misfit: Callable[[], ApiResponseError]) -> None:
        self._body = body
        self._misfit = misfit
        self.total_count: int | None = None

    def parts(self, size: int) -> Iterator[list[Any]]:
        """Yield the rows as the server sent them, up to `size` at a time."""
        count = good = 0
        try:
            rows = self._rows(self._body.decode("utf-8", "surrogatepass"))
            while part := list(islice(rows, size)):
                count += 1
                good += dict in map(type, part)
                yield part
        except (ValueError, IndexError, RecursionError):
            good, count = 0, 1
        if count and not good:  # a bad row is one; if all are bad, this is no page
            raise self._misfit()

    def _rows(self, text: str) -> Iterator[Any]:
        cursor, is_list = None, False
        at = _after(text, 0, "{")
        while text[at] != "}":
            name, at = _read(text, at)
            if not isinstance(name, str):
                raise ValueError("a name that is no text")  # noqa: TRY004 (caught with the others)
            at = _after(text, at, ":")
            if name == "training_runs" and text[at] == "[":
                is_list = True
                at = _after(text, at, "[")
                while text[at] != "]":
                    row, at = _read(text, at)
                    yield row
                    at = _next(text, at, "]")
                at += 1
            else:
                value, at = _read(text, at)
                cursor = value if name == "cursor" else cursor
            at = _next(text, at, "}")
        if not is_list or _space(text, at + 1) != len(text):
            raise ValueError("no list of runs, or more than one object")
        self.total_count = TrainingRunPage.total_of(cursor)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _after(text: str, at: int, mark: str) -> int:
    """Where it goes on after a mark, with any space around it."""
    at = _space(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark}")
    return _space(text, at + 1)


def _next(text: str, at: int, end: str) -> int:
    """Where the next element begins, or `end` stands."""
    at = _space(text, at)
    if text[at] == ",":
        at = _space(text, at + 1)
        if text[at] == end:
            raise ValueError("no element after a comma")
    elif text[at] != end:
        raise ValueError("no comma")
    return at
