"""Fakes for deterministic tests: time, REST, the service client and the executor.

With all four there is no thread, no socket and no waiting: `FakeScheduler.advance` calls the
timers that are due on its caller's thread. A monitor takes any object with the same methods.
"""

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
]
