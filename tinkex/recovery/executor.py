"""The public executor of recoveries: its pool, its clock, and what may be asked of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from typing import Any

from .. import rest as default_rest
from .. import service as default_services
from ..config import Config
from ..errors import RecoveryDisabledError
from ..policy import Policy
from ..runs.arguments import (
    SERVICE_FUNCTIONS,
    as_checkpoint,
    as_policy,
    check_service,
    checked_metadata,
    checked_module,
    checked_run_id,
    config_for,
)
from ..runtime.daemon_pool import DaemonPool
from ..runtime.publisher import Reporter
from ..runtime.scheduler import Clock, Scheduler, ThreadScheduler
from ..signals import Completed
from ..types import Checkpoint, TrainingRun
from .dispatcher import Dispatcher
from .incident import RecoveryRequest, Tools

__all__ = ["RecoveryExecutor"]

#: Seconds for the end of idle threads of our own, each kind.
JOIN_GRACE = 0.5


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
        rest_module: Any = None,
        service_client_module: Any = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        if pool is not None and not callable(getattr(pool, "submit", None)):
            raise TypeError(f"pool must be a concurrent.futures.Executor, not {pool!r}")
        if isinstance(max_concurrent, bool) or not isinstance(max_concurrent, int):
            raise TypeError(f"max_concurrent must be a whole number, not {max_concurrent!r}")
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be 1 or more, not {max_concurrent}")
        if rest_module is not None:
            checked_module("rest_module", rest_module, ("get_training_run",))
        if service_client_module is not None:
            checked_module("service_client_module", service_client_module, SERVICE_FUNCTIONS)
        self._rest_module = rest_module
        self._services = service_client_module
        self._scheduler = scheduler
        self._given_pool = pool
        self._max_concurrent = max_concurrent
        self._lock = threading.Lock()
        # Guarded by _lock: what is made when it is first needed.
        self._own_pool: DaemonPool | None = None
        self._own_scheduler: ThreadScheduler | None = None
        self._reporter: Reporter | None = None
        #: The incidents under way, for monitors.
        self.dispatcher = Dispatcher(self._pool, max_concurrent)

    @classmethod
    def over(cls, given: RecoveryExecutor | Executor | None) -> RecoveryExecutor:
        """The executor itself, or one over a pool with as many slots as that has workers."""
        if isinstance(given, RecoveryExecutor):
            return given
        # The standard pools tell how many workers they have under this name only.
        workers = getattr(given, "_max_workers", 1)
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
        reporter = self._own_reporter()
        tools = self.tools(default_rest, default_services, reporter.clock)
        check_service(tools.services, service)
        request = RecoveryRequest(
            run_id=checked_run_id(run_id),
            root_id=run_id,
            service=service,
            policy=checked,
            config=config_for(service, tools.rest, config),
            metadata=checked_metadata(metadata),
            run=run,
            run_ids=(run_id,),
            known=() if last_checkpoint is None else (as_checkpoint(last_checkpoint),),
        )
        return self.dispatcher.begin(request, tools, reporter, lambda _: True).future

    def shutdown(self, wait: bool = True, *, timeout: float = 5.0) -> None:
        """Take no more recoveries and end those that wait; threads of our own are ended.

        Args:
            wait: Wait for the attempts under way and for what is told of them, up to
                `timeout`.
            timeout: Seconds. Attempts that are still under way then are abandoned.
        """
        self.dispatcher.close()
        with self._lock:
            reporter, pool, scheduler = self._reporter, self._own_pool, self._own_scheduler
        if reporter is not None:
            reporter.closing = True
            self.dispatcher.cancel_all(reporter, only_waiting=True)
            if wait:
                reporter.wait(
                    lambda: reporter.outbox.is_idle() and not self.dispatcher.in_progress(reporter),
                    timeout,
                )
            reporter.outbox.close()
            self.dispatcher.cancel_all(reporter)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        grace = JOIN_GRACE if wait else 0.0
        if scheduler is not None:
            scheduler.close(grace)
        if reporter is not None:
            reporter.outbox.join(grace)
        self.join(grace)

    def join(self, timeout: float) -> None:
        """Wait for the threads of its own pool after `shutdown`, at most `timeout` seconds."""
        with self._lock:
            pool = self._own_pool
        if pool is not None:
            pool.join(timeout)

    def tools(self, rest: Any, services: Any, clock: Clock) -> Tools:
        """What an incident works with: what was handed in here, else what the caller has."""
        return Tools(
            rest=self._rest_module or rest,
            services=self._services or services,
            clock=Clock(self._scheduler) if self._scheduler else clock,
        )

    def _pool(self) -> Executor:
        if self._given_pool is not None:
            return self._given_pool
        with self._lock:
            if self._own_pool is None:
                # As many again for attempts that were abandoned and still hang.
                self._own_pool = DaemonPool(2 * self._max_concurrent, "tinkex-recovery")
            return self._own_pool

    def _own_reporter(self) -> Reporter:
        with self._lock:
            if self._reporter is None:
                scheduler = self._scheduler
                if scheduler is None:
                    scheduler = self._own_scheduler = ThreadScheduler("tinkex-executor")
                self._reporter = Reporter(
                    self, Clock(scheduler), inline=self._scheduler is not None
                )
            return self._reporter
