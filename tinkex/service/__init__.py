"""Functions that call a service client of the official SDK and read its answers and errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from ..config.credentials import attributes_of
from ..errors import causes
from ..rest.sdk import SdkRest

__all__ = [
    "SdkRest",
    "check_service_client",
    "close_service_client",
    "create_rest_client",
    "create_training_client_from_state",
    "create_training_client_from_state_with_optimizer",
    "finished",
    "is_sdk_error",
    "is_service_client",
    "model_id_of",
    "open_service_client",
    "reopen_service_client",
    "saved_path",
    "takes",
    "takes_option",
]

_FROM_STATE = "create_training_client_from_state"
_WITH_OPTIMIZER = "create_training_client_from_state_with_optimizer"

#: The options of functions, which take longer to find than a recovery on the fakes.
_known: WeakKeyDictionary[FunctionType, frozenset[str] | None] = WeakKeyDictionary()

#: Seconds that the end of a session is waited for; the SDK itself retries for minutes.
_CLOSING = 10.0


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
    function = getattr(method, "__func__", method)
    if not isinstance(function, FunctionType):
        names = _options_of(function)
    elif function in _known:
        names = _known[function]
    else:
        names = _known[function] = _options_of(function)
    return names is None or name in names


def _options_of(method: Callable[..., Any]) -> frozenset[str] | None:
    """The names of its arguments; `None`: it takes any."""
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return frozenset()
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return None if takes_any else frozenset(parameters)


def takes(method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a method takes these arguments."""
    try:
        inspect.signature(method).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


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
    kind, own = type(service), attributes_of(service)
    if kind.__module__.partition(".")[0] not in _SDK_PACKAGES:
        return None
    kept = {name: own.get(f"_{name}") for name in inspect.signature(kind).parameters}
    kept.update(own.get("_holder_kwargs") or {})
    return kind(**{name: value for name, value in kept.items() if value is not None})


def close_service_client(service: Any, status: str) -> None:
    """End the session of a service client, and wait a while until it has ended.

    `status`, "success", "errored" or "interrupted", is told where its `close()` takes one. The
    official SDK's has no `close()` before 0.28: such a session ends with its last client. Any
    error of the service client is raised.
    """
    close = getattr(service, "close", None)
    if not callable(close):
        return
    ending = close(status=status) if takes_option(close, "status") else close()
    if callable(getattr(ending, "result", None)):
        ending.result(timeout=_CLOSING)


def is_service_client(service: Any) -> bool:
    """Whether an object has a method that makes training clients from checkpoints."""
    if isinstance(service, type):
        return False  # a class is a callable that makes a service client
    return callable(getattr(service, _FROM_STATE, None)) or callable(
        getattr(service, _WITH_OPTIMIZER, None)
    )


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


#: The packages of the official SDK and of services with its surface, whose errors are a server's.
_SDK_PACKAGES = frozenset({"tinker", "baseten"})


def is_sdk_error(error: BaseException) -> bool:
    """Whether the official SDK, or one with its surface, raised the error or one of its causes."""
    return any(type(each).__module__.partition(".")[0] in _SDK_PACKAGES for each in causes(error))
