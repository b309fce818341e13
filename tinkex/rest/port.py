"""One request of a sweep: asked of any rest module, its answer checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..errors import ApiResponseError, apart_from_outer
from ..types import TrainingRun

__all__ = ["PAGE_SIZE", "ask_page", "ask_run"]

#: How many runs are asked for in one page.
PAGE_SIZE = 100


def ask_run(
    rest: Any, config: Config | None, run_id: str, options: Mapping[str, Any]
) -> TrainingRun:
    """Ask for one run.

    Raises:
        ApiResponseError: The answer does not fit, or is about another run.
        Exception: What the rest module raises.
    """
    with apart_from_outer():
        run = TrainingRun.from_json(rest.get_training_run(config, run_id, **options))
    if run.training_run_id != run_id:
        raise ApiResponseError(f"asked for run {run_id!r}, told of {run.training_run_id!r}")
    return run


def ask_page(
    rest: Any, config: Config | None, offset: int, limit: int, options: Mapping[str, Any]
) -> tuple[list[tuple[str, Any]], int | None]:
    """Ask for a page; return its rows by run id, as the server sent them, and the total.

    Raises:
        ApiResponseError: The answer is no page.
        Exception: What the rest module raises.
    """
    page = rest.list_training_runs(config, limit=limit, offset=offset, **options)
    rows = getattr(page, "rows", None)
    if rows is None:
        rows = getattr(page, "training_runs", None)
    if not isinstance(rows, list | tuple):
        raise ApiResponseError(f"a page of runs was expected, not {type(page).__name__}")
    total = getattr(page, "total_count", None)
    return [(_id_of(row), row) for row in rows], total if isinstance(total, int) else None


def _id_of(row: Any) -> str:
    """A row's run id; a row that has none costs only itself."""
    found = row.get("training_run_id") if type(row) is dict else None
    if found is None:
        found = getattr(row, "training_run_id", None)
    return found if isinstance(found, str) else ""
