"""The first save of a restored named run, made at once so that other owners see the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..runs.checkpoints import Cursor
from ..service import takes_option
from .metadata import OWNER

#: The name of the checkpoint; each generation has its own run, so that it is free.
ADOPTED = "tinkex-adopted"

#: How long the server is to keep it, in seconds.
KEPT_FOR = 86_400


def options_of(
    save: Callable[..., Any], cursor: Cursor, carried: Mapping[str, str]
) -> dict[str, Any] | None:
    """The options of that save, with a client's `save_state`; `None` where it is not to be made.

    Where a checkpoint cannot tell its step, another process would take it for one of the loop's.
    """
    if not takes_option(save, "user_metadata"):
        return None
    metadata = {**cursor.to_metadata(), OWNER: carried[OWNER]}
    kept = {"ttl_seconds": KEPT_FOR} if takes_option(save, "ttl_seconds") else {}
    return {"user_metadata": metadata, **kept}
