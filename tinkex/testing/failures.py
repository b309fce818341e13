"""A queue of errors that the next calls of a fake raise; all fakes use it."""

from __future__ import annotations

from collections import deque

__all__ = ["MADE", "Failures"]

#: The beginning of the ids of runs that a `FakeServiceClient` made.
MADE = "fake:"


class Failures:
    """Errors that the next calls raise."""

    def __init__(self) -> None:
        self._errors: deque[BaseException] = deque()

    def add(self, error: BaseException, times: int) -> None:
        """Make the next `times` calls raise `error`."""
        if not isinstance(error, BaseException):
            raise TypeError(f"an exception instance is needed, not {error!r}")
        self._errors.extend([error] * times)

    def raise_next(self) -> None:
        """Raise the next error, if there is one."""
        if self._errors:
            raise self._errors.popleft()
