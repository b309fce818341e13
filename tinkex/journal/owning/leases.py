"""Which lineages a monitor holds, and which it follows until their owner has ended."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from sqlite3 import Connection
from typing import TYPE_CHECKING, NamedTuple

from ...lineage.verdict import Successor
from ...runs.record import Record
from ...runtime.scheduler import Clock
from .. import tables
from ..files import OwnError, part
from ..views import Kept, kept_of
from . import claims
from .claims import Claim
from .owners import LEASE, Holders

if TYPE_CHECKING:
    from ..store import Store


class News(NamedTuple):
    """What a write brought to light, by record.

    `held` tells with which run another owner has it, and who that is; `remembered` is what the file
    knew of it before; `freed` are those that no other owner has any more, with what it knew;
    `failing` could not be read or written since. `is_anew`: the file was removed or replaced.
    """

    held: dict[Record, Successor]
    remembered: dict[Record, Kept]
    freed: dict[Record, Kept | None]
    failing: dict[Record, OwnError]
    is_anew: bool = False

    @classmethod
    def none(cls) -> News:
        """Nothing yet."""
        return cls({}, {}, {}, {})


class Taken(NamedTuple):
    """Lineages that are ours from now on, and those that are held, by whom, by their root.

    Of those that are `unclear` waiting may tell whether their owner lives. What is written of the
    `damaged` cannot be read.
    """

    kept: list[Kept]
    held: dict[str, str]
    unclear: dict[str, str]
    damaged: dict[str, OwnError]


class Leases:
    """The lineages of one monitor, each held or followed, as its last transaction left them.

    Threads: used on the thread of the store.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        #: The records whose lineages are ours, and those whose lineages are another owner's.
        self.held: dict[Record, Claim] = {}
        self.followed: dict[Record, None] = {}
        #: What came to light and was not told yet.
        self.news = News.none()
        #: The records of which a part of the transaction under way failed, each with the reason.
        self.failing: dict[Record, OwnError] = {}
        # Those that were failing after the last transaction, of which was told.
        self._failed: dict[Record, OwnError] = {}
        self._store = store
        self._clock = clock
        self._holders = Holders(
            store.process, clock, is_on_network=store.is_on_network, ended=store.ended
        )
        self._taken: set[str] = set()
        self._lost = 0
        # When the file was begun anew, in monotonic seconds.
        self._anew = -math.inf
        # What the transaction under way has claimed.
        self._claimed: list[Record] = []

    @property
    def roots(self) -> set[str]:
        """The lineages that this monitor holds, or has taken up."""
        return {each.root_id for each in self.held.values()} | self._taken

    # Transactions

    def begin(self, changed: Container[Record]) -> None:
        """A transaction begins; what failed before is tried again for those that have `changed`."""
        self.failing = {each: why for each, why in self._failed.items() if each not in changed}

    @contextmanager
    def apart(self, db: Connection, record: Record) -> Iterator[None]:
        """A part of the transaction that is about one record.

        Where it fails by itself that is noted, none of it came to be, and all others go on.
        """
        lineage, is_followed = self.held.get(record), record in self.followed
        try:
            with part(db):
                yield
        except OwnError as error:
            self.failing[record] = error
            self.held.pop(record, None)
            if lineage is not None:
                self.held[record] = lineage
            if is_followed:
                self.followed[record] = None

    def check_whole(self, record: Record) -> None:
        """Raise an `OwnError` where what is known of a record is not on the disk."""
        if record in self.failing:
            raise self.failing[record]

    def committed(self) -> None:
        """The transaction has come to be."""
        self._claimed.clear()
        new = {each: why for each, why in self.failing.items() if each not in self._failed}
        self.news.failing.update(new)
        self._failed = self.failing

    def take_back(self) -> None:
        """Nothing of it came to be: what was claimed in it is claimed again."""
        for record in self._claimed:
            self.held.pop(record, None)
            self.news.remembered.pop(record, None)
            if record in self.news.freed:
                del self.news.freed[record]
                self.followed[record] = None
        self._claimed.clear()

    def fresh(self, claims: Mapping[Record, Claim]) -> None:
        """These lineages were added, and are ours."""
        self.held.update(claims)
        self._claimed += claims

    def forget(self, record: Record) -> None:
        """A record is not monitored any more."""
        if (lineage := self.held.pop(record, None)) is not None:
            self._taken.discard(lineage.root_id)
        self.followed.pop(record, None)

    def reopened(self, *, is_anew: bool) -> tuple[Record, ...]:
        """The file is another one: nothing is held. Return what was held or followed."""
        known = (*self.held, *self.followed)
        if is_anew:
            self.news = self.news._replace(is_anew=True)
            self._anew = self._clock.monotonic()
        self._lost = 0
        self.held.clear()
        return known

    # Beats

    def beat(self, db: Connection) -> None:
        """Tell that this owner lives; look after what others have left, and what it has lost."""
        # The owners of a new file must have told that they live before any counts as dead.
        is_new = self._clock.monotonic() - self._anew < LEASE
        for record in () if is_new else tuple(self.followed):
            with self.apart(db, record):
                if (lineage := self.claim(db, record)) is not None:
                    self.news.freed[record] = kept_of(db, lineage.root_id, self._clock)
        self._look(db)

    def _look(self, db: Connection) -> None:
        lost = claims.beat(db, self._store.owner_id)
        if lost != self._lost:
            self._lost = lost or 0
            for record in list(self.held):
                with self.apart(db, record):
                    self.check(db, record)

    # Claims

    def claim(self, db: Connection, record: Record) -> Claim | None:
        """Take the lease of a record's lineage, unless another owner has it, or went on with it."""
        place = tables.place_of(db, record.run_id)
        root_id, number = place or (record.root_id, record.generation)
        newest, claim = tables.newest_of(db, root_id), None
        if newest is None or newest[0] <= number:
            claim = claims.claim(db, self._store.owner_id, root_id, self._holders.is_dead)
        if claim is None:
            self.follow(db, record, root_id)
            return None
        self._claimed.append(record)
        self.followed.pop(record, None)
        self.news.held.pop(record, None)  # as a transaction that came to nothing saw it
        self.held[record] = lineage = claim._replace(shift=number - record.generation)
        return lineage

    def check(self, db: Connection, record: Record) -> bool:
        """Whether a lineage is ours, if need be from now on."""
        lineage, owner_id = self.held.get(record), self._store.owner_id
        if lineage is not None:
            if claims.holds(db, owner_id, lineage):
                return True
            del self.held[record]
            if claims.has_left(db, owner_id, lineage):
                self.follow(db, record, lineage.root_id)
                return False
        return self.claim(db, record) is not None

    def lose(self, db: Connection, record: Record) -> None:
        """A lineage turned out to be another owner's."""
        self.follow(db, record, self.held.pop(record).root_id)

    def follow(self, db: Connection, record: Record, root_id: str) -> None:
        """A lineage is another owner's, until that one has ended."""
        self.followed[record] = None
        holder, newest = claims.holder_of(db, root_id), tables.newest_of(db, root_id)
        owner = str(holder) if holder and holder.owner_id != self._store.owner_id else None
        run_id = record.run_id if newest is None else newest[1]
        self.news.held[record] = Successor(run_id, owner, is_tie=False)

    def take(self, db: Connection, root_ids: Iterable[str], *, is_forced: bool) -> Taken:
        """Take lineages without a living owner, or where it `is_forced` with one."""
        self._look(db)
        taken = Taken([], {}, {}, {})
        for root_id in root_ids:
            try:
                with part(db):
                    self._take(db, root_id, taken, is_forced=is_forced)
            except OwnError as error:
                taken.damaged[root_id] = error
        return taken

    def _take(self, db: Connection, root_id: str, taken: Taken, *, is_forced: bool) -> None:
        holder = claims.holder_of(db, root_id)
        if holder is not None and holder.owner_id == self._store.owner_id:
            taken.held[root_id] = "a monitor of this process"
            return
        is_dead = self._holders.is_dead if not is_forced else lambda _: True
        claim = claims.claim(db, self._store.owner_id, root_id, is_dead)
        kept = None if claim is None else kept_of(db, root_id, self._clock)
        if kept is not None:
            taken.kept.append(kept)
            self._taken.add(root_id)
        elif holder is not None:
            is_unclear = self._holders.is_unclear(holder)
            (taken.unclear if is_unclear else taken.held)[root_id] = str(holder)

    def give_back(self, db: Connection, root_ids: Iterable[str]) -> None:
        """Lineages that were taken are not gone on with after all."""
        self.free(db, root_ids)
        self._taken.difference_update(root_ids)

    def is_shared(self, root_id: str) -> bool:
        """Whether another monitor of this process has a lineage as well."""
        return not self._store.free((root_id,), self)

    def free(self, db: Connection, root_ids: Iterable[str]) -> None:
        """Give leases back, but for those that another monitor of this process holds."""
        claims.release(db, self._store.owner_id, self._store.free(root_ids, self))

    def release(self, db: Connection) -> None:
        """Give all leases back: the monitor has stopped."""
        self.free(db, self.roots)
        self.held.clear()
        self.followed.clear()
