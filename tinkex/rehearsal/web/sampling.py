"""The routes of sampling clients, and how samples are written."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..engine.backend import Backend
from ..engine.records import Refusal
from ..engine.sampling import SampleReport, SampleRequest, Samplers, SamplingSettings
from .gate import owner_of
from .wire import PROTOBUF, Body, read_json

#: The most samples of one request.
MOST_SAMPLES = 1024
#: What the official SDK can ask for, and this server does not do.
_UNSUPPORTED = (
    "topk_prompt_logprobs",
    "topk_sample_logprobs",
    "target_prompt_logprobs",
    "prompt_alt_tokens_k",
)


class SamplingRoutes:
    """The handlers of these routes, and the table of the routes.

    Threads: all handlers run on the server's thread.
    """

    def __init__(self, backend: Backend, samplers: Samplers) -> None:
        self._backend = backend
        self._samplers = samplers

    def table(self) -> list[Route]:
        """List the routes."""
        return [
            Route("/api/v1/create_sampling_session", self._create, methods=["POST"]),
            Route("/api/v1/asample", self._sample, methods=["POST"]),
            Route("/api/v1/samplers/{sampler_id}", self._sampler, methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        body = await read_json(request)
        sampler_id = self._samplers.load(
            owner_of(request),
            body.text("session_id"),
            body.integer("sampling_session_seq_id"),
            model_path=body.optional_text("model_path"),
            base_model=body.optional_text("base_model"),
        )
        made = {"type": "create_sampling_session", "sampling_session_id": sampler_id}
        return JSONResponse(made)

    async def _sample(self, request: Request) -> Response:
        body = await read_json(request)
        sampler_id, sequence = body.text("sampling_session_id"), body.optional_integer("seq_id")
        asked = _sample_request(body)
        pending = self._backend.sample(owner_of(request), sampler_id, sequence, asked)
        ids = [f"{pending.request_id}:{place}" for place in range(asked.count)]
        return JSONResponse({"request_id": pending.request_id, "sample_sequence_ids": ids})

    async def _sampler(self, request: Request) -> Response:
        sampler = self._samplers.find(owner_of(request), request.path_params["sampler_id"])
        return JSONResponse(
            {
                "sampler_id": sampler.sampler_id,
                "base_model": sampler.base_model,
                "model_path": sampler.model_path,
            }
        )


def sample_response(report: SampleReport, request: Request) -> Response:
    """Answer with samples, in protobuf if the client asks for it."""
    if PROTOBUF in request.headers.get("accept", ""):
        return Response(_to_protobuf(report), media_type=PROTOBUF)
    sequences = [
        {
            "stop_reason": "stop" if one.is_stopped else "length",
            "tokens": one.tokens.tolist(),
            "logprobs": one.logprobs.tolist(),
        }
        for one in report.samples
    ]
    scores = report.prompt_logprobs
    prompt = None if scores is None else [None if np.isnan(one) else float(one) for one in scores]
    return JSONResponse({"type": "sample", "sequences": sequences, "prompt_logprobs": prompt})


def _sample_request(body: Body) -> SampleRequest:
    for name in _UNSUPPORTED:
        if body.fields.get(name):
            raise Refusal(400, f"{name} is not supported by a rehearsal server", early=True)
    prompt = _prompt(body)
    count = body.optional_integer("num_samples")
    count = 1 if count is None else count
    if not 1 <= count <= MOST_SAMPLES:
        detail = f"num_samples must be from 1 to {MOST_SAMPLES}, not {count}"
        raise Refusal(400, detail, early=True)
    scored = body.optional_integer("prompt_logprobs_last_n")
    return SampleRequest(
        prompt=np.asarray(prompt, dtype=np.int64),
        count=count,
        settings=_settings(Body(body.mapping("sampling_params") or {})),
        scored=(scored or len(prompt)) if body.fields.get("prompt_logprobs") else 0,
    )


def _prompt(body: Body) -> list[int]:
    try:
        chunks = (body.mapping("prompt") or {})["chunks"]
        prompt = [int(token) for chunk in chunks for token in chunk["tokens"]]
    except (KeyError, TypeError, ValueError) as error:
        detail = f"cannot read the prompt: {type(error).__name__}: {error}"
        raise Refusal(422, detail, early=True) from error
    if not prompt:
        raise Refusal(400, "the prompt is empty", early=True)
    return prompt


def _settings(given: Body) -> SamplingSettings:
    max_tokens = given.optional_integer("max_tokens")
    temperature, top_p = given.number("temperature", 1.0), given.number("top_p", 1.0)
    top_k = given.optional_integer("top_k")
    if (max_tokens is not None and max_tokens < 1) or temperature < 0.0 or not 0.0 < top_p <= 1.0:
        detail = "max_tokens must be 1 or more, temperature 0 or more, top_p above 0 and up to 1"
        raise Refusal(400, detail, early=True)
    return SamplingSettings(
        max_tokens=max_tokens,
        seed=given.optional_integer("seed"),
        temperature=temperature,
        top_k=-1 if top_k is None else top_k,
        top_p=top_p,
        stop=_stop(given.fields.get("stop")),
    )


def _stop(given: Any) -> frozenset[int]:
    stop = given or []
    if not isinstance(stop, list) or not all(isinstance(each, int) for each in stop):
        # There is no tokenizer here, and the model itself knows no end of a text.
        detail = "a rehearsal server has no tokenizer: stop must be a list of token ids"
        raise Refusal(400, detail, early=True)
    return frozenset(stop)


def _to_protobuf(report: SampleReport) -> bytes:
    # The message classes are the SDK's; a server without the SDK supports only JSON.
    from tinker.proto import tinker_public_pb2 as messages  # noqa: PLC0415

    sequences = [
        messages.SampledSequence(
            stop_reason=(
                messages.STOP_REASON_STOP if one.is_stopped else messages.STOP_REASON_LENGTH
            ),
            tokens=one.tokens.astype(np.int32).tobytes(),
            logprobs=one.logprobs.astype(np.float32).tobytes(),
        )
        for one in report.samples
    ]
    scores = report.prompt_logprobs
    prompt = b"" if scores is None else scores.astype(np.float32).tobytes()
    message = messages.SampleResponse(sequences=sequences, prompt_logprobs=prompt)
    encoded: bytes = message.SerializeToString()
    return encoded
