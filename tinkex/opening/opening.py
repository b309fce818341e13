"""Opens a run by its name or id: once nobody else trains it, it is gone on with, or made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ..config import Config
from ..errors import CheckpointMissingError, RunHeldError, TinkexError
from ..handle import MonitoredRun
from ..monitor import Monitor
from ..recovery.attempt import GENERATION, NAME, OWNER, ROOT, SILENT_FOR
from ..runs.record import Origin
from ..service import finished, model_id_of, takes_option
from ..types import TrainingRun
from .lineages import Lineage, lineage_named, lineage_of, text_of
from .owners import Ownership

logger = logging.getLogger(__name__)

#: Seconds between two looks whether another owner lives.
LOOK_EVERY = 10.0

#: The most seconds of silence that a run may ask for.
MOST_SILENCE = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How an owner is told from one that has ended; the times are seconds."""

    takeover: bool
    silent_for: float
    held_wait: float

    def __post_init__(self) -> None:
        for name in ("silent_for", "held_wait"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise TypeError(f"{name} must be a number of seconds, not {given!r}")
            if not 0 <= given <= MOST_SILENCE:
                raise ValueError(f"{name} must be 0 to {MOST_SILENCE:g} seconds, not {given}")


class Opening:
    """One opening of a run, with a monitor that is not started yet.

    `about` is the name or id that was given.
    """

    def __init__(self, monitor: Monitor, about: str, service: Any, claim: Claim) -> None:
        self._monitor = monitor
        self._parts = monitor._parts
        self._about = about
        self._service = service
        self._claim = claim
        self._config = monitor._config_of(service)

    @contextmanager
    def resumed(self) -> Iterator[MonitoredRun]:
        """Go on with a run by any run id of its lineage."""
        line = lineage_of(self._parts.rest, self._config, self._about)
        with self._ownership(line.name, line.root) as ownership, self._monitor:
            line = lineage_of(self._parts.rest, self._config, self._about)  # as it is now
            if line.newest is None:
                problem = "no run of its lineage has a training checkpoint"
                raise CheckpointMissingError(self._about, problem)
            self._wait_for_silence(line, ownership)
            yield self._gone_on_with(line, line.newest, self._carried(ownership, line, line.name))

    @contextmanager
    def named(
        self,
        create: Callable[[Any, Mapping[str, str]], Any] | None,
        options: Mapping[str, Any],
    ) -> Iterator[MonitoredRun]:
        """Go on with the run of a name, or make it."""
        with self._ownership(self._about, None) as ownership, self._monitor:
            line = lineage_named(self._parts.rest, self._config, self._about)
            if line is not None:
                _check_same(line, self._about, options)
                self._wait_for_silence(line, ownership)
            carried = self._carried(ownership, line, self._about)
            if line is not None and line.newest is not None:
                yield self._gone_on_with(line, line.newest, carried)
            else:
                number = 0 if line is None else line.number_of(line.last) + 1
                yield self._made(create or _Maker(options), number, carried)

    # Who else trains it

    def _ownership(self, name: str | None, root: str | None) -> Ownership:
        account, config = repr(self._config), self._config
        if isinstance(config, Config):
            account = "\n".join((config.base_url, config.require_key(), config.project_id or ""))
        return Ownership(f"{account}\n{'name' if name else 'root'}\n{name or root}", self._about)

    def _wait_for_silence(self, line: Lineage, ownership: Ownership) -> None:
        """Wait until all who may train the lineage have ended, as far as that shows.

        Raises `RunHeldError` where one lives, or where nothing shows that it does not.
        """
        # An owner that was of this machine has ended: nobody here holds the lineage now.
        others = [each for each in line.latest if text_of(each, OWNER) not in ownership.before]
        if self._claim.takeover or not others:
            return
        clock, told = self._parts.clock, [_seconds(text_of(each, SILENT_FOR)) for each in others]
        silent_for = max(self._claim.silent_for, *told)
        logger.warning("run %s: waiting for %g s of silence of its owner", self._about, silent_for)
        began = since = clock.monotonic()
        seen = {each.training_run_id: each.last_request_time for each in others}
        while (silence := clock.monotonic() - since) < silent_for:
            moments = [each for each in seen.values() if each is not None]
            if len(moments) < len(seen):
                advice = "nothing shows whether its owner lives; takeover=True takes it over"
                raise RunHeldError(self._about, advice)
            if since > began and clock.monotonic() - began >= self._claim.held_wait:
                problem = f"it is trained elsewhere: its last request came at {max(moments)}"
                raise RunHeldError(self._about, problem)
            self._parts.waits.wait(self, lambda: False, min(LOOK_EVERY, silent_for - silence))
            rest = self._parts.rest
            now = {run_id: rest.run(self._config, run_id).last_request_time for run_id in seen}
            if now != seen:
                seen, since = now, clock.monotonic()

    # The run

    def _carried(
        self, ownership: Ownership, line: Lineage | None, name: str | None
    ) -> dict[str, str]:
        """What each run is to carry that is made from now on: this owner is its owner."""
        owners = [] if line is None else [text_of(each, OWNER) for each in line.latest]
        ownership.claim(self._parts.clock.utc(), owners)
        return {
            ROOT: uuid4().hex if line is None else line.root,
            OWNER: ownership.owner,
            SILENT_FOR: f"{self._claim.silent_for:g}",
            **({NAME: name} if name else {}),
        }

    def _gone_on_with(
        self, line: Lineage, newest: TrainingRun, carried: Mapping[str, str]
    ) -> MonitoredRun:
        # A generation that has saved nothing may live: the next one has a higher number.
        number = line.number_of(line.last)
        origin = Origin(
            past=line.past_of(newest),
            made_from=line.source_of(newest),
            generation=number,
            carried=tuple(carried.items()),
        )
        about = newest.training_run_id, self._service, self._config
        return self._monitor._register(*about, origin=origin)

    def _made(
        self,
        make: Callable[[Any, Mapping[str, str]], Any],
        number: int,
        carried: Mapping[str, str],
    ) -> MonitoredRun:
        """Make the first run of a name, or the next one where none before it saved anything."""
        owner, service = self._parts.owner, self._service
        opened = owner.services.opened(service)
        own = [opened] if owner.services.owns(service, opened) else []
        try:
            client = finished(make(opened, {**carried, GENERATION: str(number)}))
            run_id = model_id_of(client)
            self._check_named(run_id)
        except BaseException:
            owner.own_services.discard(own, "")
            raise
        if own:
            owner.own_services.keep(own, client, run_id, replaced="")
        origin = Origin((), None, number, tuple(carried.items()))
        about = run_id, service, self._config
        return self._monitor._register(*about, client=client, origin=origin)

    def _check_named(self, run_id: str) -> None:
        told = self._parts.rest.run(self._config, run_id)
        if text_of(told, NAME) != self._about:
            raise TinkexError(f"run {run_id!r} was made, but no metadata of it leads to its name")


class _Maker:
    """Makes a run with the service client's own method."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    def __call__(self, service: Any, metadata: Mapping[str, str]) -> Any:
        make = service.create_lora_training_client
        if not takes_option(make, "user_metadata"):
            raise TypeError("this service client gives runs no metadata, so none is found by name")
        told = self._options.get("user_metadata") or {}
        # Those of another run would lead to its lineage.
        given = {key: told[key] for key in told if not str(key).startswith("tinkex_")}
        return make(**{**self._options, "user_metadata": {**given, **metadata}})


def _check_same(line: Lineage, name: str, options: Mapping[str, Any]) -> None:
    told = {"base_model": line.last.base_model, "rank": line.last.lora_rank}
    for key, found in told.items():
        given = options.get(key)
        if None not in (found, given) and given != found:
            raise ValueError(
                f"the run named {name!r} has {key}={found!r}, not {given!r}; "
                "for another model take another name"
            )


def _seconds(told: str | None) -> float:
    try:
        return min(max(float(told or 0), 0.0), MOST_SILENCE)
    except ValueError:
        return 0.0
