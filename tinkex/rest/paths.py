"""The paths of requests, and what may stand in them."""

from __future__ import annotations

import reprlib
from urllib.parse import quote

from ..config import Config

#: The longest run id or tinker path that is sent, in characters.
MAX_ID = 512

#: Where runs are.
RUNS = "/api/v1/training_runs"


def page_path(config: Config, limit: int, offset: int) -> str:
    """The path of a page of runs; `ValueError` if there can be no such page."""
    if not _is_whole(limit, least=1) or not _is_whole(offset, least=0):
        raise ValueError(f"limit should be 1 or more, offset 0 or more: {limit!r}, {offset!r}")
    path = f"{RUNS}?limit={limit}&offset={offset}&access_scope={config.access_scope}"
    if config.project_id is not None:
        path += f"&project_id={quote(config.project_id, safe='')}"
    return path


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_sendable(text: object) -> bool:
    """Whether a text can be sent as an id or a tinker path."""
    return isinstance(text, str) and 0 < len(text) <= MAX_ID and text.isprintable()


def checked_id(run_id: str) -> str:
    """A run id; `ValueError` if it could lead to another path."""
    if not is_sendable(run_id) or run_id in {".", ".."} or "/" in run_id or "\\" in run_id:
        raise ValueError(
            f"a run id is 1 to {MAX_ID} printable characters of text without slashes, "
            f"not {reprlib.repr(run_id)}"
        )
    return run_id


def quoted_id(run_id: str) -> str:
    """Quote a run id for a URL; `ValueError` if it could lead to another path."""
    return quote(checked_id(run_id), safe="")
