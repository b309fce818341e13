"""Checks the arguments of public calls: ids, modules, executors, metadata, credentials."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, cast

from . import rest
from .config import Config
from .config.credentials import credentials_of
from .errors import ConfigError
from .policy import Policy
from .ports import RestModule, ServiceModule
from .rest.paths import checked_id
from .types import Checkpoint

M = TypeVar("M")

#: What a `rest_module` and a `service_client_module` must have.
_REST_FUNCTIONS = ("get_training_run",)
_SERVICE_FUNCTIONS = (
    "create_rest_client",
    "create_training_client_from_state",
    "create_training_client_from_state_with_optimizer",
)

#: The executors of the standard library that run jobs outside this interpreter, by module.
_ELSEWHERE = {
    "concurrent.futures.process": "ProcessPoolExecutor",
    "concurrent.futures.interpreter": "InterpreterPoolExecutor",
}


class Metadata(Mapping[str, Any]):
    """A run's metadata, read-only; unlike a `MappingProxyType` it can be copied and pickled."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)

    def __getitem__(self, key: str) -> Any:
        return self._given[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return repr(self._given)


#: The metadata of a run that was given none.
NO_METADATA = Metadata({})


def checked_run_id(run_id: object) -> str:
    """A run id; `TypeError` if not text, `ValueError` if it could lead to another path."""
    if not isinstance(run_id, str):
        raise TypeError(f"a run id is text like 'SESSION:train:0', not {run_id!r}")
    return checked_id(run_id)


def checked_metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A read-only copy of a run's metadata."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {metadata!r}")
    return Metadata(metadata) if metadata else NO_METADATA


def checked_rest_module(module: RestModule | None) -> RestModule | None:
    """A module or object that can be polled, or `None`; another is a `TypeError`."""
    return _checked("rest_module", module, _REST_FUNCTIONS)


def checked_service_module(module: ServiceModule | None) -> ServiceModule | None:
    """A module or object that makes training clients, or `None`; another is a `TypeError`."""
    return _checked("service_client_module", module, _SERVICE_FUNCTIONS)


def _checked(name: str, module: M, functions: tuple[str, ...]) -> M:
    lacking = [each for each in functions if not callable(getattr(module, each, None))]
    if module is not None and lacking:
        raise TypeError(f"{name} must have {', '.join(functions)}; {module!r} lacks {lacking[0]}")
    return module


def checked_executor(name: str, pool: Executor | None) -> Executor | None:
    """An executor on whose workers attempts can run, or `None`; another is a `TypeError`."""
    if pool is not None and not callable(getattr(pool, "submit", None)):
        raise TypeError(f"{name} must be a concurrent.futures.Executor, not {pool!r}")
    for module, kind in _ELSEWHERE.items():
        # Where its module was never imported, the pool cannot be one.
        refused = getattr(sys.modules.get(module), kind, None)
        if refused is not None and isinstance(pool, refused):
            raise TypeError(
                f"{name} cannot be a {kind}: an attempt makes a live training client, which "
                "cannot leave the process that it was made in; give a ThreadPoolExecutor"
            )
    return pool


def checked_callable(name: str, given: object) -> None:
    """Raise a `TypeError` for what is neither callable nor `None`."""
    if given is not None and not callable(given):
        raise TypeError(f"{name} must be callable or None, not {given!r}")


def checked_timeout(timeout: float | None) -> float | None:
    """Seconds to wait at most, a number; `None` is without bound, and below 0 is over at once."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if math.isnan(timeout):
        raise ValueError("timeout must be a number of seconds or None, not NaN")
    return timeout


def checked_whole(name: str, given: object) -> int:
    """A whole number, 0 or more; else a `TypeError` or `ValueError`."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name} must be a whole number, not {given!r}")
    if given < 0:
        raise ValueError(f"{name} must be 0 or more, not {given}")
    return given


def as_policy(policy: Policy | Mapping[str, Any] | None) -> Policy:
    """A policy from what may stand for one; `None` is a disabled one."""
    if isinstance(policy, Policy):
        return policy
    return Policy() if policy is None else Policy.from_mapping(policy)


def as_checkpoint(given: Checkpoint | str | Mapping[str, Any]) -> Checkpoint:
    """A checkpoint from a tinker path, the API's JSON object, or one of ours."""
    found = Checkpoint.from_path(given) if isinstance(given, str) else Checkpoint.from_json(given)
    if found.checkpoint_type != "training":
        raise ValueError(f"{found.tinker_path!r} is no training checkpoint to restore from")
    return found


class Accounts:
    """Finds the account of a service client: the config to poll its runs with.

    `fallback` stands in for the environment, and what `rest_client_fun` returns is final.

    Threads: safe from any thread.
    """

    def __init__(
        self,
        rest_module: RestModule,
        fallback: Config | None,
        rest_client_fun: Callable[[Any], Any] | None = None,
    ) -> None:
        # A rest module of the caller's own may not need a key.
        self._needs_key = rest_module is rest or isinstance(rest_module, rest.RestClient)
        self._fallback = fallback
        self._rest_client_fun = rest_client_fun
        # That of the last call, which is the next one's in most cases.
        self._last: Config | None = None

    def of(self, client: Any) -> Config | None:
        """The config for a service client; `ConfigError` if there is no key."""
        if self._rest_client_fun is not None:
            config: Any = self._rest_client_fun(client).config
            if not isinstance(config, Hashable):
                need = "an account is told by its config, which must be hashable"
                raise TypeError(f"{need}: {config!r}")
            return cast("Config | None", config)
        try:
            self._last = found = credentials_of(client, self._fallback, self._last).config
        except ConfigError:
            if self._needs_key:
                raise
            return None
        return found
