"""The routes that list and describe runs and checkpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..engine.records import Refusal
from ..engine.runs import Checkpoint
from ..engine.state import State
from ..engine.store import CheckpointStore
from .gate import owner_of
from .wire import read_json

#: Rows of a page if the request has no limit, for runs and for checkpoints.
RUNS_PAGE = 20
CHECKPOINTS_PAGE = 100
#: A request for more rows than this is refused.
MOST_RUNS = 500
MOST_CHECKPOINTS = 1000

_RUN = "/api/v1/training_runs/{run_id}"
_Row = TypeVar("_Row")


class CatalogRoutes:
    """The handlers of these routes, and the table of the routes.

    Threads: all handlers run on the server's thread.
    """

    def __init__(self, state: State, store: CheckpointStore) -> None:
        self._state = state
        self._store = store

    def table(self) -> list[Route]:
        """List the routes."""
        gets: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/api/v1/checkpoints": self._checkpoints,
            "/api/v1/training_runs": self._runs,
            _RUN: self._run,
            f"{_RUN}/checkpoints": self._run_checkpoints,
        }
        one = f"{_RUN}/checkpoints/{{checkpoint_id:path}}"
        return [
            *(Route(path, do, methods=["GET"]) for path, do in gets.items()),
            Route("/api/v1/weights_info", self._weights_info, methods=["POST"]),
            Route(f"{one}/ttl", self._set_ttl, methods=["PUT"]),
            Route(one, self._delete_checkpoint, methods=["DELETE"]),
        ]

    async def _runs(self, request: Request) -> Response:
        with self._state.changed:
            runs = self._state.runs_of(owner_of(request))
            page, cursor = page_of(request, runs, default=RUNS_PAGE, most=MOST_RUNS)
            rows = [run.to_json() for run in page]
        return JSONResponse({"training_runs": rows, "cursor": cursor})

    async def _run(self, request: Request) -> Response:
        with self._state.changed:
            run = self._state.run_of(owner_of(request), request.path_params["run_id"])
            answer = run.to_json()
        return JSONResponse(answer)

    async def _run_checkpoints(self, request: Request) -> Response:
        with self._state.changed:
            run = self._state.run_of(owner_of(request), request.path_params["run_id"])
            saved = list(run.checkpoints.values())
            # Oldest first and in pages: the newest checkpoint may be on a later page.
            page, cursor = page_of(request, saved, default=CHECKPOINTS_PAGE, most=MOST_CHECKPOINTS)
            rows = [one.to_json() for one in page]
        return JSONResponse({"checkpoints": rows, "cursor": cursor})

    async def _checkpoints(self, request: Request) -> Response:
        with self._state.changed:
            runs = self._state.runs_of(owner_of(request))
            saved = [one for run in runs for one in run.checkpoints.values()]
            saved.sort(key=lambda one: one.time, reverse=True)
            page, cursor = page_of(request, saved, default=CHECKPOINTS_PAGE, most=MOST_CHECKPOINTS)
            rows = [one.to_json() for one in page]
        return JSONResponse({"checkpoints": rows, "cursor": cursor})

    async def _weights_info(self, request: Request) -> Response:
        body = await read_json(request)
        run_id = body.text("tinker_path").removeprefix("tinker://").split("/")[0]
        run = self._state.run_of(owner_of(request), run_id)
        # From the run alone: as real servers do, this describes missing checkpoints too.
        config = run.lora_config
        parts = ("train_unembed", "train_mlp", "train_attn")
        return JSONResponse(
            {
                "base_model": run.base_model,
                "is_lora": True,
                "lora_rank": config["rank"],
                **{part: config.get(part) for part in parts},
            }
        )

    async def _set_ttl(self, request: Request) -> Response:
        body = await read_json(request)
        with self._state.changed:
            self._checkpoint(request).keep_for(body.optional_integer("ttl_seconds"))
        return JSONResponse({})

    async def _delete_checkpoint(self, request: Request) -> Response:
        with self._state.changed:
            run = self._state.run_of(owner_of(request), request.path_params["run_id"])
            path = self._checkpoint(request).tinker_path
            del run.checkpoints[path]
        self._store.delete(path)
        return Response(status_code=204)

    def _checkpoint(self, request: Request) -> Checkpoint:
        run = self._state.run_of(owner_of(request), request.path_params["run_id"])
        given = request.path_params["checkpoint_id"]
        for one in run.checkpoints.values():
            if given in (one.name, f"{one.kind}/{one.name}"):
                return one
        raise Refusal(404, "Checkpoint not found", early=True)


def page_of(
    request: Request, rows: Sequence[_Row], *, default: int, most: int
) -> tuple[Sequence[_Row], dict[str, int]]:
    """The page of `rows` that a request asks for, and the cursor of the answer."""
    limit = _number(request, "limit", default, least=1, most=most)
    offset = _number(request, "offset", 0, least=0, most=None)
    cursor = {"offset": offset, "limit": limit, "total_count": len(rows)}
    return rows[offset : offset + limit], cursor


def _number(request: Request, name: str, default: int, *, least: int, most: int | None) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        raise _invalid(name, text, "int_parsing", "Input should be a valid integer") from None
    if number < least:
        bound = f"Input should be greater than or equal to {least}"
        raise _invalid(name, text, "greater_than_equal", bound, ge=least)
    if most is not None and number > most:
        bound = f"Input should be less than or equal to {most}"
        raise _invalid(name, text, "less_than_equal", bound, le=most)
    return number


def _invalid(name: str, text: str, kind: str, message: str, **bound: int) -> Refusal:
    problem: dict[str, Any] = {"type": kind, "loc": ["query", name], "msg": message, "input": text}
    if bound:
        problem["ctx"] = bound
    return Refusal(422, [problem], early=True)
