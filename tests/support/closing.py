"""Service clients that note how they were closed."""

from __future__ import annotations

from tinkex.testing import FakeServiceClient


def closing_class(**fields):
    """A class of service clients of its own; `made` lists its instances, `fields` are added.

    Each has `closed`, the statuses that its `close` was called with. As the official one, none
    keeps its training clients alive.
    """

    class Closing(FakeServiceClient):
        def __init__(self):
            super().__init__()
            self.closed = []
            type(self).made.append(self)

        def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
            super().create_training_client_from_state_with_optimizer(path, user_metadata)
            return self.clients.pop()

        def close(self, status, detail=None):
            self.closed.append(status)

    return type("Closing", (Closing,), {"made": [], **fields})


def failing(kind, times):
    """A class whose first instances fail to make a client; `made` is that of `kind`."""

    class Failing(kind):
        def __init__(self):
            super().__init__()
            if len(self.made) <= times:
                self.fail(ConnectionResetError("gone"))

    return Failing


def closed(kind):
    """What each instance of a class was closed with, in the order in which they were made."""
    return [list(service.closed) for service in kind.made]
