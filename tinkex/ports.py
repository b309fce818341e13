"""How tinkex calls the two modules that callers may replace: REST and service client.

A module is wrapped once, where it comes in. Pickled, a wrapped module travels by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeVar

from .errors import ApiResponseError, apart_from_outer, heed
from .service import is_service_client, open_service_client, reopen_service_client, takes_option
from .types import Checkpoint, TrainingRun, TrainingRunPage
from .types.answers import fitting, misfits_of

logger = logging.getLogger(__name__)

_Kind = TypeVar("_Kind", TrainingRun, Checkpoint)

#: How many runs are asked for in one page.
PAGE_SIZE = 100

#: How many rows of a page are read at a time.
ROWS_AT_ONCE = 100

#: A server's clock that is farther from ours tells no time.
MOST_APART = timedelta(days=3650)


class RestModule(Protocol):
    """What a `rest_module` must have.

    `list_training_runs(config, *, limit, offset)`, `list_checkpoints(config, run_id)`,
    `search_sessions(config, session_id)` and `server_time(config)` are used where it has them.
    Answers are values of `tinkex.types`, the API's JSON objects, or objects of the official SDK.

    `search_sessions` returns a list of the sessions found, or an object with such a list as
    `sessions`. It is asked why a run was flagged; with `timeout=` in seconds where it takes that.

    `server_time` makes no request. It returns an aware datetime, or `None`.
    """

    def get_training_run(self, config: Any, run_id: str, /) -> object:
        """Return one run."""


class ServiceModule(Protocol):
    """What a `service_client_module` must have.

    `open_service_client(service)`, `reopen_service_client(service)` and
    `check_service_client(service)` are used where it has them.
    """

    def create_rest_client(self, service: Any, /) -> object:
        """Return a REST client of the service client."""

    def create_training_client_from_state(
        self, service: Any, path: str, /, *, user_metadata: Any
    ) -> Any:
        """Return a training client that has loaded a checkpoint's weights."""

    def create_training_client_from_state_with_optimizer(
        self, service: Any, path: str, /, *, user_metadata: Any
    ) -> Any:
        """Return a training client that has loaded weights and optimizer state."""


#: A run's id, its row as the server sent it, and the row's fingerprint where it has one.
ListedRow = tuple[str, Any, int | None]


class Rows(NamedTuple):
    """A page of a list of runs, to be read once.

    `parts(is_known)` yields its rows part by part, without those for which
    `is_known(run_id, fingerprint)`, and raises `ApiResponseError` where the page does not fit.
    Then `totals()` tells how many rows it had, and the account.
    """

    parts: Callable[[Callable[[str, int], bool]], Iterable[list[ListedRow]]]
    totals: Callable[[], tuple[int, int | None]]

    def all(self) -> list[ListedRow]:
        """Every row."""
        return list(chain.from_iterable(self.parts(lambda *_: False)))


@dataclass(frozen=True, slots=True)
class RestPort:
    """A REST module; `timeout` bounds each call in seconds, where the module can be told.

    What does not fit in its answers is told of once for each account and field.
    Every method raises what the module raises, and `ApiResponseError` for an unfit answer.
    """

    module: RestModule
    timeout: float | None = None
    #: What was told of, by account and field.
    _told: dict[tuple[int, str], object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def can_list(self) -> bool:
        """Whether an account's runs can be listed."""
        return callable(getattr(self.module, "list_training_runs", None))

    @property
    def can_list_checkpoints(self) -> bool:
        """Whether a run's checkpoints can be listed."""
        return callable(getattr(self.module, "list_checkpoints", None))

    def run(self, config: Hashable, run_id: str) -> TrainingRun:
        """Ask for one run; an answer about another one does not fit."""
        with apart_from_outer():
            answer = self.module.get_training_run(config, run_id, **self._options())
            run = self.as_run(config, answer)
        if run.training_run_id != run_id:
            raise ApiResponseError(f"asked for run {run_id!r}, told of {run.training_run_id!r}")
        return run

    def rows(self, config: Hashable, offset: int, limit: int) -> Rows:
        """Ask for a page of up to `limit` runs, without the first `offset`."""
        module: Any = self.module
        read = getattr(module, "read_training_runs", None)
        with apart_from_outer():
            ask = module.list_training_runs if read is None else read
            page = ask(config, limit=limit, offset=offset, **self._options())
            if isinstance(page, Mapping):
                page = TrainingRunPage.from_json(page)
        if read is not None:
            return Rows(
                lambda is_known: map(_with_ids, page.parts(ROWS_AT_ONCE, is_known)),
                lambda: (page.count, page.total_count),
            )
        found = getattr(page, "rows", None)
        if found is None:
            found = getattr(page, "training_runs", None)
        if not isinstance(found, list | tuple):
            raise ApiResponseError(f"a page of runs was expected, not {type(page).__name__}")
        rows = [(row, None) for row in found]
        if isinstance(page, TrainingRunPage):
            rows += [(None, None)] * page.left_out
        total = getattr(page, "total_count", None)
        return Rows(
            lambda _: [_with_ids(rows)],
            lambda: (len(rows), total if isinstance(total, int) else None),
        )

    def checkpoints(self, config: Hashable, run_id: str) -> tuple[Checkpoint, ...]:
        """Ask for all checkpoints of a run, in the server's order, without those without a path."""
        module: Any = self.module
        listed = tuple(module.list_checkpoints(config, run_id))
        found = []
        for row in listed:
            try:
                found.append(self._read(Checkpoint, config, row))
            except ApiResponseError as error:
                self._tell(config, "Checkpoint.tinker_path", f"{error}; the checkpoint is left out")
        if listed and not found:
            raise ApiResponseError("no checkpoint of the list has a path")
        return tuple(found)

    def as_run(self, config: Hashable, row: Any) -> TrainingRun:
        """Read a row or an answer as far as it fits; what does not is left out, and told of once.

        Raises `ApiResponseError` where its id or flag does not fit.
        """
        return self._read(TrainingRun, config, row)

    def _read(self, kind: type[_Kind], config: Hashable, row: Any) -> _Kind:
        made = fitting(kind, row)
        of = made.training_run_id if isinstance(made, TrainingRun) else made.tinker_path
        for name, why in misfits_of(made):
            self._tell(config, name, f"{of}: {why}; it is left out")
        return made

    def _tell(self, config: Hashable, name: str, words: str) -> None:
        this = object()
        # By its hash: the config itself, with its key, would be kept for as long as the monitor.
        if self._told.setdefault((hash(config), name), this) is this:
            logger.warning(words)

    @property
    def can_search_sessions(self) -> bool:
        """Whether the server can be asked what became of a session."""
        return callable(getattr(self.module, "search_sessions", None))

    def sessions(self, config: Hashable, session_id: str, timeout: float) -> Sequence[Any]:
        """Search for a session, in so many seconds; return the rows found as they were sent."""
        module: Any = self.module
        search = module.search_sessions
        options = {"timeout": timeout} if takes_option(search, "timeout") else {}
        found = search(config, session_id, **options)
        page = found.get("sessions") if isinstance(found, Mapping) else found
        rows = getattr(page, "sessions", page)
        if not isinstance(rows, list | tuple):
            raise ApiResponseError(f"a list of sessions was expected, not {type(rows).__name__}")
        return rows

    def now(self, config: Hashable, own: datetime) -> datetime:
        """The server's time, as far as the module knows it without a request, else `own`."""
        try:
            ask = getattr(self.module, "server_time", None)
            told = ask(config) if callable(ask) else None
            if isinstance(told, datetime) and abs(told - own) < MOST_APART:
                return told
        except BaseException as raised:  # an old guess is better than no recovery
            heed(raised)
        return own

    def _options(self) -> dict[str, float]:
        return {} if self.timeout is None else {"timeout": self.timeout}

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (RestPort, *_portable(self.module), self.timeout)


class ServicePort(NamedTuple):
    """A service client module. Every method raises what the module raises."""

    module: ServiceModule

    def check(self, service: Any) -> None:
        """Refuse a service client that cannot be used, where the module can tell."""
        check = getattr(self.module, "check_service_client", None)
        if check is not None:
            check(service)
        elif service is None:
            raise TypeError("a service client is needed to make training clients with, not None")

    def opened(self, service: Any) -> Any:
        """The service client, made anew where a callable that makes one was given."""
        open_client = getattr(self.module, "open_service_client", None)
        if open_client is not None:
            return open_client(service)
        # A module of the caller's own may take service clients that only it knows.
        return service() if callable(service) and not is_service_client(service) else service

    def reopened(self, service: Any) -> Any:
        """A new one in place of one whose session is over, `None` where none can be made."""
        reopen = getattr(self.module, "reopen_service_client", None)
        if reopen is not None:
            return reopen(service)
        return service() if callable(service) and not is_service_client(service) else None

    def owns(self, given: Any, made: Any) -> bool:
        """Whether `made`, which `given` was opened or reopened to, is certainly of our making.

        What a function returns its caller may share, so may what a module with functions of its
        own opens. What a class makes is ours, and so is the clone of an instance.
        """
        for default in (open_service_client, reopen_service_client):
            if getattr(self.module, default.__name__, default) is not default:
                return False
        maker = given.func if isinstance(given, partial) else given
        return isinstance(maker, type) or (made is not given and is_service_client(given))

    def restore(
        self, service: Any, path: str, metadata: Mapping[str, str], *, with_optimizer: bool
    ) -> Any:
        """Make a training client from a checkpoint, for a run that carries `metadata`."""
        create = self.module.create_training_client_from_state
        if with_optimizer:
            create = self.module.create_training_client_from_state_with_optimizer
        return create(service, path, user_metadata=dict(metadata))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (ServicePort, *_portable(self.module))


def _portable(module: object) -> tuple[str | None, object]:
    """A module's name, or the object that stands in for one; modules cannot be pickled."""
    return (module.__name__, None) if isinstance(module, ModuleType) else (None, module)


def _unpickled(kind: Callable[..., Any], name: str | None, module: object, *rest: object) -> Any:
    return kind(module if name is None else import_module(name), *rest)


def _with_ids(rows: Iterable[tuple[Any, int | None]]) -> list[ListedRow]:
    """Each row with its run's id; one that is none has an empty id."""
    return [(_id_of(row), row, fingerprint) for row, fingerprint in rows]


def _id_of(row: Any) -> str:
    """A row's run id; a row that has none costs only itself."""
    found = row.get("training_run_id") if isinstance(row, dict | Mapping) else None
    if found is None:
        found = getattr(row, "training_run_id", None)
    return found if isinstance(found, str) else ""
