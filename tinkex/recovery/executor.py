"""`RecoveryExecutor`: recovers single runs, and runs the attempts of monitors."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from typing import Any

from .. import rest as default_rest
from .. import service as default_services
from ..arguments import (
    as_checkpoint,
    as_policy,
    checked_executor,
    checked_metadata,
    checked_rest_module,
    checked_run_id,
    checked_service_module,
    config_for,
)
from ..config import Config
from ..errors import RecoveryDisabledError
from ..policy import Policy
from ..ports import RestModule, RestPort, ServiceModule, ServicePort
from ..runs.apply import notices_of
from ..runs.changes import Change, RecoveryChange
from ..runtime.daemon_pool import DaemonPool
from ..runtime.publisher import Notice, Publisher
from ..runtime.scheduler import Clock, Scheduler, ThreadScheduler
from ..runtime.waits import Waits
from ..signals import Completed
from ..types import Checkpoint, TrainingRun
from .attempt import RecoveryRequest
from .dispatcher import JOIN_GRACE, Dispatcher
from .holds import Holds
from .incident import Incident, Owner

__all__ = ["RecoveryExecutor"]


class RecoveryExecutor:
    """Runs recoveries on a `concurrent.futures` executor.

    Args:
        pool: Where attempts are submitted; `None`: daemon threads of its own. A pool that was
            handed in is left open.
        max_concurrent: How many attempts may be under way at the same time, and how many
            abandoned ones may still hang beside them.
        rest_module: Lists checkpoints; `None`: the monitor's, else `tinkex.rest`.
        service_client_module: Makes training clients; `None`: the monitor's, else
            `tinkex.service`.
        scheduler: Waits out backoffs; `None`: the monitor's, else a daemon thread of its own.

    Threads: every method is safe from any thread. An attempt runs on the pool; no worker
    sleeps through a backoff.
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
        self._given_pool = checked_executor("pool", pool)
        self._max_concurrent = max_concurrent
        self._lock = threading.Lock()
        # Guarded by _lock: _own_pool, _own_scheduler and _owner, made when first needed.
        self._own_pool: DaemonPool | None = None
        self._own_scheduler: ThreadScheduler | None = None
        self._owner: Owner | None = None
        #: The incidents under way, for monitors.
        self.dispatcher = Dispatcher(self._pool, max_concurrent)

    @classmethod
    def over(cls, given: RecoveryExecutor | Executor | None) -> RecoveryExecutor:
        """The executor itself, or one over a pool with as many slots as that has workers."""
        if isinstance(given, RecoveryExecutor):
            return given
        # The standard pools tell how many workers they have under this name only.
        workers = getattr(checked_executor("executor or pool", given), "_max_workers", 1)
        return cls(given, max_concurrent=workers if isinstance(workers, int) else 1)

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
            MonitorStoppedError: The executor is shut down.
            ConfigError: There is no key to list the run's checkpoints with.
        """
        checked = as_policy(policy)
        if not checked.enabled:
            raise RecoveryDisabledError(f"run {run_id!r}: the policy has enabled=False")
        owner = self._own_owner()
        owner.services.check(service)
        request = RecoveryRequest(
            run_id=checked_run_id(run_id),
            root_id=run_id,
            service=service,
            policy=replace(checked, on_recovery=None, on_failure=None),
            rest=owner.rest,
            services=owner.services,
            config=config_for(service, owner.rest.module, config),
            run=run,
            run_ids=(run_id,),
            known=() if last_checkpoint is None else (as_checkpoint(last_checkpoint),),
        )

        def listener(change: Change, _: bool) -> tuple[Notice, ...] | None:
            if not isinstance(change, RecoveryChange):
                return None
            notices = notices_of(change, checked)
            owner.publisher.queue(run_id, notices)
            owner.publisher.flush()
            return notices

        told = checked_metadata(metadata)
        return self.dispatcher.begin(request, told, owner, listener).future

    def shutdown(self, wait: bool = True, *, timeout: float = 5.0) -> None:
        """Take no more recoveries and end those that wait; threads of our own are ended.

        Args:
            wait: Wait for the attempts under way and for what is told of them, up to
                `timeout`.
            timeout: Seconds. Attempts that are still under way then are abandoned.
        """
        self.dispatcher.close()
        owner = self._own_owner()
        with self._lock:
            pool, scheduler = self._own_pool, self._own_scheduler
        joins = [owner.publisher.join, self.join]
        if scheduler is not None:
            joins.append(scheduler.close)
        close = [] if pool is None else [partial(pool.shutdown, wait=False, cancel_futures=True)]
        patience, grace = (timeout, JOIN_GRACE) if wait else (0.0, 0.0)
        self.dispatcher.stop(owner, patience, grace, close=close, joins=joins)

    def join(self, timeout: float) -> None:
        """Wait for the threads of its own pool after `shutdown`, at most `timeout` seconds."""
        with self._lock:
            pool = self._own_pool
        if pool is not None:
            pool.join(timeout)

    def adapted(self, owner: Owner) -> Owner:
        """The owner, with what was handed in here in place of its own."""
        return replace(
            owner,
            clock=owner.clock if self._scheduler is None else Clock(self._scheduler),
            rest=owner.rest if self._rest_module is None else RestPort(self._rest_module),
            services=owner.services if self._services is None else ServicePort(self._services),
        )

    def _pool(self) -> Executor:
        if self._given_pool is not None:
            return self._given_pool
        with self._lock:
            if self._own_pool is None:
                # As many again for attempts that were abandoned and still hang.
                self._own_pool = DaemonPool(2 * self._max_concurrent, "tinkex-recovery")
            return self._own_pool

    def _own_owner(self) -> Owner:
        """The owner of recoveries that were asked for here."""
        with self._lock:
            if self._owner is None:
                scheduler = self._scheduler
                if scheduler is None:
                    scheduler = self._own_scheduler = ThreadScheduler("tinkex-executor")
                clock = Clock(scheduler)
                waits = Waits(clock)
                inline = self._scheduler is not None
                publisher = Publisher(self, inline=inline, on_idle=waits.notify)
                holds: Holds[Incident] = Holds(
                    clock, publisher, lambda _: (), self.dispatcher.release
                )
                own = Owner(
                    publisher=publisher,
                    waits=waits,
                    clock=clock,
                    rest=RestPort(default_rest),
                    services=ServicePort(default_services),
                    holds=holds,
                    can_pause=False,
                )
                self._owner = self.adapted(own)
            return self._owner
