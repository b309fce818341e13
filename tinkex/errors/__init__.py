"""The error classes of tinkex, in one tree under `TinkexError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .reading import apart_from_outer, causes, heed, in_words, patience, status_of

__all__ = [
    "AlreadyPendingError",
    "ApiAuthenticationError",
    "ApiBillingError",
    "ApiConnectionError",
    "ApiNotFoundError",
    "ApiPermissionError",
    "ApiRateLimitError",
    "ApiResponseError",
    "ApiServerError",
    "ApiStatusError",
    "ApiTimeoutError",
    "AttemptTimeoutError",
    "CheckpointMissingError",
    "ConfigError",
    "IncidentBudgetError",
    "JournalError",
    "MonitorStoppedError",
    "PolicyError",
    "RecoveryDisabledError",
    "RecoveryError",
    "RecoveryExhaustedError",
    "RestError",
    "ResumePointUnknownError",
    "RunHeldError",
    "SegmentSupersededError",
    "ServiceError",
    "TinkexError",
    "apart_from_outer",
    "causes",
    "heed",
    "in_words",
    "patience",
    "status_of",
]


class TinkexError(Exception):
    """The root of all errors of tinkex; the text is for users, the attributes are for code."""

    def __reduce__(self) -> tuple[Any, ...]:
        attributes = {name: _picklable(value) for name, value in self.__dict__.items()}
        return _restore, (type(self), self.args, attributes)


def _restore(kind: type[TinkexError], args: tuple[Any, ...], state: dict[str, Any]) -> TinkexError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _picklable(value: object) -> object:
    """The value, or its `repr` if it cannot be pickled."""
    import pickle  # noqa: PLC0415 (already imported when this runs)

    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 (made here, read here)
    except BaseException as raised:
        heed(raised)
        return repr(value)
    return value


class ConfigError(TinkexError, ValueError):
    """Raised when a key, a base URL or another connection setting cannot be used."""


class PolicyError(TinkexError, ValueError):
    """Raised when a policy's `field` has a bad `value` or is unknown; `allowed` tells what fits."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"policy field {field!r} cannot be {value!r}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    @classmethod
    def unknown(cls, field: str, value: object, allowed: str, nearest: str | None) -> PolicyError:
        """Make the error for a field that does not exist; `nearest` is the most similar name."""
        error = cls(field, value, allowed)
        hint = f"did you mean {nearest!r}?" if nearest else allowed
        error.args = (f"unknown policy field {field!r}; {hint}",)
        return error


class RestError(TinkexError):
    """Base of the errors of one request to the Tinker API."""


class ApiConnectionError(RestError):
    """Raised when a connection could not be opened, or broke."""


class ApiTimeoutError(ApiConnectionError, TimeoutError):
    """Raised when an answer did not come in time."""


class ApiResponseError(RestError):
    """Raised when an answer cannot be used: not JSON, wrong types, too large."""


class ApiStatusError(RestError):
    """Raised when the server answered with an HTTP error status.

    `status` is the HTTP status, `detail` the server's own message (shortened), `retry_after`
    the seconds that the server asked to wait, or `None`.
    """

    def __init__(
        self, status: int, detail: str = "", *, where: str = "", retry_after: float | None = None
    ) -> None:
        place = f" for {where}" if where else ""
        reason = f": {detail}" if detail else ""
        super().__init__(f"the server answered HTTP {status}{place}{reason}")
        self.status = status
        self.detail = detail
        self.retry_after = retry_after

    @staticmethod
    def of(
        status: int, detail: str = "", *, where: str = "", retry_after: float | None = None
    ) -> ApiStatusError:
        """Make the error class that fits `status`."""
        kind = _BY_STATUS.get(status, ApiServerError if status >= 500 else ApiStatusError)
        return kind(status, detail, where=where, retry_after=retry_after)


class ApiAuthenticationError(ApiStatusError):
    """Raised for HTTP 401: no key, or an unknown key."""


class ApiBillingError(ApiStatusError):
    """Raised for HTTP 402: the account is blocked because of its billing."""


class ApiPermissionError(ApiStatusError):
    """Raised for HTTP 403: the key may not do this."""


class ApiNotFoundError(ApiStatusError):
    """Raised for HTTP 404: no such run, checkpoint or route."""


class ApiRateLimitError(ApiStatusError):
    """Raised for HTTP 429: too many requests; `retry_after` says how long to wait."""


class ApiServerError(ApiStatusError):
    """Raised for HTTP 5xx: the fault lies with the server."""


_BY_STATUS: dict[int, type[ApiStatusError]] = {
    401: ApiAuthenticationError,
    402: ApiBillingError,
    403: ApiPermissionError,
    404: ApiNotFoundError,
    429: ApiRateLimitError,
}


class RecoveryError(TinkexError):
    """Base of the errors of monitoring and recovering a run."""


class ServiceError(RecoveryError):
    """Raised in place of a service client's error that may hold the API key.

    Errors of HTTP libraries hold the request and so the key. `kind` is the original's class
    name, `status` its HTTP status, `category` the SDK's `server`, `user` or `unknown`, if any.
    """

    def __init__(
        self, kind: str, message: str, *, status: int | None = None, category: str | None = None
    ) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.status = status
        self.category = category


class RecoveryDisabledError(RecoveryError):
    """Raised when a run is given to a monitor or executor whose policy is not enabled."""


class AlreadyPendingError(RecoveryError):
    """Raised when a recovery of this run is already under way. `run_id` names the run."""

    def __init__(self, run_id: str) -> None:
        advice = "wait for it, or stop monitoring the run"
        super().__init__(f"a recovery of run {run_id!r} is under way; {advice}")
        self.run_id = run_id


class CheckpointMissingError(RecoveryError):
    """Raised when there is nothing to restore a run from. `run_id` names the run."""

    def __init__(self, run_id: str, reason: str = "it has no training checkpoint") -> None:
        super().__init__(
            f"run {run_id!r} cannot be restored: {reason}; "
            "save one with save_state(), or name one with checkpoint_strategy=Specific(path)"
        )
        self.run_id = run_id
        self.reason = reason


class AttemptTimeoutError(RecoveryError, TimeoutError):
    """Raised when an attempt did not end within the policy's `attempt_timeout` (seconds)."""

    def __init__(self, run_id: str, timeout: float) -> None:
        super().__init__(
            f"an attempt to recover run {run_id!r} did not end within {timeout:g} s "
            "(policy field attempt_timeout); it was abandoned"
        )
        self.run_id = run_id
        self.timeout = timeout


class RecoveryExhaustedError(RecoveryError):
    """Raised when no attempt is left for the run `run_id`.

    `attempts` is their number, `error` the last error, `history` a line per failed attempt.
    """

    def __init__(
        self, run_id: str, attempts: int, error: BaseException | None, history: Sequence[str] = ()
    ) -> None:
        lines = "".join(f"\n  {line}" for line in history)
        advice = "start again with run.recover() or monitor_run()"
        if isinstance(error, CheckpointMissingError):
            advice = "begin anew: with a new client, or run the script of open_run again"
        super().__init__(
            f"run {run_id!r} could not be recovered in {attempts} attempts; last error: "
            f"{error}; {advice}{lines}"
        )
        self.run_id = run_id
        self.attempts = attempts
        self.error = error
        self.history = tuple(history)


class RunHeldError(RecoveryError):
    """Raised when a run may be trained by another owner; `name` is the run's, or its id."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"run {name!r} is held: {problem}")
        self.name = name


class JournalError(RecoveryError):
    """Raised when the journal at `path` cannot be used, for a `reason`.

    Where there is a `run_id`, it cannot be used for that run alone.
    """

    def __init__(self, path: str, reason: str, run_id: str | None = None) -> None:
        about = "" if run_id is None else f" for run {run_id!r} alone"
        super().__init__(f"the journal {path!r} cannot be used{about}: {reason}")
        self.path = path
        self.reason = reason
        self.run_id = run_id


class IncidentBudgetError(RecoveryError):
    """Raised when `run_id` and all it replaced had too many `incidents` in `window` seconds.

    Or in a row, without a checkpoint after `step`: then `window` is infinite.
    """

    def __init__(self, run_id: str, incidents: int, window: float, step: int | None = None) -> None:
        bound = f"within {window:g} s (policy fields max_incidents, incident_window)"
        if step is not None:
            bound = f"without a checkpoint after step {step} (policy field max_stuck)"
        super().__init__(
            f"run {run_id!r} and the runs that it replaced were recovered {incidents} times "
            f"{bound}; find out what corrupts it, then start again with run.recover()"
        )
        self.run_id, self.step = run_id, step
        self.incidents, self.window = incidents, window


class SegmentSupersededError(RecoveryError):
    """Raised inside a segment whose run is known to be corrupted or replaced."""

    def __init__(self, run_id: str) -> None:
        advice = "leave the `with segment:` block, the next segment has a live client"
        super().__init__(f"run {run_id!r} was corrupted or replaced; {advice}")
        self.run_id = run_id


class ResumePointUnknownError(RecoveryError):
    """Raised when it is not known at which step a training loop must continue.

    `checkpoint` is the restored path, for which no step is recorded; `None` where the loop was
    interrupted after it had submitted more than any checkpoint with a step holds.
    """

    def __init__(self, run_id: str, checkpoint: str | None, *, is_loaded: bool = False) -> None:
        if checkpoint is None:
            what = "another state was loaded" if is_loaded else "more was submitted"
            problem = f"run {run_id!r}: {what} than any checkpoint with a recorded step holds"
            remedy = "begin anew with a fresh run, and"
        else:
            problem = f"run {run_id!r} was restored from {checkpoint!r}, but no step is recorded"
            remedy = "record it with run.record_checkpoint(path, step=...);"
        super().__init__(
            f"{problem}; {remedy} save with segment.save_state(name, step=...); for checkpoints "
            "that were saved by other means give segments(resume_step=...)"
        )
        self.run_id = run_id
        self.checkpoint = checkpoint


class MonitorStoppedError(RecoveryError):
    """Raised when a monitor is used after it was stopped.

    Also by the requests of a segment whose run was stopped while its server was down.
    """
