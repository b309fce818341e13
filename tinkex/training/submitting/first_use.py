"""Restores a run that `open_run` found at its first use; calls made meanwhile wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ...runs.effects import Effect
from ..ledger import Ledger
from ..loop import Loop
from ..outlook import Outlook
from .client import SegmentClient, attach
from .event_loops import is_on_event_loop
from .futures import RacedFuture
from .requests import Requests
from .turns import Turns


class FirstUse:
    """The generation that a segment trains, which is there or is restored at the first need.

    The first call that waits for it has it restored. `outlook` and `place` say where it begins, as
    it is planned before that. A call waits `max_wait` seconds at most.

    Threads: every method is safe from any thread.
    """

    def __init__(self, run: Loop, outlook: Outlook, ledger: Ledger, max_wait: float) -> None:
        self._run = run
        self._ledger = ledger
        self._max_wait = max_wait
        self._is_watched = False
        # How many changes of the run's state were asked for before it was there.
        self._asked = 0
        self.outlook = outlook
        self.place = ledger.where()
        is_left = outlook.client is None
        self.requests = Requests(run, outlook.run_id, ledger, is_left=is_left)
        self.client = SegmentClient(outlook.client, self.requests, self)
        self.check = self.requests.check
        self.is_over = self.requests.is_over
        self._turns = Turns(run, self, max_wait)

    # The gate of the calls that wait

    def is_shut(self) -> bool:
        """Whether a request has to wait now."""
        return self.requests.is_left

    def admit(self, seconds: float) -> None:
        """Have the run restored, where it is not there yet; one thread at a time comes here.

        Where another checkpoint is restored than was planned, the segment is superseded.
        """
        if not self.requests.is_left:
            return
        live = self._run.outlook(seconds)
        place = self._run.ledger(self._ledger).where()
        if place is None or self.place is None or not place.is_same(self.place):
            self.requests.begin(self.outlook.run_id)
            return
        self.outlook, self.place = live, place
        attach(self.client, live.client)
        if self._is_watched:
            self.watch()
        # Last: from here on other threads use it.
        self.requests.begin(live.run_id)

    def note_waiting(self, are_waiting: bool) -> None:
        """What waits for the first use counts for nothing else."""

    def watch(self) -> None:
        """The segment is entered: from now on the run is looked after, since its server may die."""
        self._is_watched = True
        if self._run.outages is not None and self.outlook.client is not None:
            about = self._run.record, self.outlook.run_id, self.outlook.client, self._ledger
            self.requests.watch(self._run.outages.watch(*about), self._max_wait)

    # The calls

    def is_due(self) -> bool:
        """Whether a call has to wait for the run, or for others that do."""
        return self._turns.are_needed()

    def has_calls(self) -> bool:
        """Whether calls wait now."""
        return self._turns.are_waiting()

    def keeps_calls(self) -> bool:
        """Whether a call that has to wait is kept: on an event loop, which is not held up."""
        return self.is_due() and not self._run.races.is_inline and is_on_event_loop()

    def wait(self) -> None:
        """Wait until the run is there, and what was called before is sent."""
        if self.is_due():
            self._turns.wait(lambda: None)

    def keep(self, call: Callable[[], Any], effect: Effect = Effect.NONE) -> Future[Any]:
        """A future of what a call returns, which is made when its turn comes."""
        self._asked += effect.is_change
        return self._turns.queue(call)

    def keep_request(self, call: Callable[[], Any], effect: Effect) -> RacedFuture:
        """A future of what a request comes to, which is sent when its turn comes."""
        sent = self._turns.followed(self.keep(call, effect))
        return self._run.races.stand_in(self.requests.run_id, sent)

    def asked(self) -> int:
        """How many requests that change the run's state were submitted, or wait."""
        return self._asked if self.is_due() else self.requests.asked()
