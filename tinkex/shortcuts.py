"""One run, one `with` line: a monitor of its own around a training loop, new or gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .handle import MonitoredRun
from .monitor import Monitor
from .policy import Policy
from .service import finished, model_id_of


@contextmanager
def watch(
    client: Any,
    service: Any,
    policy: Policy | Mapping[str, Any] | None = None,
    **monitor_options: Any,
) -> Iterator[MonitoredRun]:
    """Monitor one run for as long as the `with` block lasts, and give its handle.

    Args:
        client: The training client in use; a future of one is waited for.
        service: The service client it came from.
        policy: `None`: that of `config=`, where there is one, else an enabled one.
        **monitor_options: Passed on to `Monitor`.

    Raises:
        Exception: What `Monitor` and `monitor_run` raise.
    """
    live = finished(client)
    with _monitor(policy, monitor_options) as monitor:
        yield monitor.monitor_run(model_id_of(live), service, client=live)


@contextmanager
def resume(
    run_id: str,
    service: Any,
    policy: Policy | Mapping[str, Any] | None = None,
    **monitor_options: Any,
) -> Iterator[MonitoredRun]:
    """Go on with a run whose process has ended, and give its handle.

    Its lineage is found in the account's list of runs, by the metadata that each recovery gives
    its run. At the first use, by `segments()` or `wait()`, the newest generation is restored from
    the newest checkpoint that loads, as in any recovery; to look at it makes nothing.

    Only one process may train a lineage: this does not check that the other one has ended.

    Args:
        run_id: Any run of the lineage, also one that was never monitored.
        service: The service client, or a callable that makes one, such as its class.
        policy: `None`: that of `config=`, where there is one, else an enabled one.
        **monitor_options: Passed on to `Monitor`.

    Raises:
        CheckpointMissingError: No run of the lineage has a training checkpoint.
        RestError: The run or the list of runs could not be had, or not as a whole.
        Exception: What `Monitor` and `monitor_run` raise.
    """
    with _monitor(policy, monitor_options) as monitor:
        yield monitor._take_up(run_id, service)


def _monitor(policy: Policy | Mapping[str, Any] | None, options: Mapping[str, Any]) -> Monitor:
    if policy is None and getattr(options.get("config"), "recovery", None) is None:
        policy = Policy(enabled=True)
    return Monitor(policy, **options)
