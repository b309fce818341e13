"""Brings back the runs of a journal that no living owner recovers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import partial
from sqlite3 import Connection
from uuid import uuid4

from ..errors import RestError, RunHeldError
from ..lineage.account import account_of
from ..lineage.lineages import list_all
from ..lineage.metadata import RECOVERED_FROM, metadata_of
from ..ports import RestPort
from ..runtime.waits import Waits
from . import tables
from .files import OwnError
from .keeper import BEAT_EVERY, Keeper
from .owning.leases import Leases, Taken
from .owning.owners import LEASE
from .views import Kept, written

logger = logging.getLogger(__name__)

#: Seconds between two looks whether an owner lives, at first; then twice as many each time.
FIRST_LOOK = 0.5


class Resuming:
    """Takes over what a journal knows of an account, for one monitor.

    An owner on another machine is waited for, until it tells that it lives or `LEASE` is over. What
    its last attempts made is noted as orphans.
    """

    def __init__(self, keeper: Keeper, rest: RestPort, account: Hashable, waits: Waits) -> None:
        self._keeper = keeper
        self._rest = rest
        self._account = account
        self._waits = waits

    def left_behind(self) -> tuple[Kept, ...]:
        """The runs that no living owner recovers; raises `JournalError`."""
        account = account_of(self._account)
        kept, held, damaged = self._take(lambda db: tables.roots_left(db, account))
        for root_id, who in held.items():
            logger.info("run %s is left to its owner: %s", root_id, who)
        if held and not kept:
            example = next(iter(held.items()))
            words = "nothing is brought back: of %d runs each has its owner, such as run %s: %s"
            logger.warning(words, len(held), *example)
        for root_id, error in damaged.items():
            logger.error("run %s is not brought back: %s", root_id, error)
        return kept

    def one(
        self, about: str, name: str | None, run_ids: Iterable[str], *, is_forced: bool
    ) -> Kept | None:
        """The lineage of a name, else of any of these runs; `None`: none is known.

        `is_forced`: also where its owner lives; else that raises a `RunHeldError` about `about`.
        """
        account = account_of(self._account)

        def roots(db: Connection) -> list[str]:
            found = tables.roots_named(db, account, name) if name is not None else []
            found += [place[0] for each in run_ids if (place := tables.place_of(db, each))]
            return found[:1]

        kept, held, damaged = self._take(roots, is_forced=is_forced)
        for who in held.values():
            how = "stop to monitor it there, or give takeover=True"
            raise RunHeldError(about, f"{who} recovers it, as the journal tells; {how}")
        for root_id, error in damaged.items():
            raise self._keeper.error_of(error, root_id)
        return next(iter(kept), None)

    def made_by_attempts(self, kept: Iterable[Kept]) -> Mapping[str, tuple[str, ...]]:
        """Ask what the attempts made that came to no end: runs, by the root of their lineage.

        Where the account's runs cannot be listed, those that the journal names.
        """
        return _orphans_of(kept, self._rest, self._account)

    def end_attempts(
        self, kept: Collection[Kept], made: Mapping[str, tuple[str, ...]]
    ) -> tuple[Kept, ...]:
        """Bring the attempts of lineages that are ours by now to an end, with what they `made`.

        Return the same, with those runs. Raises `JournalError`.
        """
        now = self._keeper.clock.utc().isoformat()
        self._keeper.read(lambda _, db: _end_attempts(db, kept, made, now))
        return tuple(each.with_orphans(made[each.root_id]) for each in kept)

    def _taken(
        self,
        roots: Callable[[Connection], list[str]],
        kept: list[Kept],
        leases: Leases,
        db: Connection,
        *,
        is_forced: bool,
    ) -> Taken:
        ours = {each.root_id for each in kept}
        wanted = [each for each in roots(db) if each not in ours]
        taken = leases.take(db, wanted, is_forced=is_forced)
        kept += taken.kept  # here, since an interrupt of the caller ends its wait alone
        return taken

    def _take(
        self, roots: Callable[[Connection], list[str]], *, is_forced: bool = False
    ) -> tuple[tuple[Kept, ...], Mapping[str, str], Mapping[str, OwnError]]:
        keeper, clock, kept = self._keeper, self._keeper.clock, list[Kept]()
        until, look = clock.monotonic() + LEASE + 1.0, FIRST_LOOK
        try:
            while True:
                found = keeper.read(partial(self._taken, roots, kept, is_forced=is_forced))
                if not found.unclear or clock.monotonic() >= until:
                    break
                told = ", ".join(f"run {run} of {who}" for run, who in found.unclear.items())
                logger.warning("the journal: waiting to see whether it lives: %s", told)
                self._waits.wait(keeper, lambda: False, look)
                look = min(2 * look, BEAT_EVERY)
            ended = self.end_attempts(kept, self.made_by_attempts(kept))
        except BaseException:
            keeper.read(lambda leases, db: leases.give_back(db, [each.root_id for each in kept]))
            raise
        return ended, {**found.held, **found.unclear}, found.damaged


def _end_attempts(
    db: Connection, found: Iterable[Kept], orphans: Mapping[str, tuple[str, ...]], now: str
) -> None:
    """Bring the attempts of lineages that were left to an end, with the runs they made."""
    for each in found:
        for attempt_id, _ in each.attempts:
            tables.failed(db, attempt_id, "its process has ended")
        for run_id in orphans[each.root_id]:
            tables.orphaned(db, each.root_id, run_id, uuid4().hex)
            told = written({"successor_id": run_id})
            tables.put_event(db, (now, each.root_id, each.run_id, None, "orphaned", told))


def _orphans_of(
    found: Iterable[Kept], rest: RestPort, account: Hashable
) -> dict[str, tuple[str, ...]]:
    made = {each.root_id: [run for _, run in each.attempts if run] for each in found}
    root_of = {each.run_id: each.root_id for each in found if each.attempts}
    if root_of and rest.can_list:
        try:
            rows = list_all(rest, account)
        except RestError as error:
            logger.warning("what the last attempts made cannot be listed: %s", error)
            rows = {}
        for run_id, row in rows.items():
            root_id = root_of.get(metadata_of(row).get(RECOVERED_FROM, ""))
            if root_id is not None:
                made[root_id].append(run_id)
    return {root_id: tuple(dict.fromkeys(runs)) for root_id, runs in made.items()}
