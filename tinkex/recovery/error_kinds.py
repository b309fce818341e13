"""What an error means: whose fault it is, and whether its run is lost."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from ..errors import (
    ApiConnectionError,
    AttemptTimeoutError,
    CheckpointMissingError,
    causes,
    patience,
    status_of,
)
from ..service import is_sdk_error
from ..types import Checkpoint

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

#: Those of them, and more, that say that a connection failed; not that an answer was slow.
_LOST_NAMES = frozenset(
    {"APIConnectionError", "ConnectError", "ReadError", "WriteError", "RemoteProtocolError"}
)

#: What says that our own network is at fault: numbers, and the words of transports without them.
_OWN_NETWORK_NUMBERS = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH})
_OWN_NETWORK = re.compile(
    r"\bgaierror\b|\bdns error\b|\bnetwork is (?:down|unreachable)\b|\bno route to host\b",
    re.IGNORECASE,
)

#: What servers say where the state of a run is not what its loop believes, beyond doubt.
_CERTAIN = re.compile(
    r"\bserver restored from checkpoint\b|\bsequence conflict\b|\bpromise expired\b|\bpoisoned\b",
    re.IGNORECASE,
)

#: HTTP statuses and words with which they say that a run went back to a checkpoint.
_ROLLED_BACK_STATUSES = frozenset({409, 410})
_ROLLED_BACK = re.compile(
    r"\brestored from (?:\w+ ){0,2}checkpoint\b|\brolled back\b", re.IGNORECASE
)

#: Which checkpoint: a path, or a name that is quoted or stands where the sentence or a part ends.
_PATH = re.compile(r"tinker://[^\s'\"`,;()]+")
_NAMED = re.compile(
    r"\bcheckpoint\s+(?:(?P<quote>['\"`])(?P<quoted>[^\s'\"`]+)(?P=quote)"
    r"|(?P<bare>[\w-]+(?:\.[\w-]+)*)\s*(?:[.,;:)'\"}\]](?![\w/])|\(|$))",
    re.IGNORECASE,
)

#: What they say where the client of a run cannot be trained any more, flagged or not.
_UNUSABLE = re.compile(
    r"\b(adapter|model|run|client|session)\b[^\n]{0,120}?"
    r"\b(not found|does not exist|no longer active|has finished|expired|terminated|closed)\b"
    r"|\b(unknown|invalid|no such) (adapter|model|run|session)"
    r"|\b(not loaded|unloaded|corrupted)\b",
    re.IGNORECASE,
)

#: What they say where the session of a service client is over.
_SESSION_OVER = re.compile(
    r"\b(session|service ?client)\b[^\n]{0,120}?"
    r"\b(not found|finished|expired|terminated|closed|poisoned|no longer active)\b",
    re.IGNORECASE,
)

#: HTTP statuses of a caller's own mistake: the same request is refused for ever.
_MISTAKES = frozenset(range(400, 500)) - ACCOUNT_STATUSES - PATIENCE_STATUSES - TRANSIENT_STATUSES


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


class Failure(NamedTuple):
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


def is_connection_lost(error: BaseException) -> bool:
    """Whether an error of a request says that its server is gone.

    One that answered is not, and where the name is not found or no way leads to the server, it is
    our own network. A server with several addresses is gone where one of them refuses.
    """
    chain = list(causes(error))
    is_lost = any(type(each).__name__ in _LOST_NAMES for each in chain)
    is_answered = any(status_of(each) is not None for each in chain)
    return is_lost and not is_answered and not is_own_network(error)


def is_own_network(error: BaseException) -> bool:
    """Whether an error says that no name or way leads to the server: our own network is gone."""
    chain = list(causes(error))
    is_refused = any(isinstance(each, ConnectionRefusedError) for each in chain)
    return not is_refused and any(map(_tells_of_network, chain))


def _tells_of_network(error: BaseException) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    is_unknown = isinstance(error, socket.gaierror) or number in _OWN_NETWORK_NUMBERS
    return is_unknown or _OWN_NETWORK.search(str(error)) is not None


class Verdict(StrEnum):
    """What an error that a training loop met says of the loop's run."""

    #: The run went back to a checkpoint.
    ROLLED_BACK = "rolled_back"
    #: The state of the run is not what the loop believes.
    CERTAIN = "certain"
    #: The client of the run is of no more use.
    UNUSABLE = "unusable"
    #: The server failed at a request that changes the state of the run, or saves it.
    FAILED = "failed"
    #: The request is at fault; it says nothing of the run.
    MISTAKE = "mistake"
    #: Nothing, but the run may have been flagged.
    NOTHING = "nothing"

    @property
    def is_dead(self) -> bool:
        """Whether the client of the run is lost, flagged or not."""
        return self in (Verdict.ROLLED_BACK, Verdict.CERTAIN, Verdict.UNUSABLE)


def is_session_over(error: BaseException) -> bool:
    """Whether an error says that a service client or its session can be used no more."""
    return any(_SESSION_OVER.search(str(cause)) for cause in causes(error))


def rollback_told(error: BaseException) -> BaseException | None:
    """The error, or the one of its causes, by which a server says that it rolled a run back."""
    told = (
        cause
        for cause in causes(error)
        if status_of(cause) in _ROLLED_BACK_STATUSES and _ROLLED_BACK.search(str(cause))
    )
    return next(told, None)


def checkpoint_named(text: str, run_id: str) -> Checkpoint | None:
    """The training checkpoint that such a text names; a bare name is one of `run_id`."""
    path, named = _PATH.search(text), _NAMED.search(text)
    found = None
    if path is not None:
        found = path[0].rstrip(".:")
    elif named is not None:
        found = f"tinker://{run_id}/weights/{named['quoted'] or named['bare']}"
    with suppress(ValueError):
        checkpoint = Checkpoint.from_path(found or "")
        return checkpoint if checkpoint.checkpoint_type == "training" else None
    return None


def judge(error: BaseException, run_id: str, *, is_its_own: bool, is_change: bool) -> Verdict:
    """Judge an error of the server that a training loop met.

    `is_its_own`: it came through the run's client for certain; then it need not name the run.
    `is_change`: it is of a request that changes the run's state, or saves it.

    So say real servers: TuFT `422 Adapter RUN_ID not found`, SkyRL `400 ... not loaded`.
    """
    texts = [str(cause) for cause in causes(error)]
    names_it = any(run_id in text or run_id.partition(":")[0] in text for text in texts)
    if is_its_own or names_it:
        if rollback_told(error) is not None:
            return Verdict.ROLLED_BACK
        if any(map(_CERTAIN.search, texts)):
            return Verdict.CERTAIN
        if any(map(_UNUSABLE.search, texts)):
            return Verdict.UNUSABLE
    failure = classify(error)
    if failure.kind is Kind.REQUEST and (failure.status is None or failure.status in _MISTAKES):
        return Verdict.MISTAKE
    is_servers = failure.kind in (Kind.SERVER, Kind.CODE) or failure.status == 503
    is_failure = is_servers and is_sdk_error(error)
    return Verdict.FAILED if is_failure and is_its_own and is_change else Verdict.NOTHING


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
