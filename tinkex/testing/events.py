"""`RecoveryEvents`, which keeps the events of monitors for a test."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, overload

from ..monitor import Monitor
from ..signals import Event, check_names


class RecoveryEvents(Sequence[Event]):
    """A receiver of signals: a sequence of the events of monitors, in the order of delivery.

    Those of one run come in the order in which they were published. What a `RecoveryExecutor`
    sends is left out.

    Threads: safe from any.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._events: list[Event] = []

    def __call__(self, sender: object, *, event: Event) -> None:
        """Take an event."""
        if isinstance(sender, Monitor):
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()

    @property
    def names(self) -> list[str]:
        """The names of all events but `swept`, which comes with each sweep."""
        return [event.name for event in self if event.name != "swept"]

    def of(self, name: str) -> list[Any]:
        """The events of one name, such as `"completed"`; a `ValueError` where no signal has it."""
        check_names(name)
        return [event for event in self if event.name == name]

    def wait_for(self, name: str, *, count: int = 1, timeout: float = 30.0) -> Any:
        """Wait until `count` events of a name came, and return the last of these.

        Events come on threads of tinkex, shortly after what they tell of. A monitor that is
        stopped delivers nothing more.

        Args:
            name: Such as `"completed"`.
            count: How many in all, those that came before included.
            timeout: Seconds.

        Raises:
            TimeoutError: They did not come in time; it tells what came.
            ValueError: No signal has this name, `count` is below 1, or `timeout` is no number of
                seconds that can be waited for.
        """
        check_names(name)
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count!r}")
        if not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"timeout must be 0 s or more and finite, not {timeout!r}")
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.of(name)) >= count, timeout):
                found = f"{len(self.of(name))} of {count} {name!r} events came"
                raise TimeoutError(f"{found} within {timeout:g} s; all that came: {self!r}")
        return self.of(name)[count - 1]

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        with self._changed:
            return self._events[index]

    def __len__(self) -> int:
        with self._changed:
            return len(self._events)

    def __repr__(self) -> str:
        return f"<RecoveryEvents {', '.join(self.names) or 'none'}>"
