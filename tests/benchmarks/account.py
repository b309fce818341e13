"""The account that is polled: the ids of its runs, and their JSON rows on the server."""

from __future__ import annotations

import json

__all__ = ["KEY", "ROW_BYTES", "index_of", "row_of", "run_id", "tinker_path"]

#: The API key of every client.
KEY = "tml-benchmark-0123456789"

#: The length of a row: a run with two checkpoints and some metadata, as servers send it.
ROW_BYTES = 889


def run_id(index: int) -> str:
    """The id of a run, as long as real ones are."""
    return f"{index:08x}-820e-43a0-9e49-83dd4ad7c983:train:0"


def index_of(run: str) -> int | None:
    """The index of a run by its id; `None` if the account has no such run."""
    try:
        return int(run[:8], 16) if run[8:] == run_id(0)[8:] else None
    except ValueError:
        return None


def tinker_path(run: str, name: str = "000100") -> str:
    """The path of a training checkpoint of a run."""
    return f"tinker://{run}/weights/{name}"


def _template() -> str:
    """A row with marks for the id and the flag; with both filled in it is `ROW_BYTES` long."""
    row = {
        "training_run_id": "@ID",
        "base_model": "Qwen/Qwen3-8B",
        "model_owner": "alice",
        "is_lora": True,
        "corrupted": "@FLAG",
        "lora_rank": 32,
        "last_request_time": "2026-11-23T13:36:05.688655Z",
        "last_checkpoint": {
            "checkpoint_id": "000100",
            "checkpoint_type": "training",
            "time": "2026-11-23T13:36:05.650935Z",
            "tinker_path": "tinker://@ID/weights/000100",
            "size_bytes": 230644,
            "public": False,
            "expires_at": None,
        },
        "last_sampler_checkpoint": {
            "checkpoint_id": "000100",
            "checkpoint_type": "sampler",
            "time": "2026-11-23T13:36:05.650935Z",
            "tinker_path": "tinker://@ID/sampler_weights/000100",
            "size_bytes": 76881,
            "public": False,
            "expires_at": None,
        },
        "user_metadata": {"name": ""},
    }
    filled = _filled(json.dumps(row, separators=(",", ":")), run_id(0), corrupted=False)
    row["user_metadata"] = {"name": "x" * (ROW_BYTES - len(filled))}
    return json.dumps(row, separators=(",", ":"))


def _filled(template: str, run: str, *, corrupted: bool) -> str:
    flag = "true" if corrupted else "false"
    return template.replace('"@FLAG"', flag).replace("@ID", run)


_TEMPLATE = _template()


def row_of(run: str, *, corrupted: bool = False) -> bytes:
    """A run's row, as the server sends it."""
    return _filled(_TEMPLATE, run, corrupted=corrupted).encode()
