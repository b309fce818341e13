"""The account that is polled: the ids of its runs, and their JSON rows on the server.

Rows are what the hosted service sends: both checkpoints with an expiry, the step and the position
in the data in the newest one's metadata, and metadata of the run. At each sweep the last request of
every run is a later one, and one run in `NEWS_EVERY` has saved; one in `ODD_EVERY` has an
unexpected value.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache

__all__ = [
    "KEY",
    "MARK",
    "NEWS_EVERY",
    "ODD_EVERY",
    "index_of",
    "row_of",
    "run_id",
    "savers",
    "tinker_path",
]

#: The API key of every client.
KEY = "tml-benchmark-0123456789"

#: One row in so many has a new checkpoint at each sweep.
NEWS_EVERY = 20

#: One row in so many has a field of `_ODD` in place of its own.
ODD_EVERY = 1000

#: Stands in a row for the time of day of the run's last request, which is filled in at each answer.
MARK = b"HH:MM:SS"

#: How long a checkpoint is kept.
LIFETIME = timedelta(days=7)

_FORM = "%Y-%m-%dT%H:%M:%S.%fZ"
_BEGAN = datetime.now(UTC).replace(microsecond=650935)

#: Odd values: the part of a row, where it is not the row itself; the field; the value.
_ODD = (
    ("", "lora_rank", "32"),
    ("last_checkpoint", "size_bytes", 230644.5),
    ("last_sampler_checkpoint", "expires_at", "never"),
    ("", "user_metadata", ["alice"]),
    ("last_checkpoint", "public", "no"),
    ("", "is_lora", None),
    ("last_checkpoint", "user_metadata", "000100"),
    ("", "base_model", {"name": "Qwen/Qwen3-8B"}),
)


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


def _template(odd: int | None = None) -> str:
    """A row as a format of `%`, with the `odd`th of the odd values."""
    saved = {
        "checkpoint_id": "weights/%(step)s",
        "checkpoint_type": "training",
        "time": "%(time)s",
        "tinker_path": "tinker://%(run)s/weights/%(step)s",
        "size_bytes": 230644,
        "public": False,
        "expires_at": "%(expiry)s",
        "user_metadata": {"tinkex_step": "%(step)s", "tinkex_data": '{"epoch":2,"row":%(step)s}'},
    }
    sampled = {
        **saved,
        "checkpoint_id": "sampler_weights/%(step)s",
        "checkpoint_type": "sampler",
        "tinker_path": "tinker://%(run)s/sampler_weights/%(step)s",
        "size_bytes": 76881,
        "user_metadata": None,
    }
    row = {
        "training_run_id": "%(run)s",
        "base_model": "Qwen/Qwen3-8B",
        "model_owner": "alice",
        "is_lora": True,
        "corrupted": "%(flag)s",
        "lora_rank": 32,
        "last_request_time": f"{_BEGAN:%Y-%m-%d}T{MARK.decode()}.688655Z",
        "last_checkpoint": saved,
        "last_sampler_checkpoint": sampled,
        "user_metadata": {"name": "sft", "dataset": "no_robots"},
    }
    if odd is not None:
        part, field, value = _ODD[odd]
        (row[part] if part else row)[field] = value
    return json.dumps(row, separators=(",", ":")).replace('"%(flag)s"', "%(flag)s")


_TEMPLATE = _template()
_ODD_TEMPLATES = [_template(odd) for odd in range(len(_ODD))]


def savers(sweep: int, first: int, end: int) -> range:
    """Which runs of a range have another newest checkpoint than at the sweep before."""
    return range(first + (-first - sweep) % NEWS_EVERY, end, NEWS_EVERY)


@cache
def _saved(saves: int) -> dict[str, str]:
    saved = _BEGAN + timedelta(minutes=saves)
    return {
        "step": f"{100 + saves:06d}",
        "time": f"{saved:{_FORM}}",
        "expiry": f"{saved + LIFETIME:{_FORM}}",
    }


def row_of(index: int, sweep: int = 0, *, corrupted: bool = False, run: str | None = None) -> bytes:
    """A run's row after so many sweeps, with `MARK` in it; `run` is its id if that is another."""
    is_odd = index % ODD_EVERY == ODD_EVERY // 2
    saves = (index % NEWS_EVERY + sweep) // NEWS_EVERY
    template = _ODD_TEMPLATES[index // ODD_EVERY % len(_ODD)] if is_odd else _TEMPLATE
    flag = "true" if corrupted else "false"
    return (template % {**_saved(saves), "run": run or run_id(index), "flag": flag}).encode()
