"""The credentials of service clients: found where they are needed, kept out of errors."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from .config import DEFAULT_BASE_URL, Config
from .errors import ConfigError, ServiceError, TinkexError, causes, status_of

#: Packages whose errors hold the request, whose headers hold the API key.
_HTTP_PACKAGES = frozenset({"httpcore", "httpx", "pyqwest", "requests", "tinker", "urllib3"})


class Credentials(NamedTuple):
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


def with_own_key(config: Config, service: Any) -> Config:
    """The config, with the key of the service client or of the environment where it has none.

    Raises:
        ConfigError: The key at hand is for another base URL.
    """
    if config.api_key is not None:
        return config
    try:
        own = credentials_of(service).config
    except ConfigError:
        return config  # a REST module of the caller's own may need none
    if own.base_url != config.base_url:
        where = f"{own.base_url!r}, the run lies at {config.base_url!r}"
        raise ConfigError(f"the key at hand is for {where}")
    return replace(config, api_key=own.api_key)


def secrets_of(service: Any, config: Config | None) -> tuple[str, ...]:
    """The API keys of a service client and a config, to remove from messages."""
    keys = (getattr(config, "api_key", None), _own_credentials(service)[0])
    return tuple(key for key in keys if isinstance(key, str) and key)


def _own_credentials(service: Any) -> tuple[str | None, str | None]:
    """The key and base URL in the attributes of an object, or of the SDK's holder in it."""
    own = attributes_of(service)
    places = [own, _mapping(own.get("_holder_kwargs"))]
    for name in ("_session_holder", "_rest_holder"):
        holder = attributes_of(own.get(name))
        # The SDK itself sends the holder's key to the holder's base URL: take both from there.
        if isinstance(key := holder.get("_api_key"), str) and key:
            arguments = _mapping(holder.get("_constructor_kwargs"))
            return key, _text(holder.get("_base_url")) or _text(arguments.get("base_url"))
    return _first(places, "_api_key", "api_key"), _first(places, "_base_url", "base_url")


def keys_in(rest_client: Any) -> tuple[str, ...]:
    """The API keys in the attributes of the SDK's REST client and of the objects in it."""
    places = [attributes_of(rest_client), *map(attributes_of, attributes_of(rest_client).values())]
    return tuple(key for place in places if (key := _text(place.get("_api_key"))))


def _first(places: Iterable[Mapping[str, Any]], *names: str) -> str | None:
    return next((t for p in places for n in names if (t := _text(p.get(n)))), None)


def attributes_of(thing: Any) -> Mapping[str, Any]:
    """The attributes that lie in an object itself, by name."""
    return _mapping(getattr(thing, "__dict__", None))


def _mapping(thing: Any) -> Mapping[str, Any]:
    return thing if isinstance(thing, Mapping) else {}


def _text(thing: Any) -> str | None:
    return thing if isinstance(thing, str) and thing else None


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
