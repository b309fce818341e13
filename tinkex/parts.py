"""Builds the objects of one monitor and connects them; stops them together."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from . import rest as default_rest
from . import service as default_services
from .arguments import NO_METADATA
from .lineage.fence import Fence
from .lineage.neighbours import Neighbours
from .policy import Policy
from .polling.detection import Detection
from .polling.reasons import Reasons
from .polling.sweep_timer import Sweeps
from .polling.sweeper import Sweeper
from .ports import RestModule, RestPort, ServiceModule
from .recovery.controller import Controller
from .recovery.executor import JOIN_GRACE, RecoveryExecutor, end_owner
from .recovery.incident import Owner
from .runs.changes import Freed
from .runs.record import Record
from .runs.run_map import RunMap
from .runs.state import RunState
from .runtime.daemon_pool import DaemonPool
from .runtime.forks import Home
from .runtime.futures import done_callbacks
from .runtime.publisher import Publisher
from .runtime.scheduler import Clock, Scheduler, ThreadScheduler, makes_threads
from .runtime.waits import QUIET, Waits
from .signals import Event, JournalFailed
from .training.confirmation import Confirmation
from .training.outages.noticing import Outages
from .training.outages.settling import Settling
from .training.submitting.futures import Races

if TYPE_CHECKING:
    from .errors import JournalError
    from .journal.journal import Journal
    from .journal.keeper import Keeper
    from .journal.owning.leases import News
    from .training.ledger import Ledger
    from .training.loop import Loop

#: How many requests a sweep may have in flight unless told otherwise.
POLL_WORKERS = 8

#: Seconds that a journal which could not be begun has to close.
CLOSE_TIMEOUT = 1.0

#: How many calls that wait may be under way at the same time: loops that wait for a recovery, saves
#: on event loops, futures of an SDK without standard ones. A thread is made when it is needed.
RESULTS_AT_ONCE = 1024


class Parts:
    """What a monitor and the handles of its runs work with; no attribute is changed later.

    The arguments are those of `Monitor`, checked. `sender` is the monitor, as receivers of its
    signals get it; an executor that the monitor owns ends with it. Safe from any thread.
    """

    def __init__(
        self,
        sender: object,
        policy: Policy,
        *,
        rest_module: RestModule | None,
        service_client_module: ServiceModule | None,
        executor: RecoveryExecutor,
        owns_executor: bool,
        scheduler: Scheduler | None,
        poll_workers: int | None,
        journal: str | os.PathLike[str] | Journal | None = None,
    ) -> None:
        # Timers on threads of their own must not be held up by receivers either.
        self.is_inline = inline = scheduler is not None and not makes_threads(scheduler)
        if poll_workers is None:
            poll_workers = POLL_WORKERS if scheduler is None else 0
        # What was made here ends with the monitor: closed first, then joined. Last of all closes
        # what keeps the changes of runs.
        self._close: list[Callable[[], object]] = []
        self._close_last: list[Callable[[float], object]] = []
        self.home, self.clock = Home(), Clock(scheduler or ThreadScheduler("tinkex-monitor"))
        self._joins: list[Callable[[float], object]] = [self.clock.close]
        self.waits = Waits(self.clock)
        quiet = partial(self.waits.notify, QUIET)
        self.publisher = Publisher(sender, inline=inline, on_idle=quiet, complete=self._completed)
        results = None if inline else DaemonPool(RESULTS_AT_ONCE, "tinkex-result")
        self._callbacks = done_callbacks(inline=inline)
        self.races = Races(self.waits, results, self._callbacks)
        bound = _poll_bound(policy)
        polls, self.rest = self._rest_ports(rest_module, poll_workers, bound)
        self.runs = self._run_map_for(policy)
        self._reasons = Reasons(self.rest, self.runs, self.clock, self.waits, inline=inline)
        self._dispatcher = executor.dispatcher
        self.owner = self._owner_for(executor, service_client_module)
        self.keeper = None if journal is None else self._keeper_for(journal)
        self.controller = Controller(policy, self.runs, self._dispatcher, self.owner, self.keeper)
        self.neighbours = self._neighbours_for()
        self.detection = self._detection_for(polls)
        self.sweeper = self._sweeper_for(polls, poll_workers, bound)
        self.sweeps = self._sweeps_for(policy.poll_interval)
        self.confirmation, self.fence = self._confirmation_for(policy), self._fence_for()
        self.outages = self._outages_for(policy)
        self._ledgers: dict[str, Ledger] = {}
        self._end_with_monitor(results, executor if owns_executor else None)

    def _rest_ports(
        self, module: RestModule | None, workers: int, bound: float
    ) -> tuple[RestPort, RestPort]:
        """The REST module as polls and as recoveries use it."""
        if module is not None and module is not default_rest:
            port = RestPort(module)
            return port, port
        client = default_rest.RestClient(max_connections=max(workers, 1), wait=self.clock.sleep())
        self._close.append(client.close)
        port = RestPort(client)
        return replace(port, timeout=bound), port

    def _run_map_for(self, policy: Policy) -> RunMap:
        about = policy, self.clock, self.publisher, self.waits
        return RunMap(*about, on_move=self._moved, server_time=self.rest.now)

    def _completed(self, event: Event) -> Event:
        return self._reasons.complete(event)

    def _keeper_for(self, given: str | os.PathLike[str] | Journal) -> Keeper:
        from .journal.freeing import Freeing  # noqa: PLC0415 (not every monitor has a journal)
        from .journal.journal import Journal  # noqa: PLC0415 (as above)
        from .journal.keeper import Keeper  # noqa: PLC0415 (as above)

        journal = given.shared() if isinstance(given, Journal) else Journal(given)
        keeper = Keeper(
            journal.store,
            self.clock,
            inline=self.is_inline,
            on_news=self._journal_told,
            on_failed=self._journal_failed,
        )
        about = keeper, self.rest, self.waits, self.runs
        self._freeing = Freeing(*about, inline=self.is_inline)
        self._close.append(self._freeing.close)
        self._joins.append(self._freeing.join)
        self._close_last += [keeper.close, journal.close]
        try:
            keeper.begin()
        except BaseException:
            for close in self._close_last:
                close(CLOSE_TIMEOUT)
            raise
        self.runs.keeper = keeper
        return keeper

    def _journal_failed(self, error: JournalError, record: Record | None) -> None:
        event = JournalFailed(
            run_id=error.run_id,
            metadata=NO_METADATA if record is None else record.metadata,
            time=self.clock.utc(),
            error=error,
        )
        self.publisher.publish("journal" if record is None else record.root_id, event)

    def _journal_told(self, news: News) -> None:
        for record, kept in news.remembered.items():
            self.runs.apply(record, kept.remembered())
        for record, successor in news.held.items():
            self.controller.fence(record, record.run_id, successor)
        self._freeing.freed(news.freed)

    def _before_attempt(self, run_id: str) -> None:
        record = self.runs.find(run_id)
        if record is not None:
            self.neighbours.look(record, is_to_be_made_anew=True)
            if record.state is RunState.FOLLOWING:
                raise record.held()

    def _poll_failed(self, record: Record, error: BaseException, since: float) -> None:
        self.outages.poll_failed(record, error, since)

    def _moved(self, record: Record) -> None:
        self.outages.moved(record)
        self.races.moved(record)

    def _owner_for(self, executor: RecoveryExecutor, module: ServiceModule | None) -> Owner:
        owner = executor.owner_for(
            publisher=self.publisher,
            callbacks=self._callbacks,
            waits=self.waits,
            clock=self.clock,
            rest=self.rest,
            services=default_services if module is None else module,
            is_inline=self.is_inline,
            runs_of=self.runs.of_account,
        )
        owner.before_attempt, owner.over = self._before_attempt, self.runs.over
        return owner

    def _detection_for(self, polls: RestPort) -> Detection:
        about = self.runs, self.owner.holds, self.controller, self._poll_failed, polls.as_run
        return Detection(*about, neighbours=self.neighbours)

    def _sweeper_for(self, polls: RestPort, workers: int, bound: float) -> Sweeper:
        return Sweeper(
            polls,
            self.clock,
            workers=workers,
            bound=bound,
            detection=self.detection,
            notify=self.waits.notify,
        )

    def _sweeps_for(self, interval: float) -> Sweeps:
        about = self.sweeper, self.runs, self.publisher, self.waits
        return Sweeps(*about, clock=self.clock, interval=interval)

    def _neighbours_for(self) -> Neighbours:
        return Neighbours(
            self.rest,
            self.clock,
            on_held=self.controller.fence,
            on_free=lambda record: self.runs.apply(record, Freed()),
            is_off=self.keeper is not None,
            inline=self.is_inline,
        )

    def _fence_for(self) -> Fence:
        let_save, on_lost = self.races.let_save, self.controller.fence
        about = self.rest, self.clock
        return Fence(*about, let_save=let_save, on_lost=on_lost, inline=self.is_inline)

    def _confirmation_for(self, policy: Policy) -> Confirmation:
        return Confirmation(
            policy,
            self.runs,
            clock=self.clock,
            waits=self.waits,
            sweeper=self.sweeper,
            controller=self.controller,
            races=self.races,
        )

    def _outages_for(self, policy: Policy) -> Outages:
        settling = Settling(
            policy,
            runs=self.runs,
            clock=self.clock,
            waits=self.waits,
            races=self.races,
            controller=self.controller,
        )
        return Outages(
            settling,
            kept=policy.fallback_checkpoints + 1,
            clock=self.clock,
            waits=self.waits,
            races=self.races,
            sweeper=self.sweeper,
            holds=self.owner.holds,
        )

    def _end_with_monitor(self, *pools: DaemonPool | RecoveryExecutor | None) -> None:
        """Have what is made by now end with the monitor, the pools that are its own last."""
        self._joins += (
            self.sweeper.join,
            self.publisher.join,
            self._callbacks.join,
            self._reasons.join,
            self.fence.join,
            self.neighbours.join,
            self.outages.join,
        )
        own = self.owner.own_services
        self._close += (self.runs.close, self.races.close, self.controller.close, own.close)
        for pool in pools:
            if pool is not None:
                self._close.append(partial(pool.shutdown, wait=False))
                self._joins.append(pool.join)

    def loop(self, record: Record) -> Loop:
        """A run as its training loop sees it; a `MonitorStoppedError` in a forked child."""
        self.home.check()
        from .training.loop import Loop  # noqa: PLC0415 (not every monitor has a loop)

        return Loop(
            record,
            home=self.home,
            runs=self.runs,
            clock=self.clock,
            waits=self.waits,
            controller=self.controller,
            confirmation=self.confirmation,
            races=self.races,
            ledgers=self._ledgers,
            fence=self.fence,
            neighbours=self.neighbours,
            outages=None if self.is_inline else self.outages,
            keeper=self.keeper,
        )

    def stop(self, timeout: float) -> None:
        """End all that was made or begun here, within `timeout` seconds."""
        deadline = monotonic() + timeout
        # First of all: what is held must not be let go because nothing is recovered any more.
        self.outages.close()
        self.owner.closing = True
        self.sweeper.close()
        self.fence.close()
        self.neighbours.close()
        self._reasons.close()
        self.waits.notify_all()  # no poll is waited for any more
        grace = min(JOIN_GRACE, timeout / 10)
        close, joins = list(self._close), [self._join]
        close += (partial(_close_until, deadline, each) for each in self._close_last)
        end_owner(self.owner, self._dispatcher, timeout - grace, grace, close=close, joins=joins)
        # The end of a session is a request, which the end of the process would cut off: what is
        # left of the time is spent on it.
        self.owner.own_services.join(max(0.0, deadline - monotonic()))

    def _join(self, seconds: float) -> None:
        """Wait for all threads; what some leave of their share the others have."""
        deadline = monotonic() + seconds
        for left in range(len(self._joins), 0, -1):
            self._joins[-left](max(0.0, deadline - monotonic()) / left)


def _close_until(deadline: float, close: Callable[[float], object]) -> None:
    close(max(0.0, deadline - monotonic()))


def _poll_bound(policy: Policy) -> float:
    """The most seconds that the poll of one run may take, its retries included."""
    return min(20.0, max(5.0, policy.poll_interval))
