"""Fakes for deterministic tests: time, REST, the service client and the executor.

With all four there is no thread, no socket and no waiting: `FakeScheduler.advance` fires what
is due on the thread that calls it. None of them is special to a monitor; anything of the same
shape works as well.
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
