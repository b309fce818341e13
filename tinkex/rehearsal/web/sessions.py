"""The routes of sessions: to begin one, keep it alive, end it, and to find it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..engine.records import Refusal
from ..engine.runs import Session, isoformat
from ..engine.state import State
from .catalog import MOST_RUNS, RUNS_PAGE, page_of
from .gate import owner_of
from .wire import Body, read_json

#: Rows of a page of a search if the request has no limit, and the most.
SEARCH_PAGE = 50
MOST_FOUND = 200
#: The project of all sessions.
PROJECT = "rehearsal"


class SessionRoutes:
    """The handlers of these routes, and the table of the routes.

    Threads: all handlers run on the server's thread.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def table(self) -> list[Route]:
        """List the routes."""
        posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "create_session": self._create,
            "session_heartbeat": self._heartbeat,
            "sessions/search": self._search,
            "sessions/{session_id}/finish": self._finish,
        }
        gets = {"sessions": self._list, "sessions/{session_id}": self._get}
        return [
            *(Route(f"/api/v1/{path}", do, methods=["POST"]) for path, do in posts.items()),
            *(Route(f"/api/v1/{path}", do, methods=["GET"]) for path, do in gets.items()),
        ]

    async def _create(self, request: Request) -> Response:
        body = await read_json(request)
        session = self._state.open_session(
            owner_of(request),
            display_name=body.optional_text("display_name"),
            user_metadata=body.mapping("user_metadata"),
        )
        return JSONResponse({"type": "create_session", "session_id": session.session_id})

    async def _heartbeat(self, request: Request) -> Response:
        body = await read_json(request)
        session = self._state.session_of(owner_of(request), body.text("session_id"))
        with self._state.changed:
            session.check(finished_status=410)
        return JSONResponse({"type": "session_heartbeat"})

    async def _finish(self, request: Request) -> Response:
        body = await read_json(request)
        session = self._state.session_of(owner_of(request), request.path_params["session_id"])
        with self._state.changed:
            reason = body.mapping("reason") or {"type": "success"}
            session.finish(reason, body.optional_text("detail"))
        return JSONResponse({})

    async def _list(self, request: Request) -> Response:
        with self._state.changed:
            mine = [one.session_id for one in self._sessions_of(owner_of(request))]
        page, _ = page_of(request, mine, default=RUNS_PAGE, most=MOST_RUNS)
        return JSONResponse({"sessions": page})

    async def _get(self, request: Request) -> Response:
        session = self._state.session_of(owner_of(request), request.path_params["session_id"])
        with self._state.changed:
            run_ids, sampler_ids = list(session.run_ids), list(session.sampler_ids)
        return JSONResponse({"training_run_ids": run_ids, "sampler_ids": sampler_ids})

    async def _search(self, request: Request) -> Response:
        body = await read_json(request)
        limit = body.optional_integer("limit")
        limit = SEARCH_PAGE if limit is None else limit
        if not 1 <= limit <= MOST_FOUND:
            raise Refusal(422, f"limit must be from 1 to {MOST_FOUND}, not {limit}", early=True)
        with self._state.changed:
            found = [one for one in self._sessions_of(owner_of(request)) if _is_wanted(one, body)]
            found.sort(key=_place, reverse=True)
            found = [one for one in found if _is_after(one, body.mapping("cursor"))]
            rows = [self._summary(one) for one in found[:limit]]
        last = rows[-1] if len(found) > limit else None
        cursor = last and {
            "last_created_at": last["created_at"],
            "last_session_id": last["session_id"],
        }
        return JSONResponse({"sessions": rows, "next_cursor": cursor})

    def _sessions_of(self, owner: str) -> list[Session]:
        sessions = self._state.sessions.values()
        return [one for one in sessions if one.owner == owner and one.end != "gone"]

    def _summary(self, session: Session) -> dict[str, Any]:
        runs = [self._state.runs[run_id] for run_id in session.run_ids]
        saved = [one for run in runs for one in run.checkpoints.values()]
        return {
            "session_id": session.session_id,
            "created_at": isoformat(session.created),
            "owner": session.owner,
            "project_id": PROJECT,
            "status": dict(session.status),
            "checkpoints_count": len(saved),
            "display_name": session.display_name,
            "user_metadata": session.user_metadata,
            "checkpoint_storage_bytes": sum(one.size_bytes for one in saved),
        }


def _is_wanted(session: Session, body: Body) -> bool:
    """Whether a session is one of those that a search asks for."""
    session_id, name = body.optional_text("session_id"), body.optional_text("display_name")
    named = [] if session_id is None else [session.session_id == session_id]
    if name is not None:
        own = (session.display_name or "").lower()
        named.append(all(word in own for word in name.lower().split()))
    own_data = session.user_metadata or {}
    wanted = (body.mapping("user_metadata") or {}).items()
    return (
        (any(named) or not named)
        and all(own_data.get(key) == value for key, value in wanted)
        and _has_status(session, body.fields.get("statuses"))
    )


def _has_status(session: Session, statuses: Any) -> bool:
    if statuses is None:
        return True
    reason = session.status.get("reason", {}).get("type")
    return any(
        each.get("type") == session.status["type"] and reason in (each.get("reasons") or [reason])
        for each in statuses
    )


def _place(session: Session) -> tuple[datetime, str]:
    return session.created, session.session_id


def _is_after(session: Session, cursor: Mapping[str, Any] | None) -> bool:
    """Whether a session comes after the page that a cursor ends, in the order of newest first."""
    if cursor is None:
        return True
    try:
        last = datetime.fromisoformat(cursor["last_created_at"]), str(cursor["last_session_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(422, f"the cursor cannot be read: {error}", early=True) from error
    return _place(session) < last
