"""A receiver that keeps all it is told, and can be waited for."""

from __future__ import annotations

import threading

#: Seconds; long enough for a slow machine, and never reached by a test that passes.
PATIENCE = 10.0


class Recorder:
    """Keeps every event in the order of delivery, with its sender and the threads it came on."""

    def __init__(self):
        self._changed = threading.Condition()
        self.events = []
        self.senders = []
        self.threads = set()

    def __call__(self, sender, *, event):
        with self._changed:
            self.events.append(event)
            self.senders.append(sender)
            self.threads.add(threading.current_thread())
            self._changed.notify_all()

    @property
    def names(self):
        """The names of all events but the sweeps' ends."""
        with self._changed:
            return [event.name for event in self.events if event.name != "swept"]

    def names_of(self, run_id):
        """The names of all events about one run."""
        with self._changed:
            return [event.name for event in self.events if event.run_id == run_id]

    def of(self, name, run_id=None):
        """All events of one name, about one run where it is given."""
        with self._changed:
            told = list(self.events)
        return [e for e in told if e.name == name and run_id in (None, e.run_id)]

    def one(self, name, run_id=None):
        """The only event of a name."""
        (event,) = self.of(name, run_id)
        return event

    def wait_for(self, name, run_id=None, *, count=1):
        """Wait until so many events of a name came, and give the last of those."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: len(self.of(name, run_id)) >= count, timeout=PATIENCE
            )
        assert came, f"no {name} of {run_id} came: {self.names}"
        return self.of(name, run_id)[count - 1]

    def clear(self):
        """Forget what came so far."""
        with self._changed:
            self.events.clear()
            self.senders.clear()
