"""Opens a run by its name or id: waits for other owners, then goes on with it or makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..errors import ApiNotFoundError, CheckpointMissingError, TinkexError
from ..handle import MonitoredRun
from ..lineage.lineages import Lineage, lineage_named, lineage_of
from ..lineage.metadata import GENERATION, NAME, OWNER, ROOT, SILENT_FOR, text_of
from ..lineage.owners import Ownership, lineage_key
from ..monitor import Monitor
from ..runs.record import Origin
from ..runs.state import RunState
from ..service import finished, model_id_of, takes_option
from ..training.ledger import ledger_of
from ..types import TrainingRun
from .here import Here
from .waiting import Claim, Silence

if TYPE_CHECKING:
    from ..journal.views import Kept


class Opening:
    """One opening of a run, with a monitor that is not started yet.

    `about` is the name or id that was given.
    """

    def __init__(self, monitor: Monitor, about: str, service: Any, claim: Claim) -> None:
        self._monitor = monitor
        self._parts = monitor._parts
        self._about = about
        self._service = service
        self._is_forced, self._silent_for = claim.takeover, claim.silent_for
        self._config = monitor._config_of(service)
        self._silence = Silence(self._parts, self._config, about, claim)

    @contextmanager
    def resumed(self) -> Iterator[MonitoredRun]:
        """Go on with a run by any run id of its lineage."""
        line = self._line()
        with self._opened(line.name, line.root) as (ownership, here):
            line = self._line()  # as it is now
            run = self._in_place(line, ownership, here, line.name)
            if run is None:
                kept = self._kept(None, line)
                if line.newest is None and kept is None:
                    problem = "no run of its lineage has a training checkpoint"
                    raise CheckpointMissingError(self._about, problem)
                now, carried = self._taken_over(ownership, line, kept, self._line, line.name)
                run, line = self._gone_on_with(now, kept, carried), now or line
            with self._trained(run, here, line):
                yield run

    @contextmanager
    def named(
        self,
        create: Callable[[Any, Mapping[str, str]], Any] | None,
        options: Mapping[str, Any],
    ) -> Iterator[MonitoredRun]:
        """Go on with the run of a name, or make it."""
        with self._opened(self._about, None) as (ownership, here):
            line, run = self._line_named(), None
            if line is not None:
                _check_same(line.last, self._about, options)
                run = self._in_place(line, ownership, here, self._about)
            if run is None:
                kept = self._kept(self._about, line)
                if kept is not None and line is None:
                    with suppress(ApiNotFoundError):  # its checkpoints may be there still
                        told = self._parts.rest.run(self._config, kept.run_id)
                        _check_same(told, self._about, options)
                read = self._line_named
                line, carried = self._taken_over(ownership, line, kept, read, self._about)
                if self._has_saved(line, kept):
                    run = self._gone_on_with(line, kept, carried)
                else:
                    last = -1 if line is None else line.number_of(line.last)
                    number = 1 + max(last, -1 if kept is None else kept.origin.generation)
                    make = create or _Maker(options, needs_metadata=self._parts.keeper is None)
                    run = self._made(make, number, carried)
            with self._trained(run, here, line):
                yield run

    # What is known of it

    def _line(self) -> Lineage:
        """The lineage of the run that was asked for, as the server tells it."""
        rest, config = self._parts.rest, self._config
        if rest.can_list or self._parts.keeper is None:
            return lineage_of(rest, config, self._about)
        return Lineage(self._about, {self._about: rest.run(config, self._about)})

    def _line_named(self) -> Lineage | None:
        rest, config = self._parts.rest, self._config
        if rest.can_list or self._parts.keeper is None:
            return lineage_named(rest, config, self._about)
        return None

    def _kept(self, name: str | None, line: Lineage | None) -> Kept | None:
        """What the journal knows of it, whose lease is ours from now on; `None`: nothing.

        Raises `RunHeldError` where an owner lives, as the journal tells.
        """
        parts = self._parts
        if parts.keeper is None:
            return None
        from ..journal.resuming import Resuming  # noqa: PLC0415 (not every run has a journal)

        ids = [self._about] if name is None else []
        ids += [] if line is None else [each.training_run_id for each in line.runs]
        resuming = Resuming(parts.keeper, parts.rest, self._config, parts.waits)
        return resuming.one(self._about, name, ids, is_forced=self._is_forced)

    def _has_saved(self, line: Lineage | None, kept: Kept | None) -> bool:
        """Whether there may be a checkpoint to go on from, as the server or the journal knows."""
        if line is not None and line.newest is not None:
            return True
        if kept is None:
            return False
        if kept.origin.made_from is not None or (kept.origin.kept and kept.origin.kept.known):
            return True
        return self._parts.rest.run(self._config, kept.run_id).last_checkpoint is not None

    @contextmanager
    def _trained(self, run: MonitoredRun, here: Here, line: Lineage | None) -> Iterator[None]:
        """While it lasts the run is trained; before, all that was done is on the disk."""
        keeper, record = self._parts.keeper, run._record
        if keeper is not None:
            used = {each.run_id for each in run.lineage}
            found = () if line is None else line.runs
            strays = [each.training_run_id for each in found if each.training_run_id not in used]
            keeper.name_strays(record, strays)
        with here.trained(run, self._parts.owner.own_services):
            yield

    # Who else trains it

    @contextmanager
    def _opened(self, name: str | None, root: str | None) -> Iterator[tuple[Ownership, Here]]:
        """Have the lineage for this opening alone, on this machine, while the monitor runs."""
        about = lineage_key(self._config, name, root), self._about
        with Here(*about) as here, Ownership(*about) as ownership, self._monitor:
            yield ownership, here

    # The run

    def _taken_over(
        self,
        ownership: Ownership,
        line: Lineage | None,
        kept: Kept | None,
        read: Callable[[], Lineage | None],
        name: str | None,
    ) -> tuple[Lineage | None, dict[str, str]]:
        """Wait until no other owner trains it.

        Return the lineage as it is then, and what its runs are to carry from now on.
        """
        told = () if kept is None else (None, *kept.run_ids)
        before = {} if kept is None else dict(kept.origin.carried)
        if line is not None and line.newest_id not in told:  # else the journal's lease has decided
            # An owner that was of this machine has ended: the lock is ours now.
            line = self._silence.await_in(line, ownership.before, read)
        return line, {**before, **self._carried(ownership, line, name, before.get(ROOT))}

    def _carried(
        self,
        ownership: Ownership,
        line: Lineage | None,
        name: str | None,
        root: str | None = None,
    ) -> dict[str, str]:
        """What each run is to carry that is made from now on: this owner is its owner."""
        owners = [] if line is None else [text_of(each, OWNER) for each in line.latest]
        last = -1 if line is None else line.number_of(line.last)
        ownership.claim(self._parts.clock.utc(), owners, last)
        return {
            ROOT: line.root if line is not None else root or uuid4().hex,
            OWNER: ownership.owner,
            SILENT_FOR: f"{self._silent_for:g}",
            **({NAME: name} if name else {}),
        }

    def _in_place(
        self, line: Lineage, ownership: Ownership, here: Here, name: str | None
    ) -> MonitoredRun | None:
        """Go on with the client that the opening before left, where no other owner took over since.

        Its segments go back to the newest save where more was submitted; a run that has none, and
        was trained, is left to be made anew.
        """
        left, client = here.left, here.client()
        if left is None or client is None or not left.is_newest_of(line):
            return None
        if line.newest is None and ledger_of(client, None, None).has_changed():
            return None
        ownership.owner = left.owner  # it is the same one, and goes by its name
        carried = self._carried(ownership, line, name)
        if left.made_by is not None:
            self._parts.owner.own_services.adopt(left.made_by)
        about = left.run_id, self._service, self._config
        return self._monitor._register(*about, client=client, origin=left.origin(carried))

    def _gone_on_with(
        self, line: Lineage | None, kept: Kept | None, carried: Mapping[str, str]
    ) -> MonitoredRun:
        newest = None if line is None else line.newest or line.last
        last = 0 if line is None else line.number_of(line.last)
        if kept is not None and (newest is None or newest.training_run_id in kept.run_ids):
            run_id, found = kept.run_id, kept.origin
        elif line is not None and newest is not None:
            history = None if kept is None else kept.origin.kept
            run_id = newest.training_run_id
            found = Origin(line.past_of(newest), line.source_of(newest), last, (), history)
        # A generation that has saved nothing may live: the next one has a higher number.
        number = max(found.generation, last)
        origin = found._replace(generation=number, carried=tuple(carried.items()))
        about = run_id, self._service, self._config
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
            self._check_new(run_id, number)
        except BaseException:
            owner.own_services.discard(own, "")
            raise
        if own:
            owner.own_services.keep(own, client, run_id, replaced="")
        origin = Origin((), None, number, tuple(carried.items()))
        about = run_id, service, self._config
        run = self._monitor._register(*about, client=client, origin=origin)
        # Another owner may have made one at the same moment.
        self._parts.fence.look_first(run._record)
        if run.state is RunState.FOLLOWING:
            raise run._record.held()
        return run

    def _check_new(self, run_id: str, number: int) -> None:
        keeper, told = self._parts.keeper, self._parts.rest.run(self._config, run_id)
        if keeper is not None and keeper.has_named(run_id):
            raise TinkexError(f"run {run_id!r} is not new: the journal knows it")
        found = text_of(told, NAME), text_of(told, GENERATION)
        if found != (self._about, str(number)) and (keeper is None or any(found)):
            raise TinkexError(
                f"run {run_id!r} lacks the metadata that leads to it by its name: create(service, "
                "metadata) must make it with user_metadata=metadata"
            )


class _Maker:
    """Makes a run with the service client's own method."""

    def __init__(self, options: Mapping[str, Any], *, needs_metadata: bool) -> None:
        self._options = options
        self._needs_metadata = needs_metadata

    def __call__(self, service: Any, metadata: Mapping[str, str]) -> Any:
        make = service.create_lora_training_client
        if not takes_option(make, "user_metadata"):
            if self._needs_metadata:
                problem = "this service client gives runs no metadata, so none is found by name"
                raise TypeError(f"{problem}; give a journal")
            return make(**self._options)
        told = self._options.get("user_metadata") or {}
        # Those of another run would lead to its lineage.
        given = {key: told[key] for key in told if not str(key).startswith("tinkex_")}
        return make(**{**self._options, "user_metadata": {**given, **metadata}})


def _check_same(run: TrainingRun, name: str, options: Mapping[str, Any]) -> None:
    told = {"base_model": run.base_model, "rank": run.lora_rank}
    for key, found in told.items():
        given = options.get(key)
        if None not in (found, given) and given != found:
            raise ValueError(
                f"the run named {name!r} has {key}={found!r}, not {given!r}; "
                "for another model take another name"
            )
