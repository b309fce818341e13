"""The lineages that are open in this process, and the clients kept from closed ones."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

from ..errors import RunHeldError
from ..handle import MonitoredRun
from ..lineage.lineages import Lineage
from ..lineage.metadata import OWNER, text_of
from ..runs.record import History, Origin, Record
from ..runtime import forks
from ..service.opened import Made, OwnServices


class Left(NamedTuple):
    """A run as the last opening of its lineage left it, whose client lives.

    `made_by` is the service client of our making that made it, if one did.
    """

    run_id: str
    client: weakref.ref[Any]
    generation: int
    history: History
    made_by: Made | None

    @property
    def owner(self) -> str:
        """The owner that its metadata names."""
        return dict(self.history.carried).get(OWNER, "")

    def is_newest_of(self, line: Lineage) -> bool:
        """Whether no other owner has made a run of its generation, or of a later one."""
        runs = {each.training_run_id: each for each in line.latest}
        own = runs.get(self.run_id)
        return own is not None and all(
            line.number_of(each) < line.number_of(own) or text_of(each, OWNER) == self.owner
            for each in runs.values()
        )

    def origin(self, carried: dict[str, str]) -> Origin:
        """Where it comes from, for a monitor that goes on with it."""
        past, source = self.history.past, self.history.source
        made_from = source.tinker_path if source else None
        return Origin(past, made_from, self.generation, tuple(carried.items()), self.history)


class _Table:
    """The lineages of this process; a forked child begins without any."""

    def __init__(self) -> None:
        forks.register(self)
        self.after_fork()

    def after_fork(self) -> None:
        self.lock = threading.Lock()
        # Guarded by lock: the lineages that are open, and what was left of others.
        # Weak: one that is gone without having been left, by an interrupt, is not open.
        self.open: WeakValueDictionary[str, Here] = WeakValueDictionary()
        self.left: dict[str, Left] = {}


_table = _Table()


class Here:
    """An opening of a lineage in this process; entering it is a `RunHeldError` where one is open.

    `left` is what the one before left, as long as the client lives.

    Args:
        lineage: What tells it from all others.
        name: What it is called in messages.
    """

    def __init__(self, lineage: str, name: str) -> None:
        self._lineage = lineage
        self._name = name
        self.left: Left | None = None
        self._record: Record | None = None
        self._made_by: Made | None = None

    def __enter__(self) -> Self:
        with _table.lock:
            if self._lineage in _table.open:
                raise RunHeldError(self._name, "this process has it open; leave that block first")
            _table.open[self._lineage] = self
            self.left = _table.left.pop(self._lineage, None)
            for key in [key for key, each in _table.left.items() if each.client() is None]:
                del _table.left[key]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Where it came to no run, what the one before left is as it was; else that is over.
        left = self.left if self._record is None else None
        try:
            if self._record is not None:
                left = _left(self._record, self._made_by)
        finally:
            with _table.lock:
                _table.open.pop(self._lineage, None)
                if left is not None:
                    _table.left[self._lineage] = left

    def client(self) -> Any:
        """The client of what was left, `None` where it is gone."""
        return None if self.left is None else self.left.client()

    @contextmanager
    def trained(self, run: MonitoredRun, services: OwnServices) -> Iterator[None]:
        """While it lasts this opening trains a run; `services` are those of its monitor."""
        self._record = run._record
        try:
            yield
        finally:
            self._made_by = services.made(run.client)


def _left(record: Record, made_by: Made | None) -> Left | None:
    """What is left of a run that is monitored no more; `None` where it cannot go on in place."""
    with record.lock:
        history = record.history
        if record.client is None or record.is_dead:
            return None
        try:
            client = weakref.ref(record.client)
        except TypeError:
            return None
        history = replace(
            history,
            cursors=dict(history.cursors),
            known=dict(history.known),
            orphans=dict(history.orphans),
            cause=None,
            error=None,
        )
        return Left(record.run_id, client, record.generation, history, made_by)
