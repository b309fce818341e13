"""The monitor: its life from start to stop, and what callers ask of it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, cast, overload

from .arguments import (
    Accounts,
    as_policy,
    checked_callable,
    checked_metadata,
    checked_rest_module,
    checked_run_id,
    checked_service_module,
    checked_whole,
)
from .config import Config
from .errors import MonitorStoppedError, RecoveryDisabledError
from .handle import MonitoredRun
from .parts import Parts
from .policy import Policy
from .ports import RestModule, ServiceModule
from .recovery.executor import RecoveryExecutor
from .runs.record import Origin
from .runs.status import RunStatus, StatusTable
from .runtime.scheduler import Scheduler
from .training.submitting.client import bare
from .view import Viewed

if TYPE_CHECKING:
    from .journal.journal import Journal


class Monitor(Viewed):
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
        journal: The path of a file that outlives the process, or an open `Journal`; see `resume`.

    Raises:
        JournalError: The journal cannot be read or written.
        PolicyError: The policy cannot be used.
        TypeError: One of the parts has not the shape it needs.

    Threads: every method is safe from any thread. `monitor_run`, `stop_monitoring` and
    `status` do no I/O and wait for nothing. Polls, attempts, receivers and whatever else may wait
    run on daemon threads whose names begin with `tinkex-`, made when they are needed.
    """

    def __init__(
        self,
        policy: Policy | Mapping[str, Any] | None = None,
        *,
        config: Config | None = None,
        rest_module: RestModule | None = None,
        rest_client_fun: Callable[[Any], Any] | None = None,
        service_client_module: ServiceModule | None = None,
        executor: RecoveryExecutor | Executor | None = None,
        scheduler: Scheduler | None = None,
        poll_workers: int | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError(f"config must be a tinkex.Config or None, not {type(config).__name__}")
        checked_callable("rest_client_fun", rest_client_fun)
        checked_callable("scheduler", scheduler)
        if poll_workers is not None:
            checked_whole("poll_workers", poll_workers)
        if policy is None and config is not None:
            policy = config.recovery
        self.policy = as_policy(policy)
        parts = Parts(
            self,
            self.policy,
            rest_module=checked_rest_module(rest_module),
            service_client_module=checked_service_module(service_client_module),
            executor=RecoveryExecutor.over(executor),
            owns_executor=executor is None,
            scheduler=scheduler,
            poll_workers=poll_workers,
            journal=journal,
        )
        super().__init__(parts)
        self._runs = parts.runs
        self._accounts = Accounts(parts.rest.module, config, rest_client_fun)
        self._sweeps = parts.sweeps
        self._home = parts.home
        self._lock = threading.Lock()
        # Guarded by _lock: _started and _stopping, where the monitor is in its life; _stop, which
        # call stops it or has stopped it.
        self._started = False
        self._stopping = False
        self._stop: object | None = None

    # Life

    def start(self) -> Monitor:
        """Begin to poll; the second time without effect. Returns the monitor itself.

        Raises:
            MonitorStoppedError: It was stopped, or this is a forked child; make a new one.
        """
        self._home.check()
        with self._lock:
            if self._stopping:
                raise MonitorStoppedError("this monitor was stopped; make a new one")
            self._started = True
        self._sweeps.start()
        return self

    def stop(self, timeout: float = 5.0) -> None:
        """Stop for good: no more polls, attempts, signals or callbacks.

        Receivers, callbacks and attempts that are under way get up to `timeout` seconds;
        from one of them it may be called too, and then does not wait for it. What was handed
        in (executor, scheduler) is left open. The second time it is without effect, unless an
        interrupt ended the first.

        Service clients that recoveries made by calling a class, or by cloning one of the
        official SDK, are closed where a later generation has taken their run's place: what came
        of them, sampling clients too, can be used no more. `client` of a run can be trained on.
        In a forked child, or while the interpreter ends, nothing of it runs: it does nothing.
        """
        if not isinstance(timeout, int | float) or not timeout >= 0:
            raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")
        if self._home.is_left() or sys.is_finalizing():
            return
        this = object()
        try:
            with self._lock:
                self._stopping = True
                self._stop = self._stop or this
                is_first = self._stop is this
            if is_first:
                self._sweeps.stop()
                self._parts.stop(timeout)
                self._end_view(timeout)
        except BaseException:  # an interrupt: the next call does the work
            with self._lock:
                self._stop = None if self._stop is this else self._stop
            raise

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called, or this is a forked child."""
        return self._stopping or self._home.is_left()

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(self, *error: object) -> None:
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
            service: The service client, or a callable that makes one for each attempt.
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
        checked_run_id(run_id)
        config = self._config_of(service)
        known = dict(checked_metadata(metadata))
        client = bare(known.pop("training_client", None) if client is None else client)
        return self._register(run_id, service, config, metadata=known, client=client)

    def resume(self, service: Any) -> tuple[MonitoredRun, ...]:
        """Bring back the runs of this account in the journal that no living owner recovers.

        They were monitored or being recovered when their process ended. Each is restored at its
        first use; its policy and callbacks are those of this monitor. Where an owner may live on
        another machine it is waited for, up to half a minute. Runs of which the journal cannot be
        read are left out, and logged as errors.

        Raises:
            JournalError: The journal cannot be read or written.
            ValueError: This monitor has no journal.
            Exception: What `monitor_run` raises.
        """
        config, parts = self._config_of(service), self._parts
        if parts.keeper is None:
            raise ValueError("there is no journal to resume from; give Monitor(journal=path)")
        from .journal.resuming import Resuming  # noqa: PLC0415 (not every monitor has a journal)

        resuming = Resuming(parts.keeper, parts.rest, config, parts.waits)
        return tuple(
            self._register(each.run_id, service, config, metadata=each.metadata, origin=each.origin)
            for each in resuming.left_behind()
        )

    def _config_of(self, service: Any) -> Config | None:
        """The account of a run that is about to be monitored, after all checks."""
        self._check_running()
        if not self.policy.enabled:
            raise RecoveryDisabledError(
                "the policy has enabled=False; give Monitor(policy=Policy(enabled=True))"
            )
        self._parts.owner.services.check(service)
        return self._accounts.of(service)

    def _register(
        self,
        run_id: str,
        service: Any,
        config: Config | None,
        *,
        metadata: Mapping[str, Any] | None = None,
        client: Any = None,
        origin: Origin | None = None,
    ) -> MonitoredRun:
        parts = self._parts
        record = self._runs.register(
            run_id,
            service=service,
            config=config,
            metadata=checked_metadata(metadata),
            client=client,
            make_handle=lambda record: MonitoredRun(parts, record),
            origin=origin,
        )
        parts.fence.watch(record)
        self._sweeps.arm()
        return cast("MonitoredRun", record.handle)

    def stop_monitoring(self, run: str | MonitoredRun) -> None:
        """Stop monitoring a run, by its handle or any id of its lineage; unknown ids are fine.

        What an attempt under way brings is not adopted. Its loop may train on, unprotected; not
        while its server is down: then its requests raise `MonitorStoppedError`, as with `stop`.
        """
        if self._home.is_left():
            return
        run_id = run.run_id if isinstance(run, MonitoredRun) else run
        record = self._runs.find(run_id)
        # The handle of a run that was stopped before does not speak for the one of now.
        if record is not None and run in (run_id, record.handle):
            self._parts.controller.stop(record)

    def poll_now(self) -> None:
        """Sweep now and return when the sweep has ended; where one is under way, when that has.

        Raises:
            MonitorStoppedError: The monitor was stopped.
        """
        self._check_running()
        self._sweeps.make()

    # Queries

    @overload
    def status(self, run: None = None) -> StatusTable: ...

    @overload
    def status(self, run: str | MonitoredRun) -> RunStatus: ...

    def status(self, run: str | MonitoredRun | None = None) -> RunStatus | StatusTable:
        """Return a snapshot of one run, or a tuple of those of all.

        Raises:
            KeyError: The run is not monitored.
        """
        if run is None:
            return StatusTable(self._runs.status_of_all())
        run_id = run.run_id if isinstance(run, MonitoredRun) else run
        record = self._runs.find(run_id)
        if record is None:
            raise KeyError(f"run {run_id!r} is not monitored")
        return self._runs.status(record)

    def __repr__(self) -> str:
        life = "stopped" if self.is_stopped else "started" if self._started else "not started"
        return f"<Monitor {life}, {self.status().states() or 'no runs'}>"

    def _check_running(self) -> None:
        self._home.check()
        if self._stopping:
            raise MonitorStoppedError("this monitor was stopped; make a new one")
