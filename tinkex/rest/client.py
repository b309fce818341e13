"""`RestClient`, which asks the Tinker API about runs and checkpoints, and one shared client."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..config import Config, checked_seconds
from ..errors import ApiConnectionError, ApiResponseError, ApiStatusError, RestError
from ..runtime import forks
from ..types import Checkpoint, TinkerPath, TrainingRun, TrainingRunPage, WeightsInfo
from ..types.answers import fitting
from ..types.reading import list_of_objects
from .accounts import Accounts
from .answers import Answer, misfit_of, moment_of, object_of, status_error
from .pages import PageReader
from .paths import MAX_ID, RUNS, is_sendable, page_path, quoted_id
from .sockets import Call
from .transport import Account

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

#: The default time limit of one call with all its retries, in seconds.
DEFAULT_TIMEOUT = 20.0

#: The most tries of one request.
MAX_TRIES = 3

#: The most pages of a run's checkpoints that are read.
MAX_CHECKPOINT_PAGES = 100

_SEARCH = "/api/v1/sessions/search"
_RETRIED = {408, 425, 429}
_CLOSED = "the client was closed; make a new RestClient"


class RestClient:
    """A client of the Tinker API, for any number of accounts.

    All methods only read, so a request that fails for a temporary reason is made again. Each
    method takes the account as `config`, and as `timeout` the seconds for everything, retries
    included (`None`: 20). Each raises a `RestError` if no usable answer came; the error holds
    neither the key nor an error of an HTTP library. A config without a key is a `ConfigError`,
    any other argument that cannot be used a `ValueError`.

    Args:
        max_connections: how many connections to an account are kept open.
        wait: waits the given seconds between two tries; returns true to give up instead.

    Threads: every method is safe from any thread.
    """

    def __init__(
        self, *, max_connections: int = 8, wait: Callable[[float], bool] | None = None
    ) -> None:
        self._max_connections = max_connections
        self._stopped = threading.Event()
        self._wait = wait
        forks.register(self)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._process = os.getpid()
        self._accounts = Accounts(max_connections)
        self._calls: set[Call] = set()
        # By base URL, the last answer's `Date` and when it came, in one assignment.
        self._dates: dict[str, tuple[str, float]] = {}

    def after_fork(self) -> None:
        """Let a forked child ask over connections of its own."""
        # Guards what the one before it guarded.
        self._lock = threading.Lock()
        is_stopped, self._stopped = self._stopped.is_set(), threading.Event()
        if is_stopped:
            self._stopped.set()

    def close(self) -> None:
        """End all calls under way with an error, and refuse later ones; may be called twice."""
        with self._lock:
            self._stopped.set()
            self._leave_parent_locked()
            calls, self._calls = self._calls, set()
            accounts, self._accounts = self._accounts.all(), Accounts(self._max_connections)
        for call in calls:
            call.end(ApiConnectionError(f"{call.where}: {_CLOSED}"))
        for account in accounts:
            account.close()

    def get_training_run(
        self, config: Config, run_id: str, *, timeout: float | None = None
    ) -> TrainingRun:
        """Ask for one run. Fields that do not fit are left out, but not its id and its flag."""
        path = f"{RUNS}/{quoted_id(run_id)}?access_scope={config.access_scope}"
        return fitting(TrainingRun, self._request(config, "GET", path, timeout))

    def list_training_runs(
        self, config: Config, *, limit: int = 20, offset: int = 0, timeout: float | None = None
    ) -> TrainingRunPage:
        """Ask for a page: up to `limit` runs, without the first `offset`, in the server's order.

        They are those of the config's project, where it has one. Servers differ in the largest
        `limit` that they accept, and in their answer to more.
        """
        path = page_path(config, limit, offset)
        return TrainingRunPage.from_json(self._request(config, "GET", path, timeout))

    def read_training_runs(
        self, config: Config, *, limit: int, offset: int, timeout: float | None = None
    ) -> PageReader:
        """Ask for the same page, to be read part by part."""
        answer, misfit = self._answer(config, "GET", page_path(config, limit, offset), timeout)
        return PageReader(answer.body, misfit)

    def list_checkpoints(
        self, config: Config, run_id: str, *, timeout: float | None = None
    ) -> tuple[Checkpoint, ...]:
        """Ask for all checkpoints of a run, in the server's order.

        If the server sends them in pages, the oldest first, all pages are read. Fields that do not
        fit are left out, and so are rows without a path.
        """
        path = f"{RUNS}/{quoted_id(run_id)}/checkpoints"
        bound = _bound(timeout)
        began_at = monotonic()
        found: dict[str, Checkpoint] = {}
        query = misfit = ""
        for _ in range(MAX_CHECKPOINT_PAGES):
            left = max(bound - (monotonic() - began_at), 0.001)
            answer = self._request(config, "GET", path + query, left)
            known = len(found)
            misfit = _add_checkpoints(answer, found) or misfit
            # A server without paging sends the same ones again, and no new one.
            if len(found) == known or len(found) >= _total(answer):
                break
            query = f"?limit=100&offset={len(found)}"
        if misfit and not found:
            raise ApiResponseError(misfit)
        return tuple(found.values())

    def get_weights_info(
        self, config: Config, tinker_path: str | TinkerPath, *, timeout: float | None = None
    ) -> WeightsInfo:
        """Ask for a checkpoint's base model and LoRA settings.

        Some servers answer even if there is no such checkpoint.
        """
        path = str(tinker_path) if isinstance(tinker_path, TinkerPath) else tinker_path
        if not is_sendable(path):
            raise ValueError(f"a tinker path is 1 to {MAX_ID} printable characters of text")
        body = json.dumps({"tinker_path": path}).encode()
        answer = self._request(config, "POST", "/api/v1/weights_info", timeout, body)
        return WeightsInfo.from_json(answer)

    def search_sessions(
        self, config: Config, session_id: str, *, timeout: float | None = None
    ) -> tuple[Mapping[str, Any], ...]:
        """Ask for a session; return the rows that were found, none or one, as the API's objects.

        A server without this route answers 404, 405 or 501.
        """
        if not is_sendable(session_id):
            raise ValueError(f"a session id is 1 to {MAX_ID} printable characters of text")
        body = json.dumps({"session_id": session_id, "limit": 1}).encode()
        answer = self._request(config, "POST", _SEARCH, timeout, body)
        rows = answer.get("sessions")
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise ApiResponseError(f"POST {_SEARCH}: the answer has no list of sessions")
        return tuple(rows)

    def server_time(self, config: Config) -> datetime | None:
        """The time by the server's clock, to a second, reckoned from its last answer.

        No request is made; `None` where there was no answer yet, or none with a date.
        """
        date, answered_at = self._dates.get(config.base_url, ("", 0.0))
        moment = moment_of(date)
        return moment and moment + timedelta(seconds=monotonic() - answered_at)

    def _request(
        self,
        config: Config,
        method: str,
        path: str,
        timeout: float | None,
        body: bytes | None = None,
    ) -> Mapping[str, Any]:
        answer, misfit = self._answer(config, method, path, timeout, body)
        found = object_of(answer)
        if found is None:
            raise misfit()
        return found

    def _answer(
        self,
        config: Config,
        method: str,
        path: str,
        timeout: float | None,
        body: bytes | None = None,
    ) -> tuple[Answer, Callable[[], ApiResponseError]]:
        """An answer with status 2xx, and what to raise where it does not hold what it should."""
        url = config.base_url + path
        account, call = self._begin(config, f"{method} {url}", _bound(timeout))
        try:
            retrying = _retrying(self._sleep)
            answer: Answer | RestError = retrying(_attempt, call, account, method, url, body)
        finally:
            with self._lock:
                self._calls.discard(call)
                outdated = self._accounts.give_back(account, monotonic())
            for each in outdated:
                each.close()
        # Raised here, where no other error is being handled, so that none is chained to it.
        if isinstance(answer, RestError):
            raise answer
        self._dates[config.base_url] = answer.headers.get("Date", ""), monotonic()
        return answer, lambda: misfit_of(answer, call.where, account.scrub)

    def _begin(self, config: Config, where: str, bound: float) -> tuple[Account, Call]:
        with self._lock:
            self._leave_parent_locked()
            if self._stopped.is_set():
                raise ApiConnectionError(_CLOSED)
            account = self._accounts.take(config)
            call = Call(account.scrub(where), bound, config)
            self._calls.add(call)
        return account, call

    def _leave_parent_locked(self) -> None:
        # A forked child must neither use its parent's connections nor close them.
        if self._process != os.getpid():
            self._process, self._calls = os.getpid(), set()
            self._accounts = Accounts(self._max_connections)

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process its connections are of no use: there it stands for the shared client.
        return _shared_client, ()

    def _sleep(self, seconds: float) -> None:
        wait = self._stopped.wait if self._wait is None else self._wait
        if wait(seconds):
            raise ApiConnectionError(_CLOSED)


def _shared_client() -> RestClient:
    return _shared


def _bound(timeout: float | None) -> float:
    return DEFAULT_TIMEOUT if timeout is None else checked_seconds("timeout", timeout, ValueError)


def _add_checkpoints(answer: Mapping[str, Any], found: dict[str, Checkpoint]) -> str:
    """Add an answer's checkpoints by path; return why one could not be read, if so."""
    misfit = ""
    for row in list_of_objects(Checkpoint, answer, "checkpoints"):
        try:
            checkpoint = fitting(Checkpoint, row)
        except ApiResponseError as error:
            misfit = str(error)
        else:
            found[checkpoint.tinker_path] = checkpoint
    return misfit


def _total(answer: Mapping[str, Any]) -> int:
    cursor = answer.get("cursor")
    total = cursor.get("total_count") if isinstance(cursor, Mapping) else None
    return total if isinstance(total, int) else 0


def _attempt(
    call: Call, account: Account, method: str, url: str, body: bytes | None
) -> Answer | RestError:
    if call.ended is not None:
        return call.ended
    outcome = account.send(call, method, url, body)
    if isinstance(outcome, Answer) and not 200 <= outcome.status < 300:
        return status_error(outcome, call.where, account.scrub)
    return outcome


def _may_pass(outcome: Answer | RestError) -> bool:
    if isinstance(outcome, ApiStatusError):
        return outcome.status in _RETRIED or outcome.status >= 500
    return isinstance(outcome, ApiConnectionError)


def _retrying(sleep: Callable[[float], None]) -> Retrying:
    # Imported at the first request, so that `import tinkex` does not wait for it.
    from tenacity import Retrying, retry_if_result, wait_exponential, wait_random  # noqa: PLC0415

    backoff = wait_exponential(multiplier=0.25, max=5.0) + wait_random(0.0, 0.25)

    def pause(state: RetryCallState) -> float:
        return max(backoff(state), getattr(_outcome(state), "retry_after", None) or 0.0)

    return Retrying(
        retry=retry_if_result(_may_pass),
        wait=pause,
        stop=_is_last,
        sleep=sleep,
        retry_error_callback=_outcome,
    )


def _is_last(state: RetryCallState) -> bool:
    call: Call = state.args[0]
    if call.ended is not None or state.attempt_number >= MAX_TRIES:
        return True
    return call.left() <= state.upcoming_sleep


def _outcome(state: RetryCallState) -> Any:
    # `_attempt` returns errors as values, so there is always a result.
    return None if state.outcome is None else state.outcome.result()


#: The client that all callers of these functions share.
_shared = RestClient()

get_training_run = _shared.get_training_run
list_training_runs = _shared.list_training_runs
list_checkpoints = _shared.list_checkpoints
get_weights_info = _shared.get_weights_info
search_sessions = _shared.search_sessions
server_time = _shared.server_time
