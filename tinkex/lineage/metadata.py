"""What a run tells of its lineage: the keys of its `user_metadata`, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import TrainingRun

#: The name that the run was opened by.
NAME = "tinkex_name"
#: What stands for its lineage.
ROOT = "tinkex_root"
#: How many runs of its lineage were before it.
GENERATION = "tinkex_generation"
#: Who made it, to train it.
OWNER = "tinkex_owner"
#: How many seconds its owner may be silent.
SILENT_FOR = "tinkex_silent_for"
#: The id of the run before it.
RECOVERED_FROM = "tinkex_recovered_from"
#: The path of the checkpoint that it was made from.
MADE_FROM = "tinkex_checkpoint"


def text_of(run: TrainingRun, key: str) -> str | None:
    """What a run's metadata says, `None` where it says nothing."""
    return text_in(run.user_metadata or {}, key)


def text_in(told: Mapping[str, Any], key: str) -> str | None:
    """What metadata says, `None` where it says nothing."""
    found = told.get(key)
    return found if isinstance(found, str) and found else None


def metadata_of(row: Any) -> Mapping[str, Any]:
    """The metadata of a row as the server sent it."""
    found = row.get("user_metadata") if isinstance(row, Mapping) else None
    found = found or getattr(row, "user_metadata", None)
    return found if isinstance(found, Mapping) else {}
