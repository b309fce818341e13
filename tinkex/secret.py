"""`Secret`, which stands for a value that is used but never shown."""

from __future__ import annotations

from itertools import count
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

# The values by the number of what stands for them; each step on it is atomic.
_values: dict[int, Any] = {}
_numbers = count()


class Secret(Generic[T]):
    """Stands for a value that lies elsewhere.

    So no walk through attributes, slots, containers or the locals of stack frames leads from what
    holds a secret to its value, however deep whoever shows or keeps objects looks into them.
    """

    __slots__ = ("_number",)

    def __init__(self, value: T) -> None:
        self._number = next(_numbers)
        _values[self._number] = value

    def __del__(self) -> None:
        _values.pop(self._number, None)

    def reveal(self) -> T:
        """The value; to be used where it is asked for, and kept in no variable."""
        value: T = _values[self._number]
        return value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
