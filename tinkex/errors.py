"""Every error that tinkex raises or publishes, as one tree under `TinkexError`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    "MonitorStoppedError",
    "PolicyError",
    "RecoveryDisabledError",
    "RecoveryError",
    "RecoveryExhaustedError",
    "RestError",
    "ResumePointUnknownError",
    "SegmentSupersededError",
    "ServiceError",
    "TinkexError",
    "apart_from_outer",
    "causes",
    "in_words",
    "patience",
    "status_of",
]


#: The longest that a server's `Retry-After` is honoured, in seconds.
LONGEST_PATIENCE = 300.0


class TinkexError(Exception):
    """The root of all errors of tinkex; its text is for people, its attributes for code."""

    def __reduce__(self) -> tuple[Any, ...]:
        attributes = {name: _picklable(value) for name, value in self.__dict__.items()}
        return _restore, (type(self), self.args, attributes)


def _restore(
    kind: type[TinkexError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> TinkexError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _picklable(value: object) -> object:
    """The value, or its text where it does not come through a pickle."""
    import pickle  # noqa: PLC0415 (whoever pickles has imported it already)

    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 (made here, read here)
    except Exception:
        return repr(value)
    return value


class ConfigError(TinkexError, ValueError):
    """Raised when a key, a base URL or another connection setting cannot be used."""


class PolicyError(TinkexError, ValueError):
    """Raised when a recovery policy is made with a bad value or an unknown field.

    `field` is the field's name, `value` what was given, `allowed` what may be given.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"policy field {field!r} cannot be {value!r}; allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class RestError(TinkexError):
    """Base of everything that can go wrong with one request to the Tinker API."""


class ApiConnectionError(RestError):
    """Raised when no connection came about or an existing one broke."""


class ApiTimeoutError(ApiConnectionError, TimeoutError):
    """Raised when an answer took longer than its bound."""


class ApiResponseError(RestError):
    """Raised when an answer arrived that does not fit: not JSON, wrong types, too large."""


class ApiStatusError(RestError):
    """Raised when the server answered with an HTTP error status.

    `status` is the HTTP status, `detail` the server's own words (shortened), `retry_after`
    the seconds that the server asked to wait, if it did.
    """

    def __init__(
        self, status: int, detail: str = "", *, where: str = "", retry_after: float | None = None
    ) -> None:
        place = f" for {where}" if where else ""
        words = f": {detail}" if detail else ""
        super().__init__(f"the server answered HTTP {status}{place}{words}")
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
    """Raised for HTTP 401: no key, or one that is not known."""


class ApiBillingError(ApiStatusError):
    """Raised for HTTP 402: the account is blocked over its billing."""


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
    """Base of everything that can go wrong with monitoring and recovering a run."""


class ServiceError(RecoveryError):
    """Raised when a service client failed and its own error cannot be shown.

    Errors of HTTP libraries carry the request and with it the API key, so they are replaced
    by this one. `kind` is the original's class name, `status` its HTTP status and `category`
    the official SDK's own category (`server`, `user`, `unknown`), where it had them.
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
    """Raised when a recovery of this run is under way already. `run_id` names the run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"a recovery of run {run_id!r} is under way; wait for it, or stop monitoring the run"
        )
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
    """Raised when no attempt is left for a run.

    `run_id` names the run, `attempts` says how many there were, `error` is the last error and
    `history` tells each failed attempt in a line.
    """

    def __init__(
        self, run_id: str, attempts: int, error: BaseException | None, history: Sequence[str] = ()
    ) -> None:
        story = "".join(f"\n  {line}" for line in history)
        super().__init__(
            f"run {run_id!r} could not be recovered in {attempts} attempts; last error: "
            f"{error}; begin anew with run.recover() or monitor_run(){story}"
        )
        self.run_id = run_id
        self.attempts = attempts
        self.error = error
        self.history = tuple(history)


class IncidentBudgetError(RecoveryError):
    """Raised when a run was corrupted more often than the policy's budget allows.

    `incidents` were counted within `window` seconds for the lineage of `run_id`.
    """

    def __init__(self, run_id: str, incidents: int, window: float) -> None:
        super().__init__(
            f"run {run_id!r} and those before it were recovered {incidents} times within "
            f"{window:g} s (policy fields max_incidents, incident_window); it is left alone: "
            "find out what corrupts it, then begin anew with run.recover()"
        )
        self.run_id = run_id
        self.incidents = incidents
        self.window = window


class SegmentSupersededError(RecoveryError):
    """Raised inside a segment whose run is known to be corrupted or replaced."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id!r} was corrupted or replaced; leave the `with segment:` block, "
            "the next segment has a live client"
        )
        self.run_id = run_id


class ResumePointUnknownError(RecoveryError):
    """Raised when nobody knows which step a training loop has to go on with.

    `checkpoint` is the path that was restored without a step recorded for it, or `step` the
    one that was broken off, so that it may have been submitted or not.
    """

    def __init__(self, run_id: str, checkpoint: str | None, step: int | None = None) -> None:
        if step is None:
            super().__init__(
                f"run {run_id!r} was restored from {checkpoint!r}, but no step is recorded for it; "
                "save with segment.save_state(name, step=...), record it with "
                "run.record_checkpoint(path, step=...), or give segments(resume_step=...)"
            )
        else:
            super().__init__(
                f"the loop on run {run_id!r} was broken off within step {step}, which may have "
                f"been submitted or not; give segments(resume_step={step}) to run it, or "
                f"segments(resume_step={step + 1}) to go on after it"
            )
        self.run_id = run_id
        self.checkpoint = checkpoint
        self.step = step


class MonitorStoppedError(RecoveryError):
    """Raised when something is asked of a monitor that was stopped."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then all that it came from, its cause before its context; each once."""
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        each = following.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        following += (each.__context__, each.__cause__)


@contextmanager
def apart_from_outer() -> Iterator[None]:
    """Keep what is raised within from naming, as its context, what is being handled outside.

    Where nothing runs on threads of its own, a recovery may run while the error that gave rise
    to it is still on its way; neither is the other's cause.
    """
    outer = sys.exc_info()[1]
    try:
        yield
    except BaseException as error:
        if outer is not None:
            for each in list(causes(error)):
                if each.__context__ is outer:
                    each.__context__ = None
        raise


def in_words(error: BaseException) -> str:
    """The error's text, after its kind where it has none."""
    return str(error) or type(error).__name__


def patience(error: BaseException) -> float | None:
    """The seconds that a server asked to wait for, if it did; at most `LONGEST_PATIENCE`."""
    seconds = getattr(error, "retry_after", None)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        return None
    return float(min(seconds, LONGEST_PATIENCE))


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error carries: ours (`status`) or the official SDK's."""
    for name in ("status", "status_code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and not isinstance(status, bool):
            return status
    return None
