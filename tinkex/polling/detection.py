"""Handles each poll's answer: updates the run, starts a recovery, holds the account."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ..config import Config
from ..config.credentials import kept, secrets_of
from ..errors import ApiResponseError, RestError
from ..lineage.metadata import metadata_of
from ..lineage.neighbours import Neighbours
from ..ports import Rows
from ..recovery.controller import Controller
from ..recovery.error_kinds import Failure, Kind, classify, is_own_network
from ..recovery.holds import REFUSED, Holds
from ..recovery.incident import Incident
from ..runs.changes import PollFailed, Seen
from ..runs.record import Record
from ..runs.rows import Limits, Row, apply_rows, known_rows
from ..runs.run_map import RunMap
from ..types import TrainingRun
from .turns import Stuck

logger = logging.getLogger(__name__)

#: Of how many runs that fail together events are handed over at once: for each by itself the poll
#: would wait for the threads that deliver them.
TOLD_AT_ONCE = 256

#: The statuses of a poll that no server answered: none, or a gateway's.
_GATEWAY = (None, 502, 504)


class Detection:
    """Handles the answers of polls.

    `on_silence(record, error, since)` is called where two polls of a run in a row found no server,
    the first at `since` in monotonic seconds. `as_run` reads an account's row; `neighbours` get
    what runs carry.

    Threads: every method is safe from any thread, and none waits for anything.
    """

    def __init__(
        self,
        runs: RunMap,
        holds: Holds[Incident],
        controller: Controller,
        on_silence: Callable[[Record, BaseException, float], None],
        as_run: Callable[[Config | None, Any], TrainingRun],
        *,
        neighbours: Neighbours,
    ) -> None:
        self._runs = runs
        self._holds = holds
        self._controller = controller
        self._on_silence = on_silence
        self._as_run = as_run
        self._neighbours = neighbours

    def sweep_begins(self, polled: Iterable[Record]) -> None:
        """A sweep of these runs is about to begin."""
        self._neighbours.sweep_begins()
        if self._holds.are_any():
            configs = {id(record.config): record.config for record in polled}
            self._holds.probe({*configs.values()})

    def seen(self, config: Config | None, record: Record, run_id: str, run: TrainingRun) -> None:
        """The server answered for a run, when it was asked as the account `config`."""
        self._neighbours.polled(record, run_id, run.user_metadata or {})
        if run.corrupted:
            self._controller.detected(record, run_id, run)
        else:
            self._runs.apply(record, Seen(run_id=run_id, run=run))
        self._holds.poll_succeeded(config)

    def seen_page(
        self, config: Config | None, records: Mapping[str, Record], page: Rows
    ) -> list[str]:
        """Read a page of the account's list; return the ids of those runs whose rows fit.

        A healthy run whose row brings no news costs no object. Raises `ApiResponseError` where it
        turns out to be no page.
        """
        limits, seen = self._runs.limits(config), list[str]()
        for part in page.parts(known_rows(records, limits, seen)):
            rows = [
                (record, run_id, row, fingerprint)
                for run_id, row, fingerprint in part
                if (record := records.get(run_id)) is not None
            ]
            misfits = self._seen_rows(config, rows, limits)
            seen += [run_id for _, run_id, _, _ in rows if run_id not in misfits]
        self._holds.poll_succeeded(config)
        return seen

    def _seen_rows(self, config: Config | None, rows: list[Row], limits: Limits) -> set[str]:
        """The server listed these runs; return the ids of those whose rows do not fit."""
        misfits = set()
        for record, run_id, row, _ in rows:
            if record.last_poll is None:
                self._neighbours.polled(record, run_id, metadata_of(row))
        for record, run_id, row, _ in apply_rows(rows, limits):
            try:
                run = self._as_run(config, row)
            except ApiResponseError:
                misfits.add(run_id)
            else:
                self.seen(config, record, run_id, run)
        return misfits

    def failed(
        self,
        config: Config | None,
        record: Record,
        run_id: str,
        error: BaseException,
        asked: float = math.inf,
    ) -> None:
        """The server did not answer for a run, or not properly, when it was asked at `asked`.

        What it was asked with a key that the run has no more says nothing of the run.
        """
        if record.config == config:
            shown = kept(error, secrets_of(record.service, config))
            self._failed(config, record, run_id, shown, classify(shown), asked=asked)

    def all_failed(
        self, config: Config | None, records: Iterable[Record], error: BaseException, asked: float
    ) -> None:
        """The same for many runs, for which one answer stands."""
        # To look an error through takes longer than all the rest; what is left out of it depends
        # on the service client.
        known: dict[int, tuple[BaseException, Failure]] = {}
        failed = [record for record in records if record.config == config]
        for number, record in enumerate(failed):
            service = record.service
            found = known.get(id(service))
            if found is None:
                shown = kept(error, secrets_of(service, config))
                found = known[id(service)] = (shown, classify(shown))
            is_told = number % TOLD_AT_ONCE == 0 or record is failed[-1]
            self._failed(config, record, record.run_id, *found, asked=asked, is_told=is_told)

    def not_polled(self, stuck: Stuck, bound: float) -> None:
        """Runs cannot be asked for, since so many polls have hung for more than `bound` seconds."""
        if stuck.is_new:
            words = (
                "%d polls hang for more than %g s in the rest module; %d runs wait for their end"
            )
            logger.error(words, stuck.hung, bound, len(stuck.runs))
        error = RestError("not polled, since too many polls hang")
        self.all_failed(stuck.config, stuck.runs, error, math.inf)

    def _failed(
        self,
        account: Config | None,
        record: Record,
        run_id: str,
        shown: BaseException,
        failure: Failure,
        *,
        asked: float,
        is_told: bool = True,
    ) -> None:
        before = record.failed_at
        others_succeed = before is not None and self._holds.succeeded_since(account, before)
        # Where others of the account are found, it is this run that is not. A key or a bill that
        # is refused is never one run's: such an account is refused for some polls only.
        is_miss = failure.status == 404 or (others_succeed and failure.status not in (401, 402))
        change = PollFailed(run_id=run_id, error=shown, is_miss=is_miss)
        apply = partial(self._runs.apply, record, change, is_told=is_told)
        # A refusal that was on its way when the account worked again does not hold it once more.
        is_old = self._holds.succeeded_since(account, asked)
        is_refused = failure.kind is Kind.ACCOUNT and not others_succeed and not is_old
        if is_refused and is_told and record.run_id == run_id:
            self._holds.hold(account, shown, reason=REFUSED, polls_fail=True, apply=apply)
            return
        apply()
        is_gateway = failure.kind is Kind.SERVER and failure.status in _GATEWAY
        is_silent = is_gateway or is_own_network(shown)
        if before is not None and is_silent and not is_miss:
            self._on_silence(record, shown, before)
        if failure.status == 404:
            self._holds.poll_answered(account)
