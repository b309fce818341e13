"""The monitor: its life from start to stop, and what a person asks of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from types import TracebackType
from typing import Any

from . import rest as default_rest
from . import service as default_services
from .access import RunAccess
from .config import Config
from .errors import MonitorStoppedError, RecoveryDisabledError
from .handle import MonitoredRun
from .policy import Policy
from .polling.detection import Watcher
from .polling.sweep import SweepEnd
from .polling.sweep_timer import Pacer
from .polling.sweeper import Sweeper, poll_bound
from .recovery.controller import Supervisor
from .recovery.executor import RecoveryExecutor
from .runs.arguments import (
    NO_METADATA,
    SERVICE_FUNCTIONS,
    as_policy,
    check_service,
    checked_metadata,
    checked_module,
    checked_run_id,
    checked_workers,
    config_for,
)
from .runs.run_map import RunMap
from .runs.status import StatusTable
from .runtime.daemon_pool import DaemonPool
from .runtime.publisher import Reporter
from .runtime.scheduler import Clock, Scheduler, ThreadScheduler
from .signals import Swept
from .training.confirmation import Triage

__all__ = ["Monitor"]

logger = logging.getLogger(__name__)

#: How many requests a sweep may have in flight unless told otherwise.
POLL_WORKERS = 8

#: How many futures of an SDK without standard ones may be waited for at the same time.
RESULTS_AT_ONCE = 64

#: Seconds that the end of our own idle threads may take beyond a stop's timeout.
JOIN_GRACE = 1.0


class Monitor:
    """Polls training runs, recovers those that are corrupted, and says so through signals.

    The options are those of the Elixir original's `Tinkex.Recovery.Monitor`.

    Args:
        policy: A `Policy`, or a mapping of its fields; `None`: taken from `config.recovery`,
            else a disabled one.
        config: For service clients that hold no key of their own; `None`: read from the
            environment at the first need.
        rest_module: A module or object with `get_training_run(config, run_id)`, and optionally
            `list_training_runs(config, *, limit, offset)` and
            `list_checkpoints(config, run_id)`.
        rest_client_fun: Called with a service client; returns an object with `.config`.
        service_client_module: Makes training clients; see `tinkex.service`.
        executor: A `RecoveryExecutor`, a `concurrent.futures.Executor` (as many attempts at a
            time as it has workers), or `None` for one of its own.
        scheduler: Of the shape of `threading.Timer`; `None`: a daemon thread of its own.
        poll_workers: How many requests a sweep may have in flight; 0 polls on the thread on
            which the timer fires; `None`: 8, or 0 where a `scheduler` is given.

    Raises:
        PolicyError: The policy cannot be used.
        TypeError: One of the parts has not the shape it needs.

    Threads: every method is safe from any thread. `monitor_run`, `stop_monitoring` and
    `status` do no I/O and wait for nothing. Timers fire on `tinkex-monitor`, polls run on
    `tinkex-poll_N`, attempts on `tinkex-recovery_N`, receivers and callbacks on
    `tinkex-signals_N`, all of them daemon threads that are made when they are needed.
    """

    def __init__(
        self,
        policy: Policy | Mapping[str, Any] | None = None,
        *,
        config: Config | None = None,
        rest_module: Any = None,
        rest_client_fun: Callable[[Any], Any] | None = None,
        service_client_module: Any = None,
        executor: RecoveryExecutor | Executor | None = None,
        scheduler: Scheduler | None = None,
        poll_workers: int | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError(f"config must be a tinkex.Config or None, not {type(config).__name__}")
        for name, value in (("rest_client_fun", rest_client_fun), ("scheduler", scheduler)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, not {value!r}")
        if policy is None and config is not None:
            policy = config.recovery
        self.policy = as_policy(policy)
        self._config = config
        self._rest_client_fun = rest_client_fun
        workers = checked_workers(poll_workers, POLL_WORKERS if scheduler is None else 0)
        # Timers on threads of their own must not be held up by receivers either.
        inline = scheduler is not None and not _makes_threads(scheduler)
        self._own_scheduler: ThreadScheduler | None = None
        if scheduler is None:
            scheduler = self._own_scheduler = ThreadScheduler("tinkex-monitor")
        self._clock = Clock(scheduler)
        self._reporter = Reporter(self, self._clock, inline=inline)
        self._own_rest: default_rest.RestClient | None = None
        if rest_module is None or rest_module is default_rest:
            self._own_rest = default_rest.RestClient(
                max_connections=max(workers, 1), wait=self._clock.sleep()
            )
        self._rest = self._own_rest or checked_module(
            "rest_module", rest_module, ("get_training_run",)
        )
        services = service_client_module or default_services
        self._services = checked_module("service_client_module", services, SERVICE_FUNCTIONS)
        self._executor = RecoveryExecutor.over(executor)
        self._owns_executor = executor is None
        self._runs = RunMap()
        self._tools = self._executor.tools(self._rest, self._services, self._clock)
        self._supervisor = Supervisor(
            self.policy, self._runs, self._executor.dispatcher, self._tools, self._reporter
        )
        self._watcher = Watcher(self.policy, self._runs, self._reporter, self._supervisor)
        self._sweeper = Sweeper(
            self._rest,
            self._clock,
            workers=workers,
            bound=poll_bound(self.policy.poll_interval),
            bounded=self._own_rest is not None,
            results=self._watcher,
            on_end=self._swept,
            notify=self._reporter.notify,
        )
        self._results = None if inline else DaemonPool(RESULTS_AT_ONCE, "tinkex-result")
        self._access = RunAccess(
            runs=self._runs,
            reporter=self._reporter,
            supervisor=self._supervisor,
            triage=Triage(self.policy, self._reporter, self._sweeper, self._supervisor),
            dispatcher=self._executor.dispatcher,
            tools=self._tools,
            pool=self._results,
        )
        self._pacer = Pacer(self._clock, self.policy.poll_interval, self._sweep)
        self._lock = threading.Lock()
        # Guarded by _lock: where the monitor is in its life.
        self._started = False
        self._stopping = False

    # Life

    def start(self) -> Monitor:
        """Begin to poll; the second time without effect. Returns the monitor itself.

        Raises:
            MonitorStoppedError: It was stopped; make a new one.
        """
        with self._lock:
            if self._stopping:
                raise MonitorStoppedError("this monitor was stopped; make a new one")
            self._started = True
        self._pacer.start()
        self._pace()
        return self

    def stop(self, timeout: float = 5.0) -> None:
        """Stop for good: no more polls, attempts, signals or callbacks.

        Receivers, callbacks and attempts that are under way get up to `timeout` seconds;
        from one of them it may be called too, and then does not wait for it. What was handed
        in (executor, scheduler) is left open. The second time it is without effect.
        """
        if not isinstance(timeout, int | float) or not timeout >= 0:
            raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._pacer.stop()
        # What has not begun goes first, so that nothing follows on what is under way.
        self._reporter.closing = True
        self._executor.dispatcher.cancel_all(self._reporter, only_waiting=True)
        self._sweeper.close()
        grace = min(JOIN_GRACE, timeout / 10)
        try:
            self._reporter.wait(self._is_quiet, max(0.0, timeout - grace))
        except Exception:
            logger.exception("the scheduler's wait failed; stopping without it")
        finally:
            self._tear_down(grace)

    def _tear_down(self, grace: float) -> None:
        # First publishing, and only then the attempts that hang: nothing is said of them.
        self._reporter.outbox.close()
        self._executor.dispatcher.cancel_all(self._reporter)
        self._runs.close()
        # Not before: an attempt that was under way may have had to list checkpoints.
        if self._own_rest is not None:
            self._own_rest.close()
        self._end_threads(grace)
        self._reporter.notify()

    def _end_threads(self, grace: float) -> None:
        joins = [self._sweeper.join, self._reporter.outbox.join]
        if self._owns_executor:
            self._executor.shutdown(wait=False)
            joins.append(self._executor.join)
        if self._own_scheduler is not None:
            joins.append(self._own_scheduler.close)
        if self._results is not None:
            self._results.shutdown(wait=False)
            joins.append(self._results.join)
        # Each has its share, so that threads which hang leave time for those that do not.
        for join in joins:
            join(grace / len(joins))

    def _is_quiet(self) -> bool:
        return self._reporter.outbox.is_idle() and not self._executor.dispatcher.in_progress(
            self._reporter
        )

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Commands

    def monitor_run(
        self,
        run_id: str,
        service: Any,
        metadata: Mapping[str, Any] | None = None,
        client: Any = None,
    ) -> MonitoredRun:
        """Begin to monitor a run, or update what is known of one, by any id of its lineage.

        Args:
            run_id: The training client's `model_id`.
            service: The service client, or a callable without arguments that returns one for
                each attempt.
            metadata: Carried by every event. `training_client` in it is read as `client`.
            client: The training client in use.

        Returns:
            The run's handle, always the same for one lineage.

        Raises:
            RecoveryDisabledError: The policy is not enabled.
            MonitorStoppedError: The monitor was stopped.
            ConfigError: There is no key to poll with.
            TypeError, ValueError: An argument cannot be used.
        """
        if self._stopping:
            raise MonitorStoppedError("this monitor was stopped; make a new one")
        if not self.policy.enabled:
            raise RecoveryDisabledError(
                "the policy has enabled=False; give Monitor(policy=Policy(enabled=True))"
            )
        checked_run_id(run_id)
        check_service(self._tools.services, service)
        known = dict(checked_metadata(metadata))
        client = known.pop("training_client", None) if client is None else client
        config = config_for(service, self._rest, self._config, self._rest_client_fun)
        record = self._runs.register(
            run_id,
            service=service,
            config=config,
            metadata=checked_metadata(known),
            client=client,
            now=self._clock.utc(),
            make_handle=lambda record: MonitoredRun(self._access, record),
        )
        self._supervisor.begin_anew(record)
        self._pace()
        handle: MonitoredRun = record.handle
        return handle

    def stop_monitoring(self, run: str | MonitoredRun) -> None:
        """Stop monitoring a run, by its handle or any id of its lineage; unknown ids are fine.

        What an attempt under way brings is not adopted.
        """
        run_id = run.run_id if isinstance(run, MonitoredRun) else run
        record = self._runs.find(run_id)
        # The handle of a run that was stopped before does not speak for the one of now.
        if record is not None and run in (run_id, record.handle):
            self._supervisor.stop(record)

    def poll_now(self) -> None:
        """Sweep now and return when the sweep has ended; where one is under way, when that has.

        Raises:
            MonitorStoppedError: The monitor was stopped.
        """
        if self._stopping:
            raise MonitorStoppedError("this monitor was stopped; make a new one")
        self._sweep()
        if not self._sweeper.is_own_thread():
            self._reporter.wait(lambda: not self._sweeper.is_sweeping, None)

    # Queries

    def status(self, run: str | MonitoredRun | None = None) -> Any:
        """Return a snapshot of one run, or a tuple of those of all.

        Raises:
            KeyError: The run is not monitored.
        """
        if run is None:
            with self._runs.lock:
                records = self._runs.records()
            return StatusTable(map(self._access.status, records))
        run_id = run.run_id if isinstance(run, MonitoredRun) else run
        record = self._runs.find(run_id)
        if record is None:
            raise KeyError(f"run {run_id!r} is not monitored")
        return self._access.status(record)

    def __repr__(self) -> str:
        life = "stopped" if self._stopping else "started" if self._started else "not started"
        with self._runs.lock:
            count = len(self._runs.records())
        return f"<Monitor {life}, {count} runs>"

    def _repr_html_(self) -> str:
        table: str = self.status()._repr_html_()
        return table

    # Sweeps

    def _sweep(self) -> None:
        self._pacer.hold()
        with self._runs.lock:
            polled = [r for r in self._runs.records() if r.state.is_polled]
        self._watcher.sweep_begins(polled)
        self._sweeper.begin(polled)

    def _swept(self, end: SweepEnd) -> None:
        self._reporter.publish(
            "swept",
            Swept,
            None,
            NO_METADATA,
            runs=end.runs,
            requests=end.requests,
            duration=end.duration,
            errors=end.errors,
        )
        self._reporter.notify()
        self._pacer.release()
        self._pace()

    def _pace(self) -> None:
        if len(self._runs):
            self._pacer.arm()


def _makes_threads(scheduler: Any) -> bool:
    return isinstance(scheduler, type) and issubclass(scheduler, threading.Thread)
