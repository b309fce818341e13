"""Sets up where attempts run; recovers single runs for users; ends owners of incidents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from typing import Any

from .. import rest as default_rest
from .. import service as default_services
from ..arguments import (
    Accounts,
    as_checkpoint,
    as_policy,
    checked_executor,
    checked_metadata,
    checked_rest_module,
    checked_run_id,
    checked_service_module,
)
from ..config import Config
from ..errors import RecoveryDisabledError
from ..policy import Policy
from ..ports import RestModule, RestPort, ServiceModule, ServicePort
from ..runs.apply import Result
from ..runs.changes import Change, RecoveryChange, notices_of
from ..runtime.daemon_pool import DaemonPool
from ..runtime.delivery import Delivery
from ..runtime.forks import Home
from ..runtime.futures import done_callbacks
from ..runtime.publisher import Publisher
from ..runtime.scheduler import Clock, Scheduler, ThreadScheduler
from ..runtime.waits import QUIET, Waits
from ..service.opened import OwnServices
from ..signals import Completed
from ..types import Checkpoint, TrainingRun
from .attempt import RecoveryRequest
from .dispatcher import HUNG_AT_MOST, Dispatcher, workers_of
from .holds import Holds
from .incident import Adopted, Owner

logger = logging.getLogger(__name__)

#: Seconds that our own threads may take to end.
JOIN_GRACE = 1.0


class RecoveryExecutor:
    """Runs recoveries on a `concurrent.futures` executor.

    Args:
        pool: Where attempts are submitted; `None`: daemon threads of its own. A pool that was
            handed in is left open.
        max_concurrent: How many attempts may be under way at the same time. Beside them, up to
            32 that were abandoned may hang in the pool of its own; in another, as many as it
            has workers.
        rest_module: Lists checkpoints; `None`: the monitor's, else `tinkex.rest`.
        service_client_module: Makes training clients; `None`: the monitor's, else
            `tinkex.service`.
        scheduler: Waits out backoffs; `None`: the monitor's, else a daemon thread of its own.

    Threads: every method is safe from any thread. An attempt runs on the pool; no worker
    sleeps through a backoff. An interrupt of `recover` on the main thread leaves nothing half
    begun, unless a `scheduler` was given: then no thread is made, and its run may stay pending.
    """

    def __init__(
        self,
        pool: Executor | None = None,
        *,
        max_concurrent: int = 1,
        rest_module: RestModule | None = None,
        service_client_module: ServiceModule | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int):
            raise TypeError(f"max_concurrent must be a whole number, not {max_concurrent!r}")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be 1 or more, not {max_concurrent}")
        self._rest_module = checked_rest_module(rest_module)
        self._services = checked_service_module(service_client_module)
        self._scheduler = scheduler
        given = checked_executor("pool", pool)
        # Neither makes a thread before it is used. Some are for attempts that hang.
        self._own_pool = DaemonPool(max_concurrent + HUNG_AT_MOST, "tinkex-recovery")
        self._home = Home()
        #: The incidents under way, for monitors.
        self.dispatcher = Dispatcher(self._own_pool if given is None else given, max_concurrent)
        self._clock = clock = Clock(scheduler or ThreadScheduler("tinkex-executor"))
        waits, is_inline = Waits(clock), scheduler is not None
        # Of the recoveries that are asked for here. No poll tells it when an account works again.
        self._owner = self.owner_for(
            publisher=Publisher(self, inline=is_inline, on_idle=partial(waits.notify, QUIET)),
            callbacks=done_callbacks(inline=is_inline),
            waits=waits,
            clock=clock,
            rest=RestPort(default_rest),
            services=default_services,
            is_inline=is_inline,
        )

    @classmethod
    def over(cls, given: RecoveryExecutor | Executor | None) -> RecoveryExecutor:
        """The executor itself, or one over a pool with as many slots as that has workers."""
        if isinstance(given, RecoveryExecutor):
            return given
        return cls(
            given, max_concurrent=workers_of(checked_executor("executor or pool", given)) or 1
        )

    def recover(
        self,
        run_id: str,
        service: Any,
        policy: Policy | Mapping[str, Any],
        *,
        config: Config | None = None,
        metadata: Mapping[str, Any] | None = None,
        last_checkpoint: Checkpoint | str | Mapping[str, Any] | None = None,
        run: TrainingRun | None = None,
    ) -> Future[Completed]:
        """Recover a run now, as `recover` of the Elixir original's executor does.

        Args:
            run_id: The corrupted run.
            service: The service client that makes the new training client.
            policy: Must be enabled.
            config: For listing the run's checkpoints; `None`: read from the service client.
            metadata: Carried by every event.
            last_checkpoint: A checkpoint to restore from, beside those that are listed.
            run: The run as a poll saw it.

        Returns:
            A future of the `completed` event; its exception is the last error.

        Raises:
            AlreadyPendingError: A recovery of this run is under way.
            RecoveryDisabledError: The policy is not enabled.
            MonitorStoppedError: The executor is shut down, or this is a forked child.
            ConfigError: There is no key to list the run's checkpoints with.
        """
        self._home.check()
        checked = as_policy(policy)
        if not checked.enabled:
            raise RecoveryDisabledError(f"run {run_id!r}: the policy has enabled=False")
        owner = self._owner
        owner.services.check(service)
        request = RecoveryRequest(
            run_id=checked_run_id(run_id),
            root_id=run_id,
            service=service,
            policy=replace(checked, on_recovery=None, on_failure=None),
            rest=owner.rest,
            services=owner.services,
            recorded={},
            config=Accounts(owner.rest.module, config).of(service),
            run=run,
            run_ids=(run_id,),
            known=() if last_checkpoint is None else (as_checkpoint(last_checkpoint),),
        )
        listener = partial(self._publish, run_id, checked)
        begin = partial(self.dispatcher.begin, request, checked_metadata(metadata), owner, listener)
        return owner.undisturbed(begin).future

    def _publish(self, run_id: str, policy: Policy, change: Change | Adopted) -> Result:
        if not isinstance(change, RecoveryChange):
            return None
        notices = notices_of(change, policy)
        self._owner.publisher.queue(run_id, notices)
        self._owner.publisher.flush()
        return notices

    def shutdown(self, wait: bool = True, *, timeout: float = 5.0) -> None:
        """Take no more recoveries and end those that wait; threads of our own are ended.

        Of the service clients that it opened for `recover`, those of runs that it recovered again
        are closed.

        Args:
            wait: Wait for the attempts under way and for what is told of them, up to
                `timeout`.
            timeout: Seconds. Attempts that are still under way then are abandoned.
        """
        if self._home.is_left():
            return
        self.dispatcher.close()
        owner = self._owner
        end_pool = partial(self._own_pool.shutdown, wait=False, cancel_futures=True)
        close = (end_pool, owner.own_services.close)
        joins = (
            owner.publisher.join,
            owner.callbacks.join,
            self.join,
            self._clock.close,
            owner.own_services.join,
        )
        patience, grace = (timeout, JOIN_GRACE) if wait else (0.0, 0.0)
        end_owner(owner, self.dispatcher, patience, grace, close=close, joins=joins)

    def join(self, timeout: float) -> None:
        """Wait for the threads of its own pool after `shutdown`, at most `timeout` seconds."""
        self._own_pool.join(timeout)

    def owner_for(
        self,
        *,
        publisher: Publisher,
        callbacks: Delivery,
        waits: Waits,
        clock: Clock,
        rest: RestPort,
        services: ServiceModule,
        is_inline: bool,
        runs_of: Callable[[Config | None], tuple[str, ...]] | None = None,
    ) -> Owner:
        """Make an owner of incidents; what was handed in here replaces what is given.

        `is_inline`: no thread is made for it, since a scheduler was handed in.
        `runs_of` gives an account's runs; without it no poll tells when an account works again.
        Raises `MonitorStoppedError` in a forked child, where its threads are lost.
        """
        self._home.check()
        return Owner(
            publisher=publisher,
            callbacks=callbacks,
            waits=waits,
            clock=clock if self._scheduler is None else self._clock,
            rest=rest if self._rest_module is None else RestPort(self._rest_module),
            services=ServicePort(services if self._services is None else self._services),
            own_services=OwnServices(inline=is_inline),
            holds=Holds(clock, publisher, runs_of or (lambda _: ()), self.dispatcher.release),
            can_pause=runs_of is not None,
            is_inline=is_inline,
        )


def end_owner(
    owner: Owner,
    dispatcher: Dispatcher,
    patience: float | None,
    grace: float,
    *,
    close: Iterable[Callable[[], object]],
    joins: Collection[Callable[[float], object]],
) -> None:
    """End all incidents of an owner, its publishing, and then its threads.

    What has not begun goes first, so that nothing follows on what is under way. Receivers,
    callbacks and attempts then have `patience` seconds. Then publishing is closed, and only
    then the attempts that hang are given up: nothing is said of them. `close` is called,
    and last `joins`, each with its share of `grace` seconds, so that a thread which hangs
    leaves time for the others.
    """
    owner.closing = True
    owner.undisturbed(lambda: dispatcher.cancel_all(owner, only_waiting=True))
    try:
        if patience is None or patience > 0:
            owner.waits.wait(QUIET, lambda: dispatcher.is_quiet(owner), patience)
    except Exception:
        logger.exception("the scheduler's wait failed; stopping without it")
    finally:
        owner.publisher.close()
        owner.undisturbed(lambda: dispatcher.cancel_all(owner))
        for step in close:
            step()
        for join in joins:
            join(grace / len(joins))
        owner.waits.notify_all()
