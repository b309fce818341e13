"""One run, one `with` line: a monitor of its own around a training loop."""

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
    if policy is None and getattr(monitor_options.get("config"), "recovery", None) is None:
        policy = Policy(enabled=True)
    with Monitor(policy, **monitor_options) as monitor:
        yield monitor.monitor_run(model_id_of(live), service, client=live)
