"""The credentials of service clients: found where they are needed, kept out of errors."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import ConfigError, ServiceError, TinkexError, causes, in_words, status_of
from ..errors.reading import fact, heed, without_frames
from . import DEFAULT_BASE_URL, Config, config_or_error
from .secret import Secret

logger = logging.getLogger(__name__)

#: Packages whose errors hold the request, whose headers hold the API key.
_HTTP_PACKAGES = frozenset({"httpcore", "httpx", "pyqwest", "requests", "tinker", "urllib3"})

#: What is read of errors beside their text.
_FACTS = ("status", "status_code", "category", "retry_after")


class Credentials(NamedTuple):
    """The object that `rest_client_fun` returns by default; it has a `config`."""

    config: Config


def credentials_of(
    service: Any, fallback: Config | None = None, known: Config | None = None
) -> Credentials:
    """Read a service client's key and base URL from its attributes.

    No request is sent and no property is read (the SDK's `holder` would open a session). If the
    service client has no key, the key and base URL of `fallback`, else of the environment, are
    used together: a key is never sent to a base URL that it was not given for. Its runs lie in the
    service client's own project, if it has one. `known`, found before with the same `fallback`, is
    returned where nothing has changed since: to check a config takes longer than all the rest.

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
        project = _project_of(service, lambda: os.environ.get("TINKER_PROJECT_ID"))
    else:
        project = _project_of(service, lambda: None) or fallback.project_id
    if (
        known is not None
        and known.base_url == url
        and known.project_id == project
        and known.api_key == key.reveal()
    ):
        return Credentials(known)
    if fallback is None:
        own = config_or_error(Config, key.reveal(), url, project_id=project)
    else:
        own = _with_settings_of(fallback, key, url, project)
    # Raised here, in no frame that holds the key.
    if isinstance(own, ConfigError):
        raise own
    return Credentials(own)


def _with_settings_of(
    fallback: Config, key: Secret[str], url: str, project: str | None
) -> Config | ConfigError:
    """A config with the settings of another, but without its headers for another server."""
    try:
        own = replace(fallback, api_key=key.reveal(), base_url=url, project_id=project)
    except ConfigError as error:
        without_frames(error)
        return error
    return own if own.base_url == fallback.base_url else replace(own, headers=None)


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


#: API keys, to remove from messages.
Keys = Secret[tuple[str, ...]]


def secrets_of(service: Any, config: Config | None) -> Keys:
    """The API keys of a service client and a config."""
    return _keys(getattr(config, "api_key", None), _of_service(service))


def all_secrets_of(services: Iterable[Any], config: Config | None) -> Keys:
    """The API keys of several service clients and a config."""
    return _keys(getattr(config, "api_key", None), *map(_of_service, services))


def _of_service(service: Any) -> str | None:
    key, _ = _own_credentials(service)
    return None if key is None else key.reveal()


def _keys(*found: Any) -> Keys:
    return Secret(tuple(key for key in found if isinstance(key, str) and key))


def _own_credentials(service: Any) -> tuple[Secret[str] | None, str | None]:
    """The key and base URL in the attributes of an object, or of the SDK's holder in it."""
    own = attributes_of(service)
    for name in ("_session_holder", "_rest_holder"):
        if name not in own:
            continue
        holder = attributes_of(own[name])
        # The SDK itself sends the holder's key to the holder's base URL: take both from there.
        if isinstance(key := holder.get("_api_key"), str) and key:
            arguments = _mapping(holder.get("_constructor_kwargs"))
            url = _text(holder.get("_base_url")) or _text(arguments.get("base_url"))
            return Secret(key), url
    places = [own]
    if "_holder_kwargs" in own:
        places.append(_mapping(own["_holder_kwargs"]))
    key = _first(places, "_api_key", "api_key")
    url = _first(places, "_base_url", "base_url")
    return None if key is None else Secret(key), url


def _project_of(service: Any, otherwise: Callable[[], str | None]) -> str | None:
    """The project in a service client's attributes, where it has such a one, even if of none."""
    own = attributes_of(service)
    for name in ("_project_id", "project_id"):
        if name in own:
            return _text(own[name])
    return _text(otherwise())


def keys_in(rest_client: Any) -> Keys:
    """The API keys in the attributes of the SDK's REST client and of the objects in it."""
    places = [attributes_of(rest_client), *map(attributes_of, attributes_of(rest_client).values())]
    return _keys(*(place.get("_api_key") for place in places))


def _first(places: Iterable[Mapping[str, Any]], *names: str) -> str | None:
    for place in places:
        for name in names:
            if found := _text(place.get(name)):
                return found
    return None


def attributes_of(thing: Any) -> Mapping[str, Any]:
    """The attributes that lie in an object itself, by name."""
    return _mapping(getattr(thing, "__dict__", None))


def _mapping(thing: Any) -> Mapping[str, Any]:
    # To ask whether it is any mapping takes longer than all else that is read here.
    return thing if type(thing) is dict or isinstance(thing, Mapping) else {}


def _text(thing: Any) -> str | None:
    return thing if isinstance(thing, str) and thing else None


def without_secrets(error: BaseException, secrets: Keys | None = None) -> BaseException:
    """Return the error if it can be read and holds no secret, else a `ServiceError` of its facts.

    `secrets` are removed from the message.
    """
    chain = list(causes(error))
    texts = [_all_of(each) for each in chain]
    leaks = None in texts or _has_any(" ".join(filter(None, texts)), secrets)
    is_ours = isinstance(error, TinkexError) and len(chain) == 1
    if not leaks and (is_ours or not any(map(_is_of_http, chain))):
        return error
    return retold(error, secrets)


def retold(error: BaseException, secrets: Keys | None = None) -> ServiceError:
    """The facts of an error, in one that holds nothing else; `secrets` are removed."""
    source = next((cause for cause in causes(error) if _is_specific(cause)), error)
    category = fact(source, "category")
    return ServiceError(
        type(source).__name__,
        _scrubbed(in_words(error), secrets),
        status=status_of(source),
        category=None if category is None else str(getattr(category, "value", category)),
    )


def kept(error: BaseException, secrets: Keys | None = None) -> BaseException:
    """The error as it may be kept and shown: without secrets, and without its stack frames.

    For an error whose raising has ended: frames hold the key, and all that a call has brought.
    """
    if logger.isEnabledFor(logging.DEBUG) and not isinstance(error, TinkexError):
        told = "".join(traceback.format_tb(error.__traceback__))
        logger.debug("%s came from:\n%s", type(error).__name__, _scrubbed(told, secrets))
    without_frames(error)
    return without_secrets(error, secrets)


def _has_any(text: str, secrets: Keys | None) -> bool:
    return secrets is not None and any(key in text for key in secrets.reveal())


def _scrubbed(text: str, secrets: Keys | None) -> str:
    for secret in secrets.reveal() if secrets is not None else ():
        text = text.replace(secret, "***")
    return text


def _all_of(error: BaseException) -> str | None:
    """An error's message, arguments and attributes (notes included), if all can be read."""
    try:
        for name in _FACTS:
            getattr(error, name, None)
        return f"{error} {error.args!r} {vars(error)!r}"
    except BaseException as raised:
        heed(raised)
    return None


def _is_of_http(error: BaseException) -> bool:
    try:
        held = [getattr(error, name, None) for name in ("request", "response")]
    except BaseException as raised:  # a property, which httpx has raise where there is no request
        heed(raised)
        return True
    package = type(error).__module__.partition(".")[0]
    return package in _HTTP_PACKAGES or held != [None, None]


def _is_specific(error: BaseException) -> bool:
    """Whether an error has a status or a category, or is about a connection or a timeout."""
    return (
        status_of(error) is not None
        or fact(error, "category") is not None
        or isinstance(error, ConnectionError | TimeoutError)
        or any(word in type(error).__name__ for word in ("Connection", "Timeout"))
    )
