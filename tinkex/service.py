"""The service client module: the official SDK's objects and errors, as tinkex sees them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
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
    "saved_path",
    "secrets_of",
    "takes_option",
    "without_secrets",
]

_FROM_STATE = "create_training_client_from_state"
_WITH_OPTIMIZER = "create_training_client_from_state_with_optimizer"


def create_rest_client(service: Any) -> Any:
    """Return what the service client's own `create_rest_client()` returns.

    In newer versions of the official SDK this is a deprecated spelling of `tinker.RestClient()`.
    """
    return finished(service.create_rest_client())


def create_training_client_from_state(service: Any, path: str, **options: Any) -> Any:
    """Make a training client from a checkpoint's weights, and wait until it has loaded.

    Args:
        service: The service client.
        path: `tinker://RUN_ID/weights/NAME`.
        **options: Passed on where the service client's method takes them.

    Raises:
        Exception: Whatever the service client raises.
    """
    return _create(getattr(service, _FROM_STATE), path, options)


def create_training_client_from_state_with_optimizer(
    service: Any, path: str, **options: Any
) -> Any:
    """Make a training client from weights and optimizer state; otherwise as without."""
    return _create(getattr(service, _WITH_OPTIMIZER), path, options)


def _create(method: Callable[..., Any], path: str, options: Mapping[str, Any]) -> Any:
    return finished(method(path, **{k: v for k, v in options.items() if takes_option(method, k)}))


def takes_option(method: Callable[..., Any], name: str) -> bool:
    """Whether a method takes a keyword argument of this name."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def finished(answer: Any) -> Any:
    """The client itself: since 0.38 the official SDK returns a future that stands for it."""
    wait = getattr(answer, "result", None)
    return wait() if callable(wait) else answer


def check_service_client(service: Any) -> None:
    """Refuse what can make no training clients.

    Raises:
        TypeError: Neither a service client nor a callable that could return one.
    """
    if is_service_client(service) or callable(service):
        return
    raise TypeError(
        f"{type(service).__name__!r} object is no service client: it needs {_FROM_STATE}() and "
        f"{_WITH_OPTIMIZER}() as tinker.ServiceClient has them, or to be a callable without "
        "arguments that returns such an object"
    )


def open_service_client(service: Any) -> Any:
    """Return the service client, made anew where a callable that makes one was given."""
    if is_service_client(service):
        return service
    made = service()
    if not is_service_client(made):
        raise TypeError(
            f"the callable given as service client returned {type(made).__name__!r}, which has no "
            f"{_FROM_STATE}()"
        )
    return made


def is_service_client(service: Any) -> bool:
    """Whether an object itself makes training clients, as `tinker.ServiceClient` does."""
    if isinstance(service, type):
        return False  # a class is a callable that makes one
    return any(callable(getattr(service, name, None)) for name in (_FROM_STATE, _WITH_OPTIMIZER))


def model_id_of(client: Any) -> str:
    """The id of the run that a training client trains.

    Raises:
        TypeError: The client does not tell.
    """
    model_id = getattr(client, "model_id", None)
    if isinstance(model_id, str) and model_id:
        return model_id
    raise TypeError(
        f"the training client {type(client).__name__!r} has no text in its attribute model_id, "
        "so its run cannot be monitored"
    )


def saved_path(answer: Any) -> str:
    """The path that a training client's `save_state` answered with.

    Raises:
        TypeError: There is none in the answer.
    """
    path = getattr(answer, "path", None) or getattr(answer, "tinker_path", answer)
    if isinstance(path, str):
        return path
    raise TypeError(f"save_state answered {answer!r}, which has no path")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What `rest_client_fun` returns: something with a `config`."""

    config: Config


def credentials_of(service: Any, fallback: Config | None = None) -> Credentials:
    """Read a service client's own key and base URL where they lie in it.

    No request is sent and no property is asked (the official SDK's `holder` opens a session).
    What the service client does not say comes from `fallback`, else from the environment, as
    a pair: a key is never sent to a base URL that it was not given for.

    Raises:
        ConfigError: There is no key, or its base URL cannot be used.
    """
    key, url = _own_credentials(service)
    if key is None:
        given = fallback or Config.from_env()
        if url is not None and url.rstrip("/") != given.base_url:
            shown = url.rpartition("@")[2]
            raise ConfigError(
                f"the service client names the base URL {shown!r} but holds no key for it yet, and "
                f"the key at hand is for {given.base_url!r}; give the service client its "
                "api_key, or the monitor a config of that base URL"
            )
        return Credentials(given)
    url = url or os.environ.get("TINKER_BASE_URL") or DEFAULT_BASE_URL
    if fallback is None:
        return Credentials(Config(key, url))
    # Settings that a person chose still hold, but headers may hold another server's secrets.
    own = replace(fallback, api_key=key, base_url=url)
    return Credentials(own if own.base_url == fallback.base_url else replace(own, headers=None))


def secrets_of(service: Any, config: Config | None) -> tuple[str, ...]:
    """The texts that no message about this service client may hold."""
    keys = (getattr(config, "api_key", None), _own_credentials(service)[0])
    return tuple(key for key in keys if isinstance(key, str) and key)


def _own_credentials(service: Any) -> tuple[str | None, str | None]:
    """The key and the base URL that lie in the object, or in the official SDK's holder in it."""
    own = _attributes(service)
    places = [own, _mapping(own.get("_holder_kwargs"))]
    for name in ("_session_holder", "_rest_holder"):
        holder = _attributes(own.get(name))
        # The holder's pair is what the SDK itself sends: both belong together.
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


#: Packages whose errors hold requests, and with them the key in their headers.
_HTTP_PACKAGES = frozenset({"httpcore", "httpx", "pyqwest", "requests", "tinker", "urllib3"})


def without_secrets(error: BaseException, secrets: Collection[str] = ()) -> BaseException:
    """The error itself where it can be shown, else a `ServiceError` that tells the same.

    Errors of HTTP libraries and of the official SDK hold the request, whose headers hold the
    API key.

    Args:
        error: What a service client or a rest module raised.
        secrets: Texts that no message may hold.
    """
    chain = list(causes(error))
    text = " ".join(map(_all_of, chain))
    leaks = any(secret in text for secret in secrets)
    is_ours = isinstance(error, TinkexError) and len(chain) == 1
    if not leaks and (is_ours or not any(map(_is_of_http, chain))):
        return error
    telling = next((cause for cause in chain if _tells(cause)), error)
    message = str(error)
    for secret in secrets:
        message = message.replace(secret, "***")
    category = getattr(telling, "category", None)
    return ServiceError(
        type(telling).__name__,
        message,
        status=status_of(telling),
        category=None if category is None else str(getattr(category, "value", category)),
    )


def _all_of(error: BaseException) -> str:
    """All that an error shows of itself: its text, its notes, its attributes."""
    try:
        return f"{error} {error.args!r} {vars(error)!r}"
    except Exception:
        return str(error)


def is_sdk_error(error: BaseException) -> bool:
    """Whether the error, or one that it came from, is one of the official SDK's."""
    return any(type(each).__module__.partition(".")[0] == "tinker" for each in causes(error))


def _is_of_http(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _HTTP_PACKAGES or any(
        getattr(error, name, None) is not None for name in ("request", "response")
    )


def _tells(error: BaseException) -> bool:
    return (
        status_of(error) is not None
        or getattr(error, "category", None) is not None
        or isinstance(error, ConnectionError | TimeoutError)
        or "Connection" in type(error).__name__
        or "Timeout" in type(error).__name__
    )


class SdkRest:
    """A `rest_module` that polls through the official SDK's own REST client.

    For accounts whose credential is not an API key (`TINKER_CREDENTIAL_CMD`, a stored login):
    the SDK obtains and renews the credential, and each call costs about 1 ms of CPU and
    possibly a connection of its own.

    Args:
        rest_client: A `tinker.RestClient`, or what `ServiceClient.create_rest_client()`
            returns; `None` makes one at the first call.
        timeout: Seconds to wait for one answer; the SDK itself retries for minutes.

    Threads: safe from any thread but the SDK's own event loop.
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
        # Outside the except block: the SDK's error holds the credential and must not be kept.
        raise failed


def _make_rest_client() -> Any:
    import tinker  # noqa: PLC0415 (an extra; only this class needs it)

    maker = getattr(tinker, "RestClient", None)
    return maker() if maker is not None else tinker.ServiceClient().create_rest_client()


def _keys_in(rest_client: Any) -> tuple[str, ...]:
    """The keys that lie in the SDK's REST client, or in the holders in it."""
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
