"""How far a training loop is, and whether a step that was broken off had been submitted."""

from __future__ import annotations

__all__ = ["Progress"]


class Progress:
    """The next step of a loop.

    A loop submits through `segment.client`, which it asks for the same number of times in each
    step. So a step in which it was not asked for has not begun, and one in which it was asked
    for as often as in the step before was submitted as a whole; between the two nobody knows.
    """

    __slots__ = ("_in_step", "_outside", "_touches", "_usual", "is_uncertain", "step")

    def __init__(self, step: int) -> None:
        #: The next step, or the one at hand.
        self.step = step
        #: Whether nobody knows if that step was submitted.
        self.is_uncertain = False
        self._in_step = False
        self._touches = 0
        self._outside = 0
        self._usual: int | None = None

    def touch(self) -> None:
        """The client was asked for."""
        if self._in_step:
            self._touches += 1
        else:
            self._outside += 1

    def begin(self, step: int) -> None:
        """The loop goes into a step."""
        self.step = step
        self._in_step = True
        self._touches = 0

    def complete(self) -> None:
        """The loop came to the end of the step at hand."""
        if self._in_step:
            self._usual = self._touches
            self.submitted(self.step + 1)

    def submitted(self, step: int) -> None:
        """All steps before this one were submitted."""
        self.step = max(self.step, step)
        self._in_step = False
        self.is_uncertain = False

    def leave(self) -> None:
        """The loop was left by `break`: what it had begun to submit, it meant to."""
        if self._in_step and self._touches:
            self.submitted(self.step + 1)
        elif self._in_step:
            self._settle()

    def break_off(self, *, failed: bool) -> None:
        """The loop was left by an exception; `failed`: one of the server's."""
        if self._in_step and self._touches and not failed and self._is_whole():
            self.submitted(self.step + 1)
        elif self._in_step:
            self._settle()

    def _is_whole(self) -> bool:
        return self._usual is not None and 0 < self._usual <= self._touches

    def _settle(self) -> None:
        """Whether the step at hand was begun: only a client that was kept aside hides that."""
        self._in_step = False
        kept_aside = self._outside > 0 and not self._usual
        self.is_uncertain = self._touches > 0 or kept_aside
