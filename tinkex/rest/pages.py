"""Reads a page of runs; rows that have not changed are not parsed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any

from ..errors import ApiResponseError
from ..types import TrainingRunPage

_BLANKS = " \t\n\r"
_SPACE = re.compile(f"[{_BLANKS}]*")


def whole(digits: str) -> float:
    """A whole number of JSON; one with more digits than Python reads is as good as infinite."""
    try:
        return int(digits)
    except ValueError:
        return math.inf


_read = json.JSONDecoder().raw_decode
_read_any = json.JSONDecoder(parse_int=whole).raw_decode  # takes longer

#: The field that changes at each look at a run that trains; no sweep uses it.
_MOVING = "last_request_time"
_MOVING_FIELD = re.compile(rf'"{_MOVING}": ?"([^"\\\x00-\x1f]*)"').search

#: How many characters a row may have, and how many before its id; one with more is always parsed.
_MOST = 16 * 1024
_MOST_BEFORE_ID = 64

#: How many times its length of a page is looked through in vain for the beginnings of rows.
_MOST_IN_VAIN = 4

#: A row and its fingerprint, which no row has that says anything else (but for one in 2 ** 64),
#: the time of the run's last request left aside; `None` where it could not be told.
Read = tuple[Any, int | None]


class PageReader:
    """The rows of a page, read from its text as they are asked for; to be read once.

    Objects that live for long cost the garbage collector more than all else that a sweep does.
    `count` is how many rows were read, and `total_count` is known when all were. What is no page
    raises what `misfit` makes of the text.
    """

    def __init__(self, body: bytes, misfit: Callable[[], ApiResponseError]) -> None:
        self._body = body
        self._misfit = misfit
        self._good = 0
        self.count = 0
        self.total_count: int | None = None

    def parts(
        self, size: int, is_known: Callable[[str, int], bool] = lambda *_: False
    ) -> Iterator[list[Read]]:
        """Yield the rows as the server sent them, up to `size` at a time.

        Those are left out, unparsed, for which `is_known(run_id, fingerprint)`.
        """
        is_page = True
        try:
            encoding = json.detect_encoding(self._body)
            rows = self._rows(self._body.decode(encoding, "surrogatepass"), is_known)
            while part := list(islice(rows, size)):
                yield part
        except (ValueError, IndexError, RecursionError):
            is_page = False
        # A bad row is one; if all are bad, this is no page.
        if not is_page or (self.count and not self._good):
            error = self._misfit()
            del self._misfit, self._body  # the error leads here, and the server may echo the key
            raise error

    def _rows(self, text: str, is_known: Callable[[str, int], bool]) -> Iterator[Read]:
        cursor, is_list = None, False
        at = _after(text, 0, "{")
        while text[at] != "}":
            name, at = _read(text, at)
            if not isinstance(name, str):
                raise ValueError("a name that is no text")  # noqa: TRY004 (caught with the others)
            at = _after(text, at, ":")
            if name == "training_runs" and text[at] == "[":
                is_list = True
                at = yield from self._list(text, _after(text, at, "["), is_known)
            else:
                value, at = _read(text, at)
                cursor = value if name == "cursor" else cursor
            at = _next(text, at, "}")
        if not is_list or _space(text, at + 1) != len(text):
            raise ValueError("no list of runs, or more than one object")
        self.total_count = TrainingRunPage.total_of(cursor)

    def _list(
        self, text: str, at: int, is_known: Callable[[str, int], bool]
    ) -> Generator[Read, None, int]:
        """Yield the rows from here to the end of the list; return where it has ended.

        The text from one row's beginning to the next one's, once parsed, is a row wherever it
        stands. So it does no harm that the next beginning is only guessed: a wrong guess gives a
        text that is not known.
        """
        before_id, in_vain = "", 0
        while text[at] != "]":
            self.count += 1
            guess = text.find(before_id, at + 1, at + _MOST) if before_id else -1
            if guess > 0:
                id_at = at + len(before_id)
                run_id = text[id_at : text.find('"', id_at)]
                if is_known(run_id, _outline(text, at, guess)):
                    self._good += 1
                    at = guess
                    continue
            row, end = _row(text, at)
            end = _next(text, end, "]")
            fingerprint = None
            if type(row) is dict:
                self._good += 1
                before_id = before_id or _before_id(text, at, row)
                fingerprint = _fingerprint(row, text, at, end)
            if end != guess:
                in_vain += (guess if guess > 0 else len(text)) - at
            if in_vain > _MOST_IN_VAIN * len(text):
                before_id = ""  # rows begin in different ways here
            yield row, fingerprint
            at = end
        return at + 1


def _row(text: str, at: int) -> tuple[Any, int]:
    try:
        return _read(text, at)
    except ValueError:
        return _read_any(text, at)


def _before_id(text: str, at: int, row: dict[str, Any]) -> str:
    """What stands before the id in a row that begins here; empty where that is much."""
    id_text = f'"{row.get("training_run_id")}"'
    id_at = text.find(id_text, at, at + _MOST_BEFORE_ID + len(id_text))
    return text[at : id_at + 1] if id_at > 0 else ""


def _outline(text: str, at: int, end: int) -> int:
    """A hash of what may be a row, without what seems to be its moving field."""
    found = _MOVING_FIELD(text, at, end)
    if found is None:
        return hash(text[at:end])
    begins, ends = found.span(1)
    return hash((text[at:begins], text[ends:end]))


def _fingerprint(row: dict[str, Any], text: str, at: int, end: int) -> int | None:
    """The hash of a row that was parsed, if what it leaves out is that field and nothing else.

    The last row has none: no text that ends like it goes on with another row.
    """
    is_certain = text[end] != "]" and _moves_alone(row, text, at, end)
    return _outline(text, at, end) if is_certain else None


def _moves_alone(row: dict[str, Any], text: str, at: int, end: int) -> bool:
    """Whether what seems to be the moving field is the row's own, or there is none."""
    if text.find("\\u", at, end) < 0:
        return text.count(f'"{_MOVING}"', at, end) == (_MOVING in row)
    # Letters may be written as escapes, so names cannot be counted: try with another value.
    found = _MOVING_FIELD(text, at, end)
    if found is None:
        return True
    begins, ends = found.span(1)
    other, _ = _row(f"{text[at:ends]}?{text[ends:end]}", 0)
    return bool(other == {**row, _MOVING: f"{text[begins:ends]}?"})


def _space(text: str, at: int) -> int:
    if text[at : at + 1] not in _BLANKS:
        return at
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
