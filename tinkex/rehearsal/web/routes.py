"""The routes of training: they pass HTTP requests to the backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..engine.backend import BASE_MODEL, Backend, Pending
from ..engine.model import LossReport
from ..engine.records import Refusal
from ..engine.runs import SAMPLER, TRAINING
from ..engine.sampling import CONTEXT, SampleReport
from ..engine.state import State
from ..engine.training import LoadWeights, Operation, OptimStep, Publish, SaveWeights, UnloadModel
from .gate import owner_of
from .sampling import sample_response
from .wire import adam_settings, forward_request, loss_response, read_json, refusal_response

#: How long a request for an open future waits for its result, in seconds.
LONG_POLL = 20.0
#: The interval at which clients ask for the dynamic flags again, in seconds.
REFRESH_INTERVAL = 300
#: The answer for a failed future: an HTTP error status, or 200 with an `error` in the body.
FutureStyle = Literal["status", "answer"]


class TrainingRoutes:
    """The handlers of training and of its futures, and the table of the routes.

    Threads: all handlers run on the server's thread.
    """

    def __init__(
        self,
        backend: Backend,
        state: State,
        *,
        client_config: Mapping[str, Any],
        future_style: FutureStyle,
        closing: asyncio.Event,
    ) -> None:
        self._backend = backend
        self._state = state
        self._client_config = client_config
        self._future_style = future_style
        self._closing = closing

    def table(self) -> list[Route]:
        """List the routes."""
        posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "client/config": self._config,
            "client/dynamic_config": self._dynamic_config,
            "telemetry": self._telemetry,
            "create_model": self._create_model,
            "get_info": self._get_info,
            "forward": self._forward_backward,
            "forward_backward": self._forward_backward,
            "optim_step": self._optim_step,
            "save_weights": self._save_weights,
            "save_weights_for_sampler": self._save_weights_for_sampler,
            "load_weights": self._load_weights,
            "unload_model": self._unload_model,
            "retrieve_future": self._retrieve_future,
        }
        gets = {"healthz": self._health, "get_server_capabilities": self._capabilities}
        return [
            *(Route(f"/api/v1/{path}", do, methods=["POST"]) for path, do in posts.items()),
            *(Route(f"/api/v1/{path}", do, methods=["GET"]) for path, do in gets.items()),
        ]

    # The server

    async def _config(self, request: Request) -> Response:
        return JSONResponse(dict(self._client_config))

    async def _dynamic_config(self, request: Request) -> Response:
        return JSONResponse({"refresh_interval_sec": REFRESH_INTERVAL})

    async def _telemetry(self, request: Request) -> Response:
        return JSONResponse({"status": "accepted"})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _capabilities(self, request: Request) -> Response:
        model = {
            "model_name": BASE_MODEL,
            "max_context_length": CONTEXT,
            "capabilities": ["training", "sampling"],
        }
        return JSONResponse({"supported_models": [model]})

    # Training

    async def _create_model(self, request: Request) -> Response:
        body = await read_json(request)
        return _promised(
            self._backend.create_model(
                owner_of(request),
                body.text("session_id"),
                body.integer("model_seq_id"),
                base_model=body.text("base_model"),
                lora_config=body.mapping("lora_config") or {"rank": 32},
                user_metadata=body.mapping("user_metadata"),
            )
        )

    async def _load_weights(self, request: Request) -> Response:
        body = await read_json(request)
        load = LoadWeights(path=body.text("path"), optimizer=bool(body.fields.get("optimizer")))
        session_id = body.optional_text("session_id")
        if session_id is None:
            sequence = body.optional_integer("seq_id")
            return self._submitted(request, body.text("model_id"), sequence, load)
        return _promised(
            self._backend.create_from_weights(
                owner_of(request),
                session_id,
                body.integer("model_seq_id"),
                load,
                base_model=body.optional_text("base_model"),
                user_metadata=body.mapping("user_metadata"),
            )
        )

    async def _get_info(self, request: Request) -> Response:
        body = await read_json(request)
        run = self._state.run_of(owner_of(request), body.text("model_id"))
        self._state.live_session_of(run.owner, run.session_id)
        names = {"model_name": run.base_model, "tokenizer_id": run.base_model}
        return JSONResponse(
            {
                "type": None,
                "model_data": {"arch": "bigram", **names},
                "model_id": run.run_id,
                "is_lora": True,
                "lora_rank": run.lora_config["rank"],
                "model_name": run.base_model,
            }
        )

    async def _forward_backward(self, request: Request) -> Response:
        run_id, sequence, work = await forward_request(request)
        return self._submitted(request, run_id, sequence, work)

    async def _optim_step(self, request: Request) -> Response:
        body = await read_json(request)
        work = OptimStep(adam=adam_settings(body))
        return self._submitted(
            request, body.text("model_id"), body.optional_integer("seq_id"), work
        )

    async def _save_weights(self, request: Request) -> Response:
        return await self._save(request, TRAINING)

    async def _save_weights_for_sampler(self, request: Request) -> Response:
        return await self._save(request, SAMPLER)

    async def _save(self, request: Request, kind: str) -> Response:
        body = await read_json(request)
        number = body.optional_integer("sampling_session_seq_id")
        if kind == SAMPLER and number is not None:
            return self._submitted(
                request,
                body.text("model_id"),
                body.optional_integer("seq_id"),
                Publish(number=number),
            )
        work = SaveWeights(
            kind=kind,
            name=body.optional_text("path"),
            ttl_seconds=body.optional_integer("ttl_seconds"),
            overwrite=bool(body.fields.get("overwrite")),
            user_metadata=body.mapping("user_metadata"),
        )
        return self._submitted(
            request, body.text("model_id"), body.optional_integer("seq_id"), work
        )

    async def _unload_model(self, request: Request) -> Response:
        body = await read_json(request)
        return self._submitted(request, body.text("model_id"), None, UnloadModel())

    def _submitted(
        self, request: Request, run_id: str, sequence: int | None, work: Operation
    ) -> Response:
        return _promised(self._backend.submit(owner_of(request), run_id, sequence, work))

    async def _retrieve_future(self, request: Request) -> Response:
        body = await read_json(request)
        pending = self._backend.future(owner_of(request), body.text("request_id"))
        await self._first_of(pending.settled, self._closing)
        pending.fetched = pending.outcome is not None
        match pending.outcome:
            case None:
                again = {"type": "try_again", "request_id": pending.request_id}
                return JSONResponse({**again, "queue_state": "active"}, 408)
            case Refusal() as refusal:
                if self._future_style == "answer":
                    return JSONResponse({"error": str(refusal.detail), "category": "server"})
                return refusal_response(refusal)
            case LossReport() as report:
                return loss_response(report, request)
            case SampleReport() as report:
                return sample_response(report, request)
            case answer:
                return JSONResponse(dict(answer))

    async def _first_of(self, *events: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=LONG_POLL, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _promised(pending: Pending) -> Response:
    return JSONResponse({"request_id": pending.request_id, "model_id": pending.source_id})
