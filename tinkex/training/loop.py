"""A run as its training loop uses it: waits for a client, notes saves, reports errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..config.credentials import secrets_of, without_secrets
from ..errors import (
    AlreadyPendingError,
    JournalError,
    ResumePointUnknownError,
    RunHeldError,
    SegmentSupersededError,
    in_words,
)
from ..lineage.adopted import ADOPTED, options_of
from ..lineage.fence import LOOK_EVERY, Fence
from ..lineage.metadata import NAME
from ..lineage.neighbours import Neighbours
from ..recovery.attempt import make_plan
from ..recovery.controller import Controller
from ..runs.changes import Change, Saved, Withdrawn
from ..runs.checkpoints import Cursor
from ..runs.effects import Effect
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runs.state import RunState
from ..runtime.forks import Home
from ..runtime.scheduler import Clock
from ..runtime.waits import Waits
from ..service import saved_path
from ..signals import Cause
from ..types import Checkpoint, TinkerPath
from .confirmation import Confirmation
from .ledger import Ledger, Place, ledger_of
from .outages.noticing import Outages
from .outlook import Outlook, planned
from .submitting.futures import RacedFuture, Races, Told, nothing
from .waiting import wait_for

if TYPE_CHECKING:
    from ..journal.keeper import Keeper

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Loop:
    """What a run's handle and its segments do.

    Threads: safe from any thread; `wait_live`, `outlook`, `interrupt` and `report` wait.
    """

    record: Record
    _: KW_ONLY
    home: Home
    runs: RunMap
    clock: Clock
    waits: Waits
    controller: Controller
    confirmation: Confirmation
    races: Races
    ledgers: dict[str, Ledger]
    fence: Fence
    neighbours: Neighbours
    outages: Outages | None
    keeper: Keeper | None = None

    # Waits

    def race(
        self, run_id: str, future: Any, on_result: Told = nothing, on_error: Told = nothing
    ) -> RacedFuture:
        """Wrap a future of a generation, so that it ends when that is superseded."""
        self.home.check()
        return self.races.race(self.record, run_id, future, on_result, on_error)

    def pause(self, run_id: str, seconds: float) -> None:
        """Let time pass, or return at once when a generation is superseded."""
        self.waits.wait(self.record, lambda: self.is_superseded(run_id), seconds)

    def wait_live(self, timeout: float | None) -> Any:
        """Wait until the run is healthy with a live client, and return that client."""
        record = self.record

        def is_settled() -> bool:
            live = record.state is RunState.HEALTHY and record.client is not None
            return live or _has_ended(record)

        self._take_up()
        wait_for(record, self.waits, self.clock, is_settled, timeout)
        return self._handed_out().client

    def outlook(self, max_wait: float) -> Outlook:
        """Wait until the run has a client that may be used, and look at it."""
        record = self.record

        def is_usable() -> bool:
            return (record.state.is_ours and record.client is not None) or _has_ended(record)

        self._take_up()
        wait_for(record, self.waits, self.clock, is_usable, max_wait)
        return self._handed_out()

    def _handed_out(self) -> Outlook:
        """A look at the live generation, once it is known that another owner has made none."""
        record = self.record
        self.fence.look_first(record)
        with record.lock:
            _raise_if_ended(record)
            history = record.history
            outlook = Outlook(
                run_id=record.run_id,
                client=record.client,
                source=history.source,
                cursor=history.cursor(history.source),
                with_optimizer=history.with_optimizer,
            )
        self._save_adopted(outlook)
        return outlook

    def _save_adopted(self, outlook: Outlook) -> None:
        """Save a generation that was restored for a run by name, before anything else, once.

        So it has a checkpoint early, by which who trains an older one finds out.
        """
        run_id, carried = outlook.run_id, dict(self.record.history.carried)
        if NAME not in carried or outlook.cursor is None or not (ledger := self.ledger()).adopt():
            return
        save = outlook.client.save_state
        options = options_of(save, outlook.cursor, carried)
        if options is None:
            return
        saved = partial(self._adopted, outlook.cursor, options["user_metadata"])
        failed = partial(self._not_adopted, run_id)
        try:
            answer = save(ADOPTED, **options)
        except Exception as error:
            failed(error)
        except BaseException:  # an interrupt, which may have taken a turn in the SDK
            ledger.submit(run_id, Effect.GRADIENT)
            raise
        else:
            if callable(getattr(answer, "result", None)):
                self.race(run_id, answer, saved, failed).effect = Effect.SAVE
            else:
                saved(answer)

    def _adopted(self, cursor: Cursor, written: Mapping[str, str], answer: Any) -> None:
        self.save(saved_path(answer), cursor, written)

    def _not_adopted(self, run_id: str, error: BaseException) -> None:
        secrets = secrets_of(self.record.service, self.record.config)
        shown = in_words(without_secrets(error, secrets))
        logger.warning("run %s: it could not be saved at its beginning (%s)", run_id, shown)

    def saved(self, save: Callable[[], Checkpoint], *, is_sent: bool = False) -> Checkpoint:
        """Make a save, and look before it is sent, and where that is long ago or `is_sent`, after.

        Raises `SegmentSupersededError` where another owner has taken the run over.
        """
        run_id = self.record.run_id
        if not is_sent:
            self.look()
        checkpoint = save()
        self.look(unless_within=0.0 if is_sent else LOOK_EVERY)
        if self.record.state is RunState.FOLLOWING:
            raise SegmentSupersededError(run_id)
        return checkpoint

    def look(self, *, unless_within: float = 0.0) -> None:
        """Look whether another owner has taken the run over, which is being saved."""
        self.home.check()
        if not self.fence.look(self.record, unless_within=unless_within):
            words = "run %s: it is saved, though another owner may have taken it over"
            logger.warning(words, self.record.run_id)

    def planned(self) -> Outlook | None:
        """Where a run would go on that another process left, without making anything.

        `None` where the run is there, or must be restored to know it.
        """
        if not self._is_left():
            return None
        try:
            return planned(self.controller.next_task(self.record))
        except Exception as error:  # a recovery asks again, and waits
            shown = without_secrets(error, secrets_of(self.record.service, self.record.config))
            logger.info("run %s: its checkpoints cannot be had: %s", self.record.run_id, shown)
            return None

    def _take_up(self) -> None:
        """Have a run restored that another process left, at its first use here.

        One that another process has open is only followed.
        """
        self.neighbours.look(self.record)
        if self._is_left():
            self.fence.look(self.record, unless_within=LOOK_EVERY)
            about = self.record, Cause.RESTARTED, self.record.run_id
            with suppress(AlreadyPendingError):
                self.races.undisturbed(self.controller.recover, *about)

    def _is_left(self) -> bool:
        record = self.record
        return record.history.is_left and record.client is None and record.state.is_ours

    # The loop's news

    def is_superseded(self, run_id: str) -> bool:
        """Whether a generation is known to be corrupted or replaced."""
        return self.record.is_superseded(run_id)

    def note(self, change: Change) -> None:
        """Note a change of the run."""
        self.runs.apply(self.record, change)

    def settle(self, *, is_needed: bool = False) -> None:
        """Wait until the journal has all that was noted, where there is one.

        Raises `SegmentSupersededError` where another owner has the run, and where it `is_needed`
        the `JournalError` of a file that cannot be written.
        """
        try:
            if self.keeper is not None:
                self.keeper.settle(self.record)
        except RunHeldError:
            raise SegmentSupersededError(self.record.run_id) from None
        except JournalError:  # of which a signal has told
            if is_needed:
                raise

    def ledger(self, before: Ledger | None = None) -> Ledger:
        """The ledger of the live client; the places that it knows are noted.

        `before` is the one of the generation before.
        """
        with self.record.lock:
            run_id, client, history = self.record.run_id, self.record.client, self.record.history
            begin = Place(checkpoint=history.source, cursor=history.cursor(history.source))
            known = {None, *history.known}
            lineage = self.record.run_ids
        # By the run's id too: a caller's own wrapper of a client may be made anew for each loop.
        before = before or self.ledgers.get(lineage[1] if len(lineage) > 1 else "")
        found = ledger_of(client, before, self.controller.server_of(self.record), run_id)
        ledger = self.ledgers.setdefault(run_id, found)
        ledger.follow(run_id, begin)
        # Those of another monitor of this process, too.
        for place in ledger.places():
            if place.path not in known and place.checkpoint and place.cursor:
                self.note(Saved(checkpoint=place.checkpoint, cursor=place.cursor))
        return ledger

    def ledger_of_planned(self, outlook: Outlook) -> Ledger:
        """The ledger of a run that is not restored yet; its live client will have the same."""
        ledger = self.ledgers.setdefault(outlook.run_id, Ledger())
        ledger.follow("", Place(checkpoint=outlook.source, cursor=outlook.cursor))
        return ledger

    def report(self, run_id: str, error: BaseException, effects: Collection[Effect]) -> bool:
        """Have the run looked at; true where the loop should go on with a next segment."""
        self.home.check()
        begun = self.confirmation.report(self.record, error, run_id, effects)
        return begun or self.record.state is RunState.EXHAUSTED

    def has_seen(self, path: str) -> bool:
        """Whether a poll saw a checkpoint of this path."""
        with self.record.lock:
            last = self.record.last_checkpoint
        return last is not None and last.tinker_path == path

    def find_checkpoint(self, run_id: str, path: str) -> Checkpoint | None:
        """Ask the server for a checkpoint; `None` where it does not list it."""
        task = self.controller.next_task(self.record)
        rest = task.request.rest
        listed = rest.checkpoints(task.request.config, run_id) if rest.can_list_checkpoints else ()
        return next((each for each in listed if each.tinker_path == path), None)

    def interrupt(self, run_id: str) -> None:
        """Have a generation replaced that is further than its checkpoints.

        Raises `ResumePointUnknownError` where no checkpoint would say where to go on.
        """
        task = self.controller.next_task(self.record)
        first = next(iter(make_plan(task).candidates), None)
        if first is None or (first.step is None and not task.request.has_resume_step):
            raise ResumePointUnknownError(run_id, None)
        with suppress(AlreadyPendingError):
            self.races.undisturbed(self.controller.recover, self.record, Cause.INTERRUPTED, run_id)

    def save(
        self, path: str, cursor: Cursor, user_metadata: Mapping[str, str] | None = None
    ) -> Checkpoint:
        """Note where the loop stood when a checkpoint was saved."""
        saved = replace(Checkpoint.from_path(path), user_metadata=user_metadata)
        self.note(Saved(checkpoint=saved, cursor=cursor))
        return saved

    def record_checkpoint(self, path: str, cursor: Cursor) -> Checkpoint:
        """Note the same for a path; `ValueError` if not a training checkpoint of this lineage."""
        parsed = TinkerPath.parse(path)
        if parsed.checkpoint_type != "training":
            raise ValueError(f"{path!r} is a sampler checkpoint, which cannot be trained from")
        with self.record.lock:
            lineage = self.record.run_ids[::-1]
            source = self.record.history.source
        is_source = source is not None and source.tinker_path == path
        if parsed.run_id not in lineage and not is_source:
            raise ValueError(f"{path!r} is not of this lineage: {', '.join(lineage)}")
        ledger = None if self.record.client is None else self.ledger()
        if ledger is not None and ledger.is_behind_lost(path):
            # A request before it failed: its weights are not those of its step.
            self.note(Withdrawn(path=path))
            return Checkpoint.from_path(path)
        saved = self.save(path, cursor)
        if ledger is not None:
            ledger.recorded(Place(checkpoint=saved, cursor=cursor), parsed.run_id)
        return saved


def _has_ended(record: Record) -> bool:
    return record.state in (RunState.EXHAUSTED, RunState.FOLLOWING, RunState.STOPPED)


def _raise_if_ended(record: Record) -> None:
    """Raise what ended a run, if something did; the caller holds its lock."""
    over = record.over()
    if over is not None:
        raise over
