"""Functions that call a service client of the official SDK and read its answers and errors."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from .config import DEFAULT_BASE_URL, Config
from .errors import (
    ApiConnectionError,
    ApiStatusError,
    ApiTimeoutError,
    ConfigError,
    ServiceError,
    TinkexError,
    causes,
    status_of,
)
from .types import Checkpoint, TrainingRun, TrainingRunPage

__all__ = [
    "Credentials",
    "SdkRest",
    "check_service_client",
    "create_rest_client",
    "create_training_client_from_state",
    "create_training_client_from_state_with_optimizer",
    "credentials_of",
    "finished",
    "is_sdk_error",
    "is_service_client",
    "model_id_of",
    "open_service_client",
    "reopen_service_client",
    "saved_path",
    "secrets_of",
    "takes_option",
    "without_secrets",
]

_FROM_STATE = "create_training_client_from_state"
_WITH_OPTIMIZER = "create_training_client_from_state_with_optimizer"


def create_rest_client(service: Any) -> Any:
    """Call the service client's `create_rest_client()`; newer SDKs deprecate that method."""
    return finished(service.create_rest_client())


def create_training_client_from_state(service: Any, path: str, **options: Any) -> Any:
    """Make a training client from a checkpoint's weights, and wait until it has loaded.

    `path` is `tinker://RUN_ID/weights/NAME`. Options that the service client's method does not
    take are left out. Any error of the service client is raised.
    """
    return _create(getattr(service, _FROM_STATE), path, options)


def create_training_client_from_state_with_optimizer(
    service: Any, path: str, **options: Any
) -> Any:
    """Make a training client from a checkpoint's weights and optimizer state, and wait."""
    return _create(getattr(service, _WITH_OPTIMIZER), path, options)


def _create(method: Callable[..., Any], path: str, options: Mapping[str, Any]) -> Any:
    return finished(method(path, **{k: v for k, v in options.items() if takes_option(method, k)}))


def takes_option(method: Callable[..., Any], name: str) -> bool:
    """Whether a method takes a keyword argument of this name."""
    with suppress(TypeError, ValueError):
        parameters = inspect.signature(method).parameters.values()
        return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return False


def finished(answer: Any) -> Any:
    """The result of a future, or the object itself if it is none (the SDK differs by version)."""
    return answer.result() if callable(getattr(answer, "result", None)) else answer


def check_service_client(service: Any) -> None:
    """Raise a `TypeError` if an object is neither a service client nor a callable."""
    if not is_service_client(service) and not callable(service):
        raise TypeError(
            f"{type(service).__name__!r} object is not a service client: it needs {_FROM_STATE}() "
            f"and {_WITH_OPTIMIZER}(), or to be a callable that returns such an object"
        )


def open_service_client(service: Any) -> Any:
    """Return the given service client, or call the given function to make a new one."""
    if is_service_client(service):
        return service
    made = service()
    if is_service_client(made):
        return made
    raise TypeError(f"the callable given returned {type(made).__name__!r} without {_FROM_STATE}()")


def reopen_service_client(service: Any) -> Any:
    """A new service client in place of one whose session is over, `None` where none can be made.

    A callable is called again; one of the official SDK is made again by its class and arguments.
    """
    if not is_service_client(service):
        return open_service_client(service)
    kind, own = type(service), _attributes(service)
    if kind.__module__.partition(".")[0] not in _SDK_PACKAGES:
        return None
    kept = {name: own.get(f"_{name}") for name in inspect.signature(kind).parameters}
    kept.update(_mapping(own.get("_holder_kwargs")))
    return kind(**{name: value for name, value in kept.items() if value is not None})


def is_service_client(service: Any) -> bool:
    """Whether an object has a method that makes training clients from checkpoints."""
    if isinstance(service, type):
        return False  # a class is a callable that makes a service client
    return any(callable(getattr(service, name, None)) for name in (_FROM_STATE, _WITH_OPTIMIZER))


def model_id_of(client: Any) -> str:
    """The id of the run that a training client trains; `TypeError` if the client has none."""
    model_id = getattr(client, "model_id", None)
    if isinstance(model_id, str) and model_id:
        return model_id
    named = type(client).__name__
    raise TypeError(f"the training client {named!r} has no model_id, so it cannot be monitored")


def saved_path(answer: Any) -> str:
    """The checkpoint's path in the result of `save_state`; `TypeError` if it has none."""
    path = getattr(answer, "path", None) or getattr(answer, "tinker_path", answer)
    if isinstance(path, str):
        return path
    raise TypeError(f"save_state returned {answer!r}, which has no path")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The object that `rest_client_fun` returns by default; it has a `config`."""

    config: Config


def credentials_of(service: Any, fallback: Config | None = None) -> Credentials:
    """Read a service client's key and base URL from its attributes.

    No request is sent and no property is read (the SDK's `holder` would open a session). If the
    service client has no key, the key and base URL of `fallback`, else of the environment, are
    used together: a key is never sent to a base URL that it was not given for.

    Raises:
        ConfigError: There is no key, or its base URL cannot be used.
    """
    key, url = _own_credentials(service)
    if key is None:
        given = fallback or Config.from_env()
        if url is not None and url.rstrip("/") != given.base_url:
            shown = url.rpartition("@")[2]
            raise ConfigError(
                f"the service client has the base URL {shown!r} but no key for it, and the "
                f"configured key is for {given.base_url!r}; give the service client its "
                "api_key, or the monitor a config of that base URL"
            )
        return Credentials(given)
    url = url or os.environ.get("TINKER_BASE_URL") or DEFAULT_BASE_URL
    if fallback is None:
        return Credentials(Config(key, url))
    # The settings of the given config are kept, but no headers for another server.
    own = replace(fallback, api_key=key, base_url=url)
    return Credentials(own if own.base_url == fallback.base_url else replace(own, headers=None))


def secrets_of(service: Any, config: Config | None) -> tuple[str, ...]:
    """The API keys of a service client and a config, to remove from messages."""
    keys = (getattr(config, "api_key", None), _own_credentials(service)[0])
    return tuple(key for key in keys if isinstance(key, str) and key)


def _own_credentials(service: Any) -> tuple[str | None, str | None]:
    """The key and base URL in the attributes of an object, or of the SDK's holder in it."""
    own = _attributes(service)
    places = [own, _mapping(own.get("_holder_kwargs"))]
    for name in ("_session_holder", "_rest_holder"):
        holder = _attributes(own.get(name))
        # The SDK itself sends the holder's key to the holder's base URL: take both from there.
        if isinstance(key := holder.get("_api_key"), str) and key:
            arguments = _mapping(holder.get("_constructor_kwargs"))
            return key, _text(holder.get("_base_url")) or _text(arguments.get("base_url"))
    return _first(places, "_api_key", "api_key"), _first(places, "_base_url", "base_url")


def _first(places: Iterable[Mapping[str, Any]], *names: str) -> str | None:
    return next((t for p in places for n in names if (t := _text(p.get(n)))), None)


def _attributes(thing: Any) -> Mapping[str, Any]:
    return _mapping(getattr(thing, "__dict__", None))


def _mapping(thing: Any) -> Mapping[str, Any]:
    return thing if isinstance(thing, Mapping) else {}


def _text(thing: Any) -> str | None:
    return thing if isinstance(thing, str) and thing else None


#: The packages of the official SDK and of services with its surface, whose errors are a server's.
_SDK_PACKAGES = frozenset({"tinker", "baseten"})

#: Packages whose errors hold the request, whose headers hold the API key.
_HTTP_PACKAGES = frozenset({"httpcore", "httpx", "pyqwest", "requests", "tinker", "urllib3"})


def without_secrets(error: BaseException, secrets: Collection[str] = ()) -> BaseException:
    """Return the error if it holds no secret, else a `ServiceError` with the same facts.

    `secrets` are texts to remove from the message.
    """
    chain = list(causes(error))
    text = " ".join(map(_all_of, chain))
    leaks = any(secret in text for secret in secrets)
    is_ours = isinstance(error, TinkexError) and len(chain) == 1
    if not leaks and (is_ours or not any(map(_is_of_http, chain))):
        return error
    source = next((cause for cause in chain if _is_specific(cause)), error)
    message = str(error)
    for secret in secrets:
        message = message.replace(secret, "***")
    category = getattr(source, "category", None)
    return ServiceError(
        type(source).__name__,
        message,
        status=status_of(source),
        category=None if category is None else str(getattr(category, "value", category)),
    )


def _all_of(error: BaseException) -> str:
    """An error's message, arguments and attributes (notes included) as one text."""
    with suppress(Exception):
        return f"{error} {error.args!r} {vars(error)!r}"
    return str(error)


def is_sdk_error(error: BaseException) -> bool:
    """Whether the official SDK, or one with its surface, raised the error or one of its causes."""
    return any(type(each).__module__.partition(".")[0] in _SDK_PACKAGES for each in causes(error))


def _is_of_http(error: BaseException) -> bool:
    try:
        held = [getattr(error, name, None) for name in ("request", "response")]
    except Exception:  # a property, which httpx has raise where there is no request
        return True
    package = type(error).__module__.partition(".")[0]
    return package in _HTTP_PACKAGES or held != [None, None]


def _is_specific(error: BaseException) -> bool:
    """Whether an error has a status or a category, or is about a connection or a timeout."""
    return (
        status_of(error) is not None
        or getattr(error, "category", None) is not None
        or isinstance(error, ConnectionError | TimeoutError)
        or any(word in type(error).__name__ for word in ("Connection", "Timeout"))
    )


class SdkRest:
    """A `rest_module` that polls through the official SDK's REST client.

    For accounts whose credential is not an API key (`TINKER_CREDENTIAL_CMD`, a stored login):
    the SDK gets and renews it. Each call costs about 1 ms of CPU and perhaps a new connection.

    Args:
        rest_client: A `tinker.RestClient`, or the result of a service client's
            `create_rest_client()`; `None`: one is made at the first call.
        timeout: Seconds to wait for one answer; the SDK itself retries for minutes.

    Threads: safe from any thread but the SDK's event loop.
    """

    def __init__(self, rest_client: Any = None, *, timeout: float = 20.0) -> None:
        self._rest_client = rest_client
        self._timeout = timeout

    def get_training_run(self, config: Config | None, run_id: str) -> TrainingRun:
        """Return one run; `config` is not used."""
        return TrainingRun.from_json(self._call("get_training_run", run_id))

    def list_training_runs(
        self, config: Config | None, *, limit: int = 20, offset: int = 0
    ) -> TrainingRunPage:
        """Return a page of the account's runs; `config` is not used."""
        page = self._call("list_training_runs", limit=limit, offset=offset)
        return TrainingRunPage.from_json(page)

    def list_checkpoints(self, config: Config | None, run_id: str) -> tuple[Checkpoint, ...]:
        """Return a run's checkpoints; `config` is not used."""
        listed = self._call("list_checkpoints", run_id)
        return tuple(Checkpoint.from_json(item) for item in listed["checkpoints"])

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._rest_client is None:
                self._rest_client = _make_rest_client()
            future = getattr(self._rest_client, method)(*args, **kwargs)
            answer = future.result(timeout=self._timeout)
        except Exception as error:
            failed = _as_rest_error(error, method, self._timeout, _keys_in(self._rest_client))
        else:
            return answer.model_dump(mode="json")
        # Outside the except block: the SDK's error holds the credential and must not be chained.
        raise failed


def _make_rest_client() -> Any:
    import tinker  # noqa: PLC0415 (an extra that only this class needs)

    maker = getattr(tinker, "RestClient", None)
    return maker() if maker is not None else tinker.ServiceClient().create_rest_client()


def _keys_in(rest_client: Any) -> tuple[str, ...]:
    """The API keys in the attributes of the SDK's REST client and of the objects in it."""
    places = [_attributes(rest_client), *map(_attributes, _attributes(rest_client).values())]
    return tuple(key for place in places if (key := _text(place.get("_api_key"))))


def _as_rest_error(
    error: Exception, method: str, timeout: float, secrets: Collection[str]
) -> Exception:
    shown = without_secrets(error, secrets)
    status = status_of(shown)
    if status is not None:
        return ApiStatusError.of(status, str(shown)[:200], where=method)
    if isinstance(shown, TimeoutError):
        return ApiTimeoutError(f"{method}: no answer within {timeout:g} s")
    if isinstance(shown, TinkexError):
        return ApiConnectionError(f"{method}: {shown}")
    return shown if isinstance(shown, Exception) else error
