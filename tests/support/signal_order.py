"""The order of a run's signals, as docs/design.md has it, looked at while they come."""

from __future__ import annotations

#: What may follow each signal of a generation; "" is before the first one.
MAY_FOLLOW = {
    "": {"detected", "started"},
    "detected": {"rolled_back", "started", "exhausted"},
    "rolled_back": {"started", "exhausted"},
    "started": {"checkpoint_selected", "failed"},
    "checkpoint_selected": {"client_created", "failed"},
    "client_created": {"completed"},
    "failed": {"started", "exhausted"},
    "exhausted": {"detected", "started"},
    "completed": set(),
    # Who got the run back begins anew.
    "fenced": {"detected", "started"},
}


class SignalOrder:
    """A receiver that puts down in `wrong` each signal which may not follow the one before."""

    def __init__(self, name, wrong):
        self._name = name
        self._wrong = wrong
        self._last = {}

    def __call__(self, sender, *, event):
        if event.run_id is None or event.name not in MAY_FOLLOW:
            return
        before = self._last.get(event.run_id, "")
        self._last[event.run_id] = event.name
        if event.name != "fenced" and event.name not in MAY_FOLLOW[before]:
            self._wrong.append(f"{self._name}: {event.run_id}: {event.name} after {before!r}")

    def last(self, run_id):
        """The last signal of a run that counts here."""
        return self._last.get(run_id)

    def forget(self, run_ids):
        """These runs were stopped: they may be monitored anew."""
        for run_id in run_ids:
            self._last.pop(run_id, None)
