"""HTTP requests for one account: pooled connections, size limits, errors without secrets."""

from __future__ import annotations

import http.client
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3
import urllib3.exceptions
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import NewConnectionError

from ..config import Config, is_loopback
from ..config.secret import Secret, spellings
from ..errors import ApiConnectionError, ApiResponseError, ApiTimeoutError, RestError, causes
from .answers import Answer, shortened
from .sockets import BoundedAdapter, Call

#: The largest answer that is accepted, in bytes after decompression.
MAX_BODY_BYTES = 16 * 1024 * 1024

#: How much of an error's body is read, in bytes; only its beginning is shown.
MAX_ERROR_BYTES = 64 * 1024

#: Keys of at least this many characters are redacted in answers too: there they are echoes.
MIN_ECHO = 16

# How much is decompressed at a time, so that a huge answer is noticed before it fills memory.
_CHUNK_BYTES = 16 * 1024

_HEADERS = {"User-Agent": "tinkex", "Accept": "application/json"}

# A page of 100 runs shrinks from 97 to 12 KiB for 1 ms of CPU on both sides together: that is worth
# it on networks below about 1 Gbit/s, and not within one machine.
_ENCODINGS = "gzip, deflate"

_FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
_TIMEOUTS = (urllib3.exceptions.TimeoutError, TimeoutError)


class Account:
    """The pooled connections of one base URL and key.

    Proxies and certificates are read from the environment once, here. `name` is what it goes by,
    `calls` how many use it, `used_at` when the last one ended, in monotonic seconds; these belong
    to the `Accounts` that keep it.
    """

    def __init__(self, config: Config, name: bytes, *, max_connections: int) -> None:
        self.name = name
        self.calls = 0
        self.used_at = 0.0
        self._headers = Secret(_headers_of(config))
        self._secrets = Secret(spellings([config.require_key(), *(config.headers or {}).values()]))
        self._echoes = Secret(_echoes_of(config.require_key()))
        self._proxies = proxies_for(config.base_url)
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self._verify = bundle or True
        # Requests are sent to the pool itself: what `requests` does around it for any session takes
        # a third of the time, follows redirects with the key, and keeps cookies.
        self._adapter = BoundedAdapter(pool_maxsize=max_connections)
        self._pool: urllib3.HTTPConnectionPool | None = None

    def send(self, call: Call, method: str, url: str, body: bytes | None) -> Answer | RestError:
        """Make one request; errors are returned, not raised.

        A raised error would be chained to the HTTP library's error, which holds the key.
        """
        outer = sys.exception()
        outcome: Answer | RestError
        try:
            with call.under_way():
                outcome = self._exchange(call, self._prepared(method, url, body))
        except _FAILURES as error:
            outcome = self._failure(call, error, outer)
        except BaseException as error:  # an interrupt, or a bug
            # The HTTP library's stack frames hold the key, and so may what it dealt with just then.
            error.__context__, error.__cause__ = outer, None
            raise error.with_traceback(None)  # noqa: B904 (see above)
        return call.ended or outcome

    def scrub(self, text: str) -> str:
        """Replace every secret in `text` by `***`."""
        for secret in self._secrets.reveal():
            text = text.replace(secret, "***")
        return text

    def close(self) -> None:
        """Close the connections that no call uses."""
        self._adapter.close()

    def _prepared(self, method: str, url: str, body: bytes | None) -> requests.PreparedRequest:
        # Built by hand: `Session.request` would merge the same settings again for each request.
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body
        request.headers = self._headers.reveal()
        if body is not None:
            request.headers = request.headers.copy()
            request.headers["Content-Type"] = "application/json"
            request.headers["Content-Length"] = str(len(body))
        return request

    def _exchange(self, call: Call, request: requests.PreparedRequest) -> Answer | RestError:
        proxies = self._proxies
        if self._pool is None:
            self._pool = self._adapter.pool_for(request, self._verify, proxies)
        response: Any = self._pool.urlopen(
            request.method or "",
            self._adapter.request_url(request, proxies) if proxies else request.path_url,
            body=request.body,
            headers=request.headers,
            redirect=False,
            retries=False,
            assert_same_host=False,
            preload_content=False,
            timeout=urllib3.Timeout(connect=call.connect_wait(), read=call.read_wait()),
        )
        wanted = 200 <= response.status < 300
        limit = MAX_BODY_BYTES if wanted else MAX_ERROR_BYTES
        body = b""
        try:
            body = _read(response, limit)
        except _FAILURES:
            # The error status is reported even if its body cannot be read.
            if wanted:
                raise
        finally:
            response.close()
        if wanted and len(body) > limit:
            return ApiResponseError(f"{call.where}: the answer is larger than {limit} bytes")
        return Answer(response.status, response.headers, self._clean(body))

    def _clean(self, body: bytes) -> bytes:
        # A long key in an answer is an echo; a short one may be part of a normal word.
        for secret in self._echoes.reveal():
            body = body.replace(secret, b"***")
        return body

    def _failure(self, call: Call, error: Exception, outer: BaseException | None) -> RestError:
        if isinstance(error, urllib3.exceptions.DecodeError):
            return ApiResponseError(f"{call.where}: the answer cannot be decompressed")
        cause: BaseException = error
        for inner in causes(error):
            if inner is outer:
                break  # from here on it is the error that the caller was already handling
            # Older versions of urllib3 try an argument first that is refused with a `TypeError`.
            cause = inner if isinstance(inner, _FAILURES) else cause
        if call.left() <= 0 or _is_late(error) or _is_late(cause):
            return ApiTimeoutError(f"{call.where}: no complete answer came in time")
        reason = self.scrub(f"{type(cause).__name__}: {cause}")
        return ApiConnectionError(f"{call.where}: {shortened(reason)}")


def _is_late(error: BaseException) -> bool:
    # A connection that was refused counts as one that took too long, by its class.
    return isinstance(error, _TIMEOUTS) and not isinstance(error, NewConnectionError)


def _headers_of(config: Config) -> CaseInsensitiveDict[str]:
    headers = CaseInsensitiveDict(_HEADERS)
    headers["Accept-Encoding"] = "identity" if _is_here(config.base_url) else _ENCODINGS
    headers.update(config.headers or {})
    headers["X-API-Key"] = config.require_key()
    return headers


def _echoes_of(key: str) -> list[bytes]:
    return [each.encode() for each in spellings([key])] if len(key) >= MIN_ECHO else []


def proxies_for(base_url: str) -> dict[str, str]:
    """The proxies of the environment for a base URL; none for this machine's own servers.

    A proxy could not reach those, and would see the key.
    """
    if _is_here(base_url):
        return {}
    found: dict[str, str] = requests.utils.get_environ_proxies(base_url)
    return found


def _is_here(base_url: str) -> bool:
    return is_loopback(urlsplit(base_url).hostname or "")


def _read(response: urllib3.HTTPResponse, limit: int) -> bytes:
    # Older versions of urllib3 accept an answer that ends too early, unless told not to.
    response.enforce_content_length = True
    # Decompressed, piece by piece, is what was asked for: other ways may make far more of a piece.
    encoding = response.headers.get("Content-Encoding", "").lower().removeprefix("x-")
    is_packed = encoding in _ENCODINGS.split(", ")
    step = _CHUNK_BYTES if is_packed else limit + 1
    chunks = []
    size = 0
    while size <= limit and (chunk := response.read(step, decode_content=is_packed)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)
