"""Reads request bodies and writes answers, in JSON or, for newer clients, in protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..engine.model import AdamSettings, Example, LossReport
from ..engine.records import Refusal
from ..engine.training import IMPORTANCE_SAMPLING, ForwardBackward

#: The media type of protobuf bodies.
PROTOBUF = "application/x-protobuf"
#: The API's name for the records of a loss function's output.
OUTPUT_TYPE = "ArrayRecord"

_WIDTHS: Mapping[int, type[np.generic]] = {1: np.float32, 2: np.int64, 3: np.int32}


class Body:
    """A JSON object whose fields are read by name and type; a wrong type is a `Refusal`."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def text(self, name: str) -> str:
        """Read a required string."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise Refusal(422, f"field {name!r} must be a string", early=True)
        return value

    def optional_text(self, name: str) -> str | None:
        """Read a string that may be missing or null."""
        return None if self.fields.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        """Read a required whole number."""
        value = self.fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Refusal(422, f"field {name!r} must be an integer", early=True)
        return value

    def optional_integer(self, name: str) -> int | None:
        """Read a whole number that may be missing or null."""
        return None if self.fields.get(name) is None else self.integer(name)

    def number(self, name: str, default: float) -> float:
        """Read a number that may be missing or null."""
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Refusal(422, f"field {name!r} must be a number", early=True)
        return float(value)

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """Read an object that may be missing or null."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise Refusal(422, f"field {name!r} must be an object", early=True)
        return value


async def read_json(request: Request) -> Body:
    """Read the body of `request` as a JSON object."""
    return Body(_parsed(await _plain_body(request)))


async def forward_request(request: Request) -> tuple[str, int | None, ForwardBackward]:
    """Read a forward or forward-backward request: its run, its sequence number, the work."""
    body = await _plain_body(request)
    try:
        if request.headers.get("content-type", "").startswith(PROTOBUF):
            return _from_protobuf(body)
        return _from_json(_parsed(body))
    except (KeyError, TypeError, ValueError) as error:
        detail = f"cannot read the batch: {type(error).__name__}: {error}"
        raise Refusal(422, detail, early=True) from error


def adam_settings(body: Body) -> AdamSettings:
    """Read the hyperparameters of an optimizer step."""
    given = body.mapping("adam_params")
    if given is None:
        raise Refusal(422, "only Adam is supported: adam_params is missing", early=True)
    values = {name: given.get(name) for name in AdamSettings.__dataclass_fields__}
    for name, value in values.items():
        if not isinstance(value, int | float | None):
            raise Refusal(422, f"adam_params.{name} must be a number", early=True)
    return AdamSettings(**{name: float(one) for name, one in values.items() if one is not None})


def loss_response(report: LossReport, request: Request) -> Response:
    """Answer with a loss report, in protobuf if the client asks for it."""
    metrics = {"loss:sum": report.loss_sum, "weights:sum": report.weight_sum}
    if PROTOBUF in request.headers.get("accept", ""):
        return Response(_to_protobuf(report, metrics), media_type=PROTOBUF)
    outputs = [
        {"logprobs": {"data": found.tolist(), "dtype": "float32", "shape": [len(found)]}}
        for found in report.logprobs
    ]
    answer = {
        "loss_fn_output_type": OUTPUT_TYPE,
        "loss_fn_outputs": outputs,
        "metrics": metrics,
    }
    return JSONResponse(answer)


def refusal_response(refusal: Refusal) -> Response:
    """Answer with an HTTP error."""
    if refusal.plain:
        return PlainTextResponse(str(refusal.detail), refusal.status)
    return JSONResponse({"detail": refusal.detail}, refusal.status)


async def _plain_body(request: Request) -> bytes:
    body = await request.body()
    if request.headers.get("content-encoding", "") == "zstd":
        # Installed with the SDK; only its clients send this encoding.
        import zstandard  # noqa: PLC0415

        # Unlike decompress() this needs no content size in the frame's header.
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal(422, f"the body is not JSON: {error}", early=True) from error
    if not isinstance(fields, dict):
        raise Refusal(422, "the body must be a JSON object", early=True)
    return fields


def _from_json(fields: Mapping[str, Any]) -> tuple[str, int | None, ForwardBackward]:
    body = Body(fields)
    backward = "forward_backward_input" in fields
    work = fields["forward_backward_input" if backward else "forward_input"]
    loss_fn = str(work["loss_fn"])
    batch = tuple(
        _example(
            [token for chunk in datum["model_input"]["chunks"] for token in chunk["tokens"]],
            {name: tensor["data"] for name, tensor in datum["loss_fn_inputs"].items()},
            loss_fn,
        )
        for datum in work["data"]
    )
    operation = ForwardBackward(batch=batch, loss_fn=loss_fn, backward=backward)
    return body.text("model_id"), body.optional_integer("seq_id"), operation


def _from_protobuf(body: bytes) -> tuple[str, int | None, ForwardBackward]:
    # The message classes are the SDK's; a server without the SDK supports only JSON.
    from tinker.proto import tinker_public_pb2 as messages  # noqa: PLC0415

    message = messages.ForwardBackwardRequest.FromString(body)
    batch = tuple(
        _example(
            [
                token
                for chunk in datum.model_input
                for token in np.frombuffer(chunk.encoded_text.tokens, dtype=np.int32).tolist()
            ],
            {name: _tensor(tensor) for name, tensor in datum.loss_fn_inputs.items()},
            message.loss_fn,
        )
        for datum in message.data
    )
    backward = not message.forward_only
    operation = ForwardBackward(batch=batch, loss_fn=message.loss_fn, backward=backward)
    return message.model_id, message.seq_id or None, operation


def _tensor(message: Any) -> NDArray[Any]:
    if message.HasField("sparse_csr"):
        raise ValueError("sparse tensors are not supported")
    return np.frombuffer(message.dense, dtype=_WIDTHS[message.dtype])


def _example(tokens: list[int], inputs: Mapping[str, Any], loss_fn: str) -> Example:
    targets = np.asarray(inputs["target_tokens"], dtype=np.int64)
    is_sampled = loss_fn == IMPORTANCE_SAMPLING
    weights = inputs["advantages"] if is_sampled else inputs.get("weights")
    return Example(
        tokens=np.asarray(tokens, dtype=np.int64),
        targets=targets,
        weights=np.ones(targets.shape) if weights is None else np.asarray(weights, np.float64),
        sampled=np.asarray(inputs["logprobs"], np.float64) if is_sampled else None,
    )


def _to_protobuf(report: LossReport, metrics: Mapping[str, float]) -> bytes:
    from tinker.proto import tinker_public_pb2 as messages  # noqa: PLC0415

    arrays = [found.astype(np.float32) for found in report.logprobs]
    offsets = np.cumsum([0, *(array.nbytes for array in arrays)], dtype=np.int64)
    logprobs = messages.BatchedTensor(
        data=b"".join(array.tobytes() for array in arrays),
        offsets=offsets.tobytes(),
        dtype=messages.DTYPE_FLOAT32,
    )
    record = messages.ArrayRecord(
        type_tag=OUTPUT_TYPE, fields={"logprobs": logprobs}, num_datums=len(arrays)
    )
    message = messages.ForwardBackwardOutput(
        loss_fn_output_type=OUTPUT_TYPE, loss_fn_outputs=[record], metrics=metrics
    )
    encoded: bytes = message.SerializeToString()
    return encoded
