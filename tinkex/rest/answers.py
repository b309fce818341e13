"""What an HTTP answer says, and the error for one that says something else than it should."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import ApiResponseError, ApiStatusError
from .pages import whole

#: How many characters of a server's text go into a message.
MAX_DETAIL = 200

_SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)


class Answer(NamedTuple):
    """An HTTP answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def object_of(answer: Answer) -> dict[str, Any] | None:
    """Return the JSON object in an answer, if there is one."""
    found = _parsed(answer.body)
    return found if isinstance(found, dict) else None


def misfit_of(answer: Answer, where: str, scrub: Callable[[str], str]) -> ApiResponseError:
    """Make the error for an answer that does not hold what it should, without its secrets."""
    found = _parsed(answer.body)
    kind = answer.headers.get("Content-Type", "no content type")
    problem = "JSON (is a proxy in between?)" if found is None else "a JSON object with runs"
    problem = problem if isinstance(found, dict | None) else "a JSON object"
    begins = shortened(scrub(f"{kind}: {_beginning(answer.body)}"))
    return ApiResponseError(f"{where}: the answer is not {problem}; {begins}")


def status_error(answer: Answer, where: str, scrub: Callable[[str], str]) -> ApiStatusError:
    """Make the error for an answer whose status is not 2xx, without its secrets."""
    if 300 <= answer.status < 400:
        target = answer.headers.get("Location", "nowhere")
        detail = f"redirects are not followed; this one leads to {target}"
    else:
        detail = _detail(answer.body)
    return ApiStatusError.of(
        answer.status,
        shortened(scrub(detail)),
        where=where,
        retry_after=_retry_after(answer.headers),
    )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_int=whole)
    except (ValueError, RecursionError):
        return None


def _beginning(body: bytes) -> str:
    # More than is shown: white space is still to be removed.
    return body[: 4 * MAX_DETAIL].decode("utf-8", "replace")


def _detail(body: bytes) -> str:
    found = _parsed(body)
    if isinstance(found, dict):
        for name in ("detail", "message", "error"):
            if found.get(name):
                return _explained(found[name])
    return _beginning(body)


def _explained(detail: Any) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, Mapping) and isinstance(detail.get("message"), str):
        return str(detail["message"])
    rows = detail if isinstance(detail, list) else []
    problems = [each for each in rows if isinstance(each, Mapping) and "msg" in each]
    if problems:
        return "; ".join(f"{_place(each)}{each['msg']}" for each in problems)
    return json.dumps(detail)


def _place(problem: Mapping[str, Any]) -> str:
    place = problem.get("loc")
    return f"{'.'.join(map(str, place))}: " if isinstance(place, list) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = moment_of(text)
    if until is None:
        return None
    # Use the server's clock if it sends a date: the local one may be wrong.
    now = moment_of(headers.get("Date", "")) or datetime.now(UTC)
    return max((until - now).total_seconds(), 0.0)


@lru_cache(64)
def moment_of(text: str) -> datetime | None:
    """The moment that a header names, `None` where it names none."""
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def shortened(text: str) -> str:
    """A text as one line, of `MAX_DETAIL` characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_DETAIL else f"{line[: MAX_DETAIL - 1]}…"
