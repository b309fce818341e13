"""How far a training loop is, and whether a step that was broken off had been submitted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Progress:
    """The next step of a loop.

    A loop submits through `segment.client`, which it asks for the same number of times in each
    step. So a step in which it was not asked for has not begun, and one in which it was asked
    for as often as in the step before was submitted as a whole; between the two it is unknown.
    """

    #: The next step, or the one at hand.
    step: int
    #: Whether it is unknown if that step was submitted.
    is_uncertain: bool = False
    _in_step: bool = False
    _touches: int = 0
    _outside: int = 0
    _usual: int | None = None

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
        self._end(was_submitted=self._touches > 0)

    def break_off(self, *, failed: bool) -> None:
        """The loop was left by an exception; `failed`: one of the server's."""
        self._end(was_submitted=not failed and 0 < (self._usual or 0) <= self._touches)

    def _end(self, *, was_submitted: bool) -> None:
        if self._in_step and was_submitted:
            self.submitted(self.step + 1)
        elif self._in_step:
            self._in_step = False
            # A client that was kept aside hides whether the step was begun.
            kept_aside = self._outside > 0 and not self._usual
            self.is_uncertain = self._touches > 0 or kept_aside
