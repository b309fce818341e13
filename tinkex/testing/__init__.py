"""Fakes for deterministic tests: time, REST, the service client and the executor.

With all four there is no thread, no socket and no waiting: `FakeScheduler.advance` calls the
timers that are due on its caller's thread. A monitor takes any object with the same methods.

`RecoveryEvents` keeps the events of monitors. With pytest there are fixtures, too: `plugin`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .events import RecoveryEvents
    from .executor import InlineExecutor
    from .rest import FakeRest
    from .scheduler import DeadlockError, FakeScheduler
    from .service import FakeServiceClient, FakeTrainingClient

__all__ = [
    "DeadlockError",
    "FakeRest",
    "FakeScheduler",
    "FakeServiceClient",
    "FakeTrainingClient",
    "InlineExecutor",
    "RecoveryEvents",
]

#: Each name's module, which is imported at its first use: `plugin` is loaded without them.
_LATER = {
    "DeadlockError": "scheduler",
    "FakeRest": "rest",
    "FakeScheduler": "scheduler",
    "FakeServiceClient": "service",
    "FakeTrainingClient": "service",
    "InlineExecutor": "executor",
    "RecoveryEvents": "events",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
