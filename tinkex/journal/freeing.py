"""Takes over runs whose other owner has ended, after noting what its attempts made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import partial

from ..config import Config
from ..config.credentials import secrets_of, without_secrets
from ..errors import JournalError, heed
from ..ports import RestPort
from ..runs.changes import Freed
from ..runs.record import Record
from ..runs.run_map import RunMap
from ..runtime.daemon_pool import DaemonPool
from ..runtime.waits import Waits
from .keeper import Keeper
from .resuming import Resuming
from .views import Kept

logger = logging.getLogger(__name__)

#: For how many accounts a server may be asked at the same time.
AT_ONCE = 32

#: Seconds that its answer is waited for: meanwhile the runs are recovered by no process.
PATIENCE = 30.0


class Freeing:
    """Goes on with runs of one monitor whose leases came free.

    What the last attempts of their owner made is looked for first, as `Resuming` does: until then
    a run is only followed, so that none of ours is taken for one of those.

    Threads: every method is safe from any thread. The server is asked on `tinkex-freed_N`;
    `inline`: by the caller.
    """

    def __init__(
        self, keeper: Keeper, rest: RestPort, waits: Waits, runs: RunMap, *, inline: bool
    ) -> None:
        self._keeper = keeper
        self._rest = rest
        self._waits = waits
        self._runs = runs
        self._pool = None if inline else DaemonPool(AT_ONCE, "tinkex-freed")
        self._lock = threading.Lock()
        # Guarded by _lock: what the server was asked and is waited for.
        self._waiting: set[object] = set()

    def freed(self, found: Mapping[Record, Kept | None]) -> None:
        """The leases of these runs are ours, of which the journal knows this."""
        left: dict[Config | None, dict[Record, Kept]] = {}
        for record, kept in found.items():
            if kept is not None and kept.attempts:
                left.setdefault(record.config, {})[record] = kept
            else:
                self._go_on(record, kept)
        for account, runs in left.items():
            question = object()
            with self._lock:
                self._waiting.add(question)
            take_up = partial(self._take_up, question, account, runs)
            if self._pool is None:
                take_up()
                continue
            give_up = partial(self._give_up, question, runs, f"no answer in {PATIENCE:g} s")
            self._keeper.clock.call_surely(PATIENCE, give_up)
            try:
                self._pool.submit(take_up)
            except RuntimeError as error:  # the monitor stops, or no thread is to be had
                self._give_up(question, runs, error)

    def _take_up(
        self, question: object, account: Config | None, runs: Mapping[Record, Kept]
    ) -> None:
        resuming, found = Resuming(self._keeper, self._rest, account, self._waits), runs.values()
        try:
            made = resuming.made_by_attempts(found)
        except BaseException as error:  # an exit in foreign code, too
            heed(error)
            self._give_up(question, runs, error)
            return
        if not self._is_first(question):
            return  # by now what was made may be our own
        try:
            ended = resuming.end_attempts(found, made)
        except JournalError as error:
            self._go_on_without(runs, error)
        else:
            for record, kept in zip(runs, ended, strict=True):
                self._go_on(record, kept)

    def _is_first(self, question: object) -> bool:
        """Whether nothing has followed from a question yet; from now on something has."""
        with self._lock:
            is_first = question in self._waiting
            self._waiting.discard(question)
        return is_first

    def _give_up(
        self, question: object, runs: Mapping[Record, Kept], why: BaseException | str
    ) -> None:
        if self._is_first(question):
            self._go_on_without(runs, why)

    def _go_on_without(self, runs: Mapping[Record, Kept], why: BaseException | str) -> None:
        """Go on all the same; the next owner finds the attempts as they were left."""
        for record, kept in runs.items():
            keys = secrets_of(record.service, record.config)
            shown = why if isinstance(why, str) else without_secrets(why, keys)
            words = "run %s: what its owner's last attempts made is not known: %s"
            logger.warning(words, record.run_id, shown)
            self._go_on(record, kept)

    def _go_on(self, record: Record, kept: Kept | None) -> None:
        if kept is not None:
            self._runs.apply(record, kept.remembered())
        self._runs.apply(record, Freed())

    def close(self) -> None:
        """Ask for nothing any more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def join(self, timeout: float) -> None:
        """Wait for the threads after `close`, at most `timeout` seconds."""
        if self._pool is not None:
            self._pool.join(timeout)
