"""What a person hands in, checked at the door: ids, modules, metadata, credentials."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any

from .. import rest, service
from ..config import Config
from ..errors import ConfigError
from ..policy import Policy
from ..rest.client import quoted_id
from ..types import Checkpoint

__all__ = [
    "NO_METADATA",
    "SERVICE_FUNCTIONS",
    "as_checkpoint",
    "as_policy",
    "check_service",
    "checked_metadata",
    "checked_module",
    "checked_run_id",
    "checked_workers",
    "config_for",
]

#: What a `service_client_module` must have.
SERVICE_FUNCTIONS = (
    "create_rest_client",
    "create_training_client_from_state",
    "create_training_client_from_state_with_optimizer",
)

#: The metadata of a run that was given none.
NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def checked_run_id(run_id: object) -> str:
    """A run id that can be asked for.

    Raises:
        TypeError: It is not text.
        ValueError: It is empty or could reach another path of the API.
    """
    if not isinstance(run_id, str):
        raise TypeError(f"a run id is text like 'SESSION:train:0', not {run_id!r}")
    quoted_id(run_id)
    return run_id


def checked_metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A read-only copy of a person's metadata."""
    if metadata is None:
        return NO_METADATA
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {metadata!r}")
    if not metadata:
        return NO_METADATA
    return MappingProxyType(dict(metadata))


def checked_module(name: str, module: Any, functions: tuple[str, ...]) -> Any:
    """A module or object that has these functions.

    Raises:
        TypeError: It lacks one of them.
    """
    lacking = [each for each in functions if not callable(getattr(module, each, None))]
    if lacking:
        raise TypeError(f"{name} must have {', '.join(functions)}; {module!r} lacks {lacking[0]}")
    return module


def checked_workers(given: int | None, default: int) -> int:
    """A number of poll workers, 0 or more; `default` where `None` was given."""
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"poll_workers must be a whole number or None, not {given!r}")
    if given < 0:
        raise ValueError(f"poll_workers must be 0 or more, not {given}")
    return given


def check_service(services: Any, client: Any) -> None:
    """Ask the service client module whether it can use the service client, if it can tell."""
    check = getattr(services, "check_service_client", None)
    if check is not None:
        check(client)
    elif client is None:
        raise TypeError("a service client is needed to make training clients with, not None")


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


def config_for(
    client: Any,
    rest_module: Any,
    fallback: Config | None,
    rest_client_fun: Callable[[Any], Any] | None = None,
) -> Config | None:
    """The config to poll a service client's runs with.

    Args:
        client: The service client.
        rest_module: What will poll; one of a person's own may not need a key.
        fallback: Stands in for the environment.
        rest_client_fun: A person's own way to find out; its word is final.

    Raises:
        ConfigError: There is no key.
    """
    if rest_client_fun is not None:
        config: Config | None = rest_client_fun(client).config
        if not isinstance(config, Hashable):
            raise TypeError(f"an account is told by its config, which must be hashable: {config!r}")
        return config
    try:
        return service.credentials_of(client, fallback).config
    except ConfigError:
        if rest_module is rest or isinstance(rest_module, rest.RestClient):
            raise
        return None
