"""What an error means: whose fault it is, and whether its run is lost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ..errors import (
    ApiConnectionError,
    AttemptTimeoutError,
    CheckpointMissingError,
    causes,
    patience,
    status_of,
)

#: HTTP statuses that speak of the account, and of a checkpoint that cannot be loaded.
ACCOUNT_STATUSES = frozenset({401, 402, 403})

CHECKPOINT_STATUSES = frozenset({400, 404, 409, 410, 422})

#: HTTP statuses that ask for patience: waited for, not counted.
PATIENCE_STATUSES = frozenset({429, 503})

#: HTTP statuses beside 5xx that a later try may not meet again.
TRANSIENT_STATUSES = frozenset({408, 425})

#: Error classes of HTTP libraries and of the official SDK, by name, that stand for the network.
_NETWORK_NAMES = frozenset(
    {"APIConnectionError", "APITimeoutError", "ConnectError", "ReadTimeout", "ConnectTimeout"}
)

#: What servers say when a client's run cannot be trained any more, flagged or not.
_UNUSABLE = re.compile(
    r"\badapter\b[^\n]{0,120}?\bnot found\b"
    r"|\bsession\b[^\n]{0,120}?\b(not found|no longer active|expired|terminated|closed)\b"
    r"|\b(not loaded|unloaded|poisoned|corrupted)\b",
    re.IGNORECASE,
)

#: What may speak of something else as well, such as the model of a sampler.
_MAYBE_UNUSABLE = re.compile(
    r"\b(model|run|client)\b[^\n]{0,120}?\b(not found|does not exist|expired|terminated|closed)\b"
    r"|\b(unknown|invalid|no such) (adapter|model|run|session)",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """Whose fault an error is."""

    #: The account: no valid key, no right, a billing block. Ends for all runs at once.
    ACCOUNT = "account"
    #: The checkpoint: it is gone, expired, or does not load. An older one may.
    CHECKPOINT = "checkpoint"
    #: The request: the server will not take it however often it is sent.
    REQUEST = "request"
    #: The server or the network. A later try may succeed.
    SERVER = "server"
    #: The server asks for patience (429, 503).
    PATIENCE = "patience"
    #: Anything else, most likely code on this side.
    CODE = "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error, sorted: its kind, its HTTP status, and how long the server asked to wait."""

    kind: Kind
    status: int | None = None
    retry_after: float | None = None


def classify(error: BaseException, *, loading: bool = False) -> Failure:
    """Sort an error by what it, or one of its causes, says.

    `loading`: it came from restoring a checkpoint, so that a refusal speaks of that checkpoint.
    """
    for cause in causes(error):
        if isinstance(cause, CheckpointMissingError):
            return Failure(kind=Kind.CHECKPOINT)
        if isinstance(cause, AttemptTimeoutError):
            return Failure(kind=Kind.SERVER)
        status = status_of(cause)
        if status is not None:
            return Failure(
                kind=_kind_of_status(status, loading),
                status=status,
                retry_after=patience(cause),
            )
        category = str(getattr(cause, "category", "") or "").rpartition(".")[2].lower()
        if category:
            refused = Kind.REQUEST if category == "user" else Kind.SERVER
            return Failure(kind=Kind.CHECKPOINT if loading else refused)
        if isinstance(cause, ApiConnectionError | ConnectionError | TimeoutError):
            return Failure(kind=Kind.SERVER)
        if getattr(cause, "kind", type(cause).__name__) in _NETWORK_NAMES:
            return Failure(kind=Kind.SERVER)
    return Failure(kind=Kind.CODE)


def is_unusable(error: BaseException, run_id: str, *, is_its_own: bool) -> bool:
    """Whether an error says that a run's training client is of no more use.

    So say real servers: TuFT `422 Adapter RUN_ID not found`, SkyRL `400 ... not loaded`.
    `is_its_own`: the error came through the run's client for certain; otherwise a model or run
    that is not found may be another one, unless the text names this run.
    """
    texts = [str(cause) for cause in causes(error)]
    if is_its_own or any(run_id in text for text in texts):
        return any(_UNUSABLE.search(text) or _MAYBE_UNUSABLE.search(text) for text in texts)
    return any(_UNUSABLE.search(text) and "sampl" not in text.lower() for text in texts)


def _kind_of_status(status: int, loading: bool) -> Kind:
    if status in ACCOUNT_STATUSES:
        return Kind.ACCOUNT
    if status in PATIENCE_STATUSES:
        return Kind.PATIENCE
    if status in TRANSIENT_STATUSES or status >= 500:
        return Kind.SERVER
    if loading and status in CHECKPOINT_STATUSES:
        return Kind.CHECKPOINT
    return Kind.REQUEST
