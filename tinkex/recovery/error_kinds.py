"""What an error means: whose fault it is, and whether its run is lost."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Collection
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from ..errors import (
    ApiConnectionError,
    AttemptTimeoutError,
    CheckpointMissingError,
    JournalError,
    causes,
    in_words,
    patience,
    status_of,
)
from ..errors.reading import fact
from ..runs.effects import Effect
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
_OWN_NETWORK = (
    r"\bgaierror\b|\bdns error\b|\bnetwork is (?:down|unreachable)\b|\bno route to host\b"
)

#: What servers say where the state of a run is not what its loop believes, beyond doubt.
_CERTAIN = r"\bserver restored from checkpoint\b|\bsequence conflict\b|\bpromise expired\b"

#: HTTP statuses and words with which they say that a run went back to a checkpoint.
_ROLLED_BACK_STATUSES = frozenset({409, 410})
_ROLLED_BACK = r"\brestored from (?:\w+ ){0,2}checkpoint\b|\brolled back\b"

#: Which checkpoint: a path, or a name that is quoted or stands where the sentence or a part ends.
_PATH = r"tinker://[^\s'\"`,;()]+"
_NAMED = (
    r"\bcheckpoint\s+(?:(?P<quote>['\"`])(?P<quoted>[^\s'\"`]+)(?P=quote)"
    r"|(?P<bare>[\w-]+(?:\.[\w-]+)*)\s*(?:[.,;:)'\"}\]](?![\w/])|\(|$))"
)

#: Where a sentence begins, and what a sentence without an id may go on with: the SDK's own words.
_BEGINS = r"(?:^(?:\W{0,3}\d{3}\W{1,3})?|[:;.!-]\s+|(?<!\w)[\"'`({\[])(?:(?:the|this|your)\s+)?"
_NEVER = "(?!)"
_ENDS = r"(?=\s*(?:$|[.;!'\"`)}\]]|and\b|for self\.|(?:\(|with )status\b))"

#: What such a sentence speaks of; that of a load may mean a run that is none of ours.
_CLIENT = r"(?:(?:lora|training|service)\s?)?(?:adapter|model|run|session|client)"
_CLIENT_ALONE = r"(?:(?:training|service)\s?)?(?:session|client)"
_SERVICE = r"(?:session|service\s?client)"

#: The id of any session.
_ANY_ID = r"(?=[\w:-]*\d)[\w:-]++"

#: And what it says: that it can be used no more.
_IS_DEAD = (
    r"(?:(?:is|was|has(?:\s+been)?)\s+)?(?:(?:not|no longer) (?:found|loaded|active)|does not exist"
    r"|finished|expired|terminated|closed|unloaded|corrupted|(?P<poisoned>poisoned))\b"
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
        if isinstance(cause, JournalError):
            # It waits as for an account that does not work; one run alone holds no other up.
            return Failure(kind=Kind.ACCOUNT if cause.run_id is None else Kind.CODE)
        if isinstance(cause, AttemptTimeoutError):
            return Failure(kind=Kind.SERVER)
        status = status_of(cause)
        if status is not None:
            return Failure(
                kind=_kind_of_status(status, loading),
                status=status,
                retry_after=patience(cause),
            )
        category = str(fact(cause, "category") or "").rpartition(".")[2].lower()
        if category:
            refused = Kind.REQUEST if category == "user" else Kind.SERVER
            return Failure(kind=Kind.CHECKPOINT if loading else refused)
        if isinstance(cause, ApiConnectionError | ConnectionError | TimeoutError):
            return Failure(kind=Kind.SERVER)
        if (fact(cause, "kind") or type(cause).__name__) in _NETWORK_NAMES:
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
    return is_unknown or _has(_OWN_NETWORK, in_words(error))


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


def is_of_arguments(error: BaseException) -> bool:
    """Whether an error is that of arguments of which no request could be made.

    A plain `ValueError` may be one, too; but so the SDK raises an answer that it cannot read.
    """
    is_refused = type(error).__name__ == "ValidationError"  # of pydantic
    return is_refused or isinstance(error, TypeError | AttributeError | UnicodeEncodeError)


def is_unread(error: BaseException) -> bool:
    """Whether an error is that of an answer which refuses nothing and could not be read.

    It may be of a proxy, so that the request did not come to the server.
    """
    told = (status_of(cause) for cause in causes(error))
    return any(status is not None and status < 400 for status in told)


def is_unsent(error: BaseException) -> bool:
    """Whether the request that raised an error may never have come to the server."""
    return is_of_arguments(error) or is_unread(error)


def is_session_over(error: BaseException) -> bool:
    """Whether an error says that a service client or its session can be used no more.

    That of a refused account does not: it may be the session of a login.
    """
    over = _death(_SERVICE, _ANY_ID, unnamed=_ENDS)
    is_told = any(over.search(in_words(cause)) for cause in causes(error))
    return is_told and classify(error).kind not in (Kind.ACCOUNT, Kind.PATIENCE)


def _death(subject: str, identity: str, *, unnamed: str) -> re.Pattern[str]:
    """What matches a sentence that says that its subject, by name or unnamed, can be used no more.

    The subject begins the sentence, and its id alone may stand before the verb: else something of
    it is meant, such as a checkpoint. What follows an `unnamed` one must match that.
    """
    named = rf"(?:(?:\s+with)?[\s_]id)?[\s:=]*[\"'`(\[]*{identity}[\"'`)\]]*"
    return re.compile(
        rf"{_BEGINS}(?:(?:unknown|invalid|no such)\s+{subject}{named}"
        rf"|{subject}(?P<named>{named})?\s+{_IS_DEAD}(?(named)|(?:\s*:{named}|{unnamed})))",
        re.IGNORECASE | re.MULTILINE,
    )


def rollback_told(error: BaseException) -> BaseException | None:
    """The error, or the one of its causes, by which a server says that it rolled a run back."""
    told = (
        cause
        for cause in causes(error)
        if status_of(cause) in _ROLLED_BACK_STATUSES and _has(_ROLLED_BACK, in_words(cause))
    )
    return next(told, None)


def checkpoint_named(text: str, run_id: str) -> Checkpoint | None:
    """The training checkpoint that such a text names; a bare name is one of `run_id`."""
    path, named = re.search(_PATH, text), re.search(_NAMED, text, re.IGNORECASE)
    found = None
    if path is not None:
        found = path[0].rstrip(".:")
    elif named is not None:
        found = f"tinker://{run_id}/weights/{named['quoted'] or named['bare']}"
    with suppress(ValueError):
        checkpoint = Checkpoint.from_path(found or "")
        return checkpoint if checkpoint.checkpoint_type == "training" else None
    return None


def judge(error: BaseException, run_id: str, effects: Collection[Effect]) -> Verdict:
    """Judge an error of the server that a training loop met.

    `effects` are those of the run's requests that raised it, none where it came from elsewhere:
    then it must name the run. That of a load may speak of the run whose state was to be loaded.

    A sentence that says that this run is dead goes before status and category: real servers send
    `422 Adapter RUN_ID not found` and `400 ... not loaded` as if the request were at fault.
    """
    texts = [in_words(cause) for cause in causes(error)]
    failure = classify(error)
    is_its_own = any(effect is not Effect.NONE for effect in effects)
    # The id of the run or of its session; not within another id, nor in a path.
    ids = "|".join(map(re.escape, (run_id, run_id.partition(":")[0])))
    its = rf"(?<![\w:/-])(?:{ids})(?![\w/-]|:\w)"
    if is_its_own or any(re.search(its, text) for text in texts):
        if rollback_told(error) is not None:
            return Verdict.ROLLED_BACK
        if any(_has(_CERTAIN, text) for text in texts):
            return Verdict.CERTAIN
    if failure.kind not in (Kind.ACCOUNT, Kind.PATIENCE):
        deaths = [_death(_CLIENT, its, unnamed=_NEVER)]
        if is_its_own:
            unnamed = _CLIENT_ALONE if Effect.LOAD in effects else _CLIENT
            # A run's id may tell that of its session.
            session = its if ":" in run_id else _ANY_ID
            deaths += [
                _death(unnamed, its, unnamed=_ENDS),
                _death(_SERVICE, session, unnamed=_ENDS),
            ]
        found = [death.search(text) for death in deaths for text in texts]
        told = [each for each in found if each is not None]
        if told:
            is_poisoned = any(each["poisoned"] for each in told)
            return Verdict.CERTAIN if is_poisoned else Verdict.UNUSABLE
    if failure.kind is Kind.REQUEST and (failure.status is None or failure.status in _MISTAKES):
        return Verdict.MISTAKE
    if is_of_arguments(error):
        return Verdict.MISTAKE
    is_servers = failure.kind in (Kind.SERVER, Kind.CODE) or failure.status == 503
    is_failure = is_servers and is_sdk_error(error)
    return Verdict.FAILED if is_failure and is_its_own else Verdict.NOTHING


def _has(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _kind_of_status(status: int, loading: bool) -> Kind:
    if status in ACCOUNT_STATUSES:
        return Kind.ACCOUNT
    if status in PATIENCE_STATUSES:
        return Kind.PATIENCE
    # Below 400 it refused nothing: the answer was none of its own, and could not be read.
    if status in TRANSIENT_STATUSES or status >= 500 or status < 400:
        return Kind.SERVER
    if loading and status in CHECKPOINT_STATUSES:
        return Kind.CHECKPOINT
    return Kind.REQUEST
