"""`Policy`: when and how runs are recovered, and which checkpoint is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, replace
from numbers import Real
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from .display.table import Cell, Row, Table, Tone
from .errors import PolicyError
from .types import TinkerPath

if TYPE_CHECKING:
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

__all__ = ["Policy", "Specific"]

#: Smallest `poll_interval`, seconds: below it a monitor would only poll.
MIN_POLL_INTERVAL = 0.001

#: The most that any time may be, in seconds: some thirty years.
MOST_SECONDS = 1e9

#: Attempts per checkpoint, and seconds of backoff, unless a policy says otherwise.
MAX_ATTEMPTS = 3
BACKOFF = 5.0
MAX_BACKOFF = 60.0

#: The fields that are whole numbers or seconds, and the least that each may be.
_COUNTS = {"max_attempts": 1, "fallback_checkpoints": 0, "max_incidents": 1, "max_stuck": 1}
_TIMES = {
    **dict.fromkeys(("poll_interval", "attempt_timeout"), MIN_POLL_INTERVAL),
    **dict.fromkeys(("backoff", "max_backoff", "incident_window"), 0.0),
    **dict.fromkeys(("confirm_within", "unprotected_after"), 0.0),
}

#: The original's field names, in milliseconds, and ours, in seconds.
_MILLISECONDS = {
    "poll_interval_ms": "poll_interval",
    "backoff_ms": "backoff",
    "max_backoff_ms": "max_backoff",
}


@dataclass(frozen=True, slots=True)
class Specific:
    """Restore from this checkpoint and no other.

    Args:
        path: A training checkpoint, `tinker://RUN_ID/weights/NAME`.

    Raises:
        PolicyError: The path is not that of a training checkpoint.
    """

    path: str

    def __post_init__(self) -> None:
        allowed = "the path of a training checkpoint, tinker://RUN_ID/weights/NAME"
        try:
            parsed = TinkerPath.parse(self.path)
        except (TypeError, ValueError) as error:
            raise PolicyError("checkpoint_strategy", self.path, allowed) from error
        if parsed.checkpoint_type != "training":
            reason = f"{allowed} (a sampler checkpoint cannot be trained from)"
            raise PolicyError("checkpoint_strategy", self.path, reason)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Policy:
    """When and how corrupted runs are recovered. The fields are checked when it is made.

    The first nine fields and their defaults are those of the Elixir original.

    Args:
        enabled: Whether runs may be monitored and recovered at all.
        max_attempts: How often restoring from one checkpoint may fail, 1 or more.
        backoff: Seconds between the first two attempts; doubled after each.
        max_backoff: The most seconds between two attempts.
        poll_interval: Seconds from the end of one sweep to the next.
        checkpoint_strategy: `"latest"`, a tinker path, or `Specific(path)`.
        restore_optimizer: Restore the optimizer state with the weights.
        on_recovery: Called with `(old_client, new_client, checkpoint)` after a recovery.
        on_failure: Called with `(run_id, error)` when no attempt is left.
        wait: A tenacity wait strategy in place of `backoff` and `max_backoff`.
        stop: A tenacity stop strategy in place of `max_attempts`.
        fallback_checkpoints: How many older checkpoints are tried when the newest does not load.
        allow_weights_only: Restore without the optimizer state rather than not at all.
        attempt_timeout: Seconds after which an attempt is abandoned.
        max_incidents: How many recoveries one lineage gets within `incident_window`.
        incident_window: Seconds over which `max_incidents` are counted.
        max_stuck: How many recoveries in a row one lineage gets without a checkpoint of a higher
            step: a batch that the server cannot take is not paid for for ever.
        recover_on: Which runs are recovered beside those that the server flags: `"corrupted"`:
            none; `"unusable"`: those whose client is of no more use; `"error"`: those too of
            which a request that changes their state failed on the server's side.
        on_doubt: What is done where the server was down while a run was trained, so that it may
            have come back with an older state: `"recover"` it from where its loop last saved,
            `"warn"` in the log, or `"ignore"` it.
        confirm_within: Seconds for which a run is polled after its training loop failed.
        unprotected_after: Seconds after which a run without a checkpoint is warned about.

    Raises:
        PolicyError: A field is unknown or its value cannot be used.
    """

    enabled: bool = False
    max_attempts: int = MAX_ATTEMPTS
    backoff: float = BACKOFF
    max_backoff: float = MAX_BACKOFF
    poll_interval: float = 30.0
    checkpoint_strategy: str | Specific = "latest"
    restore_optimizer: bool = True
    on_recovery: Callable[[Any, Any, Any], object] | None = None
    on_failure: Callable[[str, BaseException], object] | None = None
    wait: wait_base | None = None
    stop: stop_base | None = None
    fallback_checkpoints: int = 3
    allow_weights_only: bool = False
    attempt_timeout: float = 600.0
    max_incidents: int = 5
    incident_window: float = 3600.0
    max_stuck: int = 3
    recover_on: str = "error"
    on_doubt: str = "recover"
    confirm_within: float = 30.0
    unprotected_after: float = 1800.0

    def __new__(cls, *_: object, **given: object) -> Policy:
        """Refuse unknown fields with the nearest name."""
        for name, value in given.items():
            _check_known(name, value, _FIELDS)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name in ("enabled", "restore_optimizer", "allow_weights_only"):
            if not isinstance(getattr(self, name), bool):
                raise PolicyError(name, getattr(self, name), "True or False")
        for name, least in _COUNTS.items():
            _check_count(name, getattr(self, name), least)
        for name, shortest in _TIMES.items():
            _check_seconds(name, getattr(self, name), shortest)
        _check_seconds("backoff", self.backoff, most=self.max_backoff)
        for name in _CALLBACKS:
            callback = getattr(self, name)
            if callback is not None and not callable(callback):
                raise PolicyError(name, callback, "a callable or None")
        if self.recover_on not in ("error", "unusable", "corrupted"):
            allowed = "'error', 'unusable' or 'corrupted'"
            raise PolicyError("recover_on", self.recover_on, allowed)
        if self.on_doubt not in ("recover", "warn", "ignore"):
            raise PolicyError("on_doubt", self.on_doubt, "'recover', 'warn' or 'ignore'")
        object.__setattr__(self, "checkpoint_strategy", _strategy(self.checkpoint_strategy))
        if self.wait is not None or self.stop is not None:
            _check_strategies(self)
        if self.wait is not None and (self.backoff, self.max_backoff) != (BACKOFF, MAX_BACKOFF):
            raise PolicyError("wait", self.wait, "either wait, or backoff and max_backoff")
        if self.stop is not None and self.max_attempts != MAX_ATTEMPTS:
            raise PolicyError("stop", self.stop, "either stop or max_attempts")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Policy:
        """Make a policy from a mapping, for example one read from a file.

        The Elixir original's names in milliseconds (`poll_interval_ms`, `backoff_ms`,
        `max_backoff_ms`) and its strategies (`{"specific": path}`) are taken too.

        Raises:
            PolicyError: A name is unknown, given twice, or its value cannot be used.
        """
        if not isinstance(mapping, Mapping):
            raise PolicyError("policy", mapping, "a Policy or a mapping of its fields")
        given: dict[str, Any] = {}
        for name, value in mapping.items():
            _check_known(name, value, (*_FIELDS, *_MILLISECONDS))
            ours = _MILLISECONDS.get(name, name)
            if ours in given:
                raise PolicyError(name, value, f"{ours} once, in seconds or in milliseconds")
            given[ours] = value
            if name in _MILLISECONDS:
                _check_seconds(name, value)
                given[ours] = value / 1000
        return cls(**given)

    def __repr__(self) -> str:
        given = ", ".join(
            f"{each.name}={shown}" for each, shown, is_set in self._values() if is_set
        )
        return f"Policy({given})"

    def _repr_html_(self) -> str:
        values = list(self._values())
        title = f"policy: {sum(is_set for *_, is_set in values)} of {len(values)} fields are set"
        return Table.of(title, ("field", "value", "default"), values, _row).html()

    def _values(self) -> Iterator[tuple[Field[Any], str, bool]]:
        """Each field, its value as it is shown, and whether that is not the default."""
        for each in fields(self):
            value = getattr(self, each.name)
            is_callback = each.name in _CALLBACKS and value is not None
            is_set = is_callback or (value is not each.default and value != each.default)
            yield each, _callback(value) if is_callback else repr(value), is_set


def _row(value: tuple[Field[Any], str, bool]) -> Row:
    each, shown, is_set = value
    tone: Tone | None = "busy" if is_set else None
    return each.name, replace(Cell.long(shown), tone=tone), repr(each.default) if is_set else ""


_CALLBACKS = ("on_recovery", "on_failure")


def _callback(function: object) -> str:
    """A caller's function by its name alone: what it is bound to may hold a key, or raise."""
    if isinstance(function, FunctionType | MethodType | BuiltinFunctionType):
        return f"<{function.__qualname__}>"
    return f"<{type(function).__qualname__}>"


_FIELDS = tuple(field.name for field in fields(Policy))


def _check_known(name: str, value: object, known: tuple[str, ...]) -> None:
    if name in known:
        return
    import difflib  # noqa: PLC0415 (only a misspelt name needs it)

    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    allowed = f"the fields are {', '.join(known)}"
    raise PolicyError.unknown(name, value, allowed, near[0] if near else None)


def _check_strategies(policy: Policy) -> None:
    from tenacity import stop, wait  # noqa: PLC0415 (most policies have neither)

    for name, kind in (("wait", wait.wait_base), ("stop", stop.stop_base)):
        given = getattr(policy, name)
        if given is not None and not isinstance(given, kind):
            raise PolicyError(name, given, f"a tenacity {name} strategy or None")


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PolicyError(name, value, f"a whole number, {least} or more")


def _check_seconds(
    name: str, value: object, least: float = 0.0, most: float = MOST_SECONDS
) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        raise PolicyError(name, value, f"a finite number of seconds from {least:g} to {most:g}")


def _strategy(given: object) -> str | Specific:
    allowed = "'latest', a tinker path, or Specific(path)"
    if isinstance(given, Specific) or given == "latest":
        return given
    if given == "best":
        raise PolicyError("checkpoint_strategy", given, f"{allowed} ('best' is reserved)")
    if isinstance(given, Mapping) and set(given) == {"specific"}:
        return Specific(given["specific"])
    if isinstance(given, (tuple, list)) and len(given) == 2 and given[0] == "specific":
        return Specific(given[1])
    if isinstance(given, str) and given.startswith("tinker://"):
        return Specific(given)
    raise PolicyError("checkpoint_strategy", given, allowed)
