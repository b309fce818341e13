"""`watch`, `open_run` and `resume`: a monitor for one run, in one `with` line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .arguments import checked_callable, checked_run_id
from .handle import MonitoredRun
from .monitor import Monitor
from .policy import Policy
from .service import finished, model_id_of

if TYPE_CHECKING:
    from .journal.journal import Journal


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
def open_run(
    name: str,
    service: Any,
    *,
    create: Callable[[Any, Mapping[str, str]], Any] | None = None,
    policy: Policy | Mapping[str, Any] | None = None,
    journal: str | os.PathLike[str] | Journal | None = None,
    takeover: bool = False,
    silent_for: float = 120.0,
    held_wait: float = 180.0,
    **options: Any,
) -> Iterator[MonitoredRun]:
    """Go on with the run that goes by a name on the account, or make it; give its handle.

    The same script, run again, goes on: after a restart of the kernel, the process or the machine.
    The name is in the metadata that the server keeps with the run. A run that is there is restored
    at the first use that needs it, such as a request of `segment.client` or `wait()`, as in any
    recovery: its newest generation, from the newest checkpoint that loads; to look at it, or a
    training that is complete, makes nothing. Where no checkpoint was saved yet, a fresh run is made
    in its place. In the process that still holds its client it goes on in place, as the next
    `segments()` would.

    One owner at a time trains it. One of this machine is known to live by a lock that the system
    ends with its process; one of another machine only by its requests. One that was taken over
    finds out within about a minute: its loop ends with `RunHeldError`, and no other goes on
    from what it saves.

    Args:
        name: Any text; another name begins anew.
        service: The service client, or a callable that makes one, such as its class.
        create: Makes the client of a new run, from a service client and the metadata that the run
            must carry as its `user_metadata`; `None`: the service client's
            `create_lora_training_client` with `options`.
        policy: `None`: an enabled one.
        journal: The path of a file that outlives the process, or an open `Journal`; with it runs
            are also found where they have no metadata, and of owners that share it
            its lease tells who lives.
        takeover: Do not wait until an owner of another machine is silent: it has ended for sure.
        silent_for: After so many seconds without a request of it an owner of another machine counts
            as gone. Where the run was made with more, that counts.
        held_wait: So many seconds are waited while it makes requests.
        **options: Of `create_lora_training_client`, such as `base_model` and `rank`.

    Raises:
        RunHeldError: Another owner lives, or nothing shows whether it does; or one made a run at
            the same moment, and goes on. From the loop: another owner has taken the run over.
        RestError: The list of runs could not be had, or not as a whole.
        ValueError: The run has another `base_model` or `rank`.
        Exception: What `Monitor`, `monitor_run` and the service client raise.
    """
    from .opening.opening import Opening  # noqa: PLC0415 (most programs open no run by name)
    from .opening.waiting import Claim  # noqa: PLC0415

    if not isinstance(name, str):
        raise TypeError(f"a name is text like 'sft-7', not {name!r}")
    if not (name.isprintable() and 0 < len(name) <= 200):
        raise ValueError(f"a name is 1 to 200 printable characters, not {name!r}")
    checked_callable("create", create)
    if not isinstance(told := options.get("user_metadata") or {}, Mapping):
        raise TypeError(f"user_metadata must be a mapping, not {told!r}")
    claim = Claim(takeover=takeover, silent_for=silent_for, held_wait=held_wait)
    given = {} if journal is None else {"journal": journal}
    with (
        _ended(_monitor(policy, given)) as monitor,
        Opening(monitor, name, service, claim).named(create, options) as run,
    ):
        yield run


@contextmanager
def resume(
    run_id: str,
    service: Any,
    policy: Policy | Mapping[str, Any] | None = None,
    *,
    takeover: bool = False,
    silent_for: float = 120.0,
    held_wait: float = 180.0,
    **monitor_options: Any,
) -> Iterator[MonitoredRun]:
    """Go on with a run as `open_run` does, by any run id of its lineage.

    It may be a run that tinkex never saw. Its lineage is found by the metadata that each recovery
    gives its run.

    Args:
        run_id: Any run of the lineage.
        service: The service client, or a callable that makes one, such as its class.
        policy: `None`: that of `config=`, where there is one, else an enabled one.
        takeover: As in `open_run`.
        silent_for: As in `open_run`.
        held_wait: As in `open_run`.
        **monitor_options: Passed on to `Monitor`.

    Raises:
        CheckpointMissingError: No run of the lineage has a training checkpoint.
        RunHeldError: Another owner lives, or nothing shows whether it does. From the loop: another
            owner has taken the run over.
        RestError: The run or the list of runs could not be had, or not as a whole.
        Exception: What `Monitor` and `monitor_run` raise.
    """
    from .opening.opening import Opening  # noqa: PLC0415 (most programs resume no run)
    from .opening.waiting import Claim  # noqa: PLC0415

    checked_run_id(run_id)
    claim = Claim(takeover=takeover, silent_for=silent_for, held_wait=held_wait)
    with (
        _ended(_monitor(policy, monitor_options)) as monitor,
        Opening(monitor, run_id, service, claim).resumed() as run,
    ):
        yield run


@contextmanager
def _ended(monitor: Monitor) -> Iterator[Monitor]:
    """A monitor that is stopped at the end, whether it was started or not."""
    try:
        yield monitor
    finally:
        monitor.stop()


def _monitor(policy: Policy | Mapping[str, Any] | None, options: Mapping[str, Any]) -> Monitor:
    if policy is None and getattr(options.get("config"), "recovery", None) is None:
        policy = Policy(enabled=True)
    return Monitor(policy, **options)
