"""The answers of the API as values: a run, a page of runs, a checkpoint, the info of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from functools import cache
from typing import Any, Self, TypeVar

from ..display.checkpoints import ShownCheckpoint
from ..errors import ApiResponseError
from .path import TinkerPath
from .reading import READERS, as_whole, list_of_objects, mapping_of, misfit_error

#: Fields that an answer had but that do not fit, each with the reason.
Misfits = tuple[tuple[str, str], ...]


class _Answer:
    """A JSON object of the API as a dataclass; the type of a field says how it is read."""

    __slots__ = ()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Make it from the API's JSON object, or from the official SDK's object.

        Raises:
            ApiResponseError: a field has the wrong type, or one without a default is missing.
        """
        if isinstance(data, cls):
            return data
        sent, misfits = _values(cls, data)
        for misfit in misfits.values():
            raise misfit
        return cls(**sent)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Checkpoint(ShownCheckpoint, _Answer):
    """A saved state of a run. A field that the server did not send is `None`.

    `checkpoint_id` and `checkpoint_type` are read from the path where they are missing.
    """

    tinker_path: str
    checkpoint_id: str | None = None
    checkpoint_type: str | None = None
    time: datetime | None = None
    size_bytes: int | None = None
    public: bool | None = None
    user_metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    expires_at: datetime | None = None
    _misfits: Misfits = field(default=(), init=False, repr=False, compare=False)

    @classmethod
    def from_path(cls, path: str | TinkerPath) -> Self:
        """Make a checkpoint from its path alone; `ValueError` if it is not a tinker path."""
        known = path if isinstance(path, TinkerPath) else TinkerPath.parse(path)
        return cls(
            tinker_path=str(known), checkpoint_id=known.name, checkpoint_type=known.checkpoint_type
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(_Answer):
    """A training run as the server sees it. A field that the server did not send is `None`."""

    training_run_id: str
    base_model: str | None = None
    model_owner: str | None = None
    is_lora: bool | None = None
    # A flag that cannot be read, null included, must not count as "not corrupted".
    corrupted: bool = False
    lora_rank: int | None = None
    last_request_time: datetime | None = None
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    _misfits: Misfits = field(default=(), init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRunPage:
    """One page of the list of runs.

    `rows` are the JSON objects as the server sent them: a caller that needs few of them does not
    pay for converting all. `training_runs` are the same rows as `TrainingRun` values. `left_out` is
    how many rows were sent that are no objects.
    """

    rows: list[Mapping[str, Any]] = field(hash=False)
    total_count: int | None = None
    left_out: int = 0
    _runs: list[TrainingRun] = field(
        default_factory=list, init=False, repr=False, compare=False, hash=False
    )

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Make a page from JSON or the SDK's object; `ApiResponseError` if it lists no objects."""
        page = mapping_of(cls, data)
        total = cls.total_of(page.get("cursor"))
        rows = page.get("training_runs")
        # A bad row is left out; if all are bad, this is not a page.
        found = rows if isinstance(rows, list) else []
        is_plain = set(map(type, found)) == {dict}
        good = found if is_plain else [row for row in found if isinstance(row, Mapping)]
        if not good:
            good = list_of_objects(cls, page, "training_runs")
        return cls(rows=good, total_count=total, left_out=len(found) - len(good))

    @classmethod
    def total_of(cls, cursor: Any) -> int | None:
        """The total that a page's cursor tells; `ApiResponseError` if that is no whole number."""
        total = None if cursor is None else mapping_of(cls, cursor).get("total_count")
        if total is not None and as_whole(total) is None:
            raise misfit_error(cls, "total_count", total, "a whole number")
        return total

    @property
    def training_runs(self) -> tuple[TrainingRun, ...]:
        """The runs, converted at the first access; `ApiResponseError` if a row is not a run."""
        if len(self._runs) != len(self.rows):
            # One assignment: two threads at the same time both see a whole list.
            self._runs[:] = [TrainingRun.from_json(row) for row in self.rows]
        return tuple(self._runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo(_Answer):
    """The base model and LoRA settings of a checkpoint; a client that loads it needs the same."""

    base_model: str
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None


_Kind = TypeVar("_Kind", TrainingRun, Checkpoint)


def fitting(kind: type[_Kind], data: Any) -> _Kind:
    """Make a run or a checkpoint of what fits: other fields are left out, see `misfits_of`.

    Raises:
        ApiResponseError: it is no object, or a run's id or flag or a checkpoint's path do not fit.
    """
    if isinstance(data, kind):
        return data
    sent, misfits = _values(kind, data, lenient=True)
    for each in fields(kind):
        if each.default is not None and each.name in misfits:
            raise misfits[each.name]
    made = kind(**sent)
    told = [(f"{kind.__name__}.{name}", str(misfit)) for name, misfit in misfits.items()]
    for part in ("last_checkpoint", "last_sampler_checkpoint"):
        told += misfits_of(sent.get(part))
    object.__setattr__(made, "_misfits", tuple(told))
    return made


def misfits_of(made: object) -> Misfits:
    """Which fields `fitting` left out, and why."""
    return made._misfits if isinstance(made, TrainingRun | Checkpoint) else ()


def _values(
    owner: type, data: Any, *, lenient: bool = False
) -> tuple[dict[str, Any], dict[str, ApiResponseError]]:
    """The fields that were sent and fit, and why others do not.

    One with its default's value counts as not sent. `lenient`: so is a checkpoint in it read.
    """
    row = mapping_of(owner, data)
    sent: dict[str, Any] = {}
    misfits = {}
    for name, default, (read, allowed) in _fields(owner):
        value = row.get(name, default)
        if value is default and value is not MISSING:
            continue
        try:
            found = fitting(Checkpoint, value) if lenient and read is _checkpoint else read(value)
        except ApiResponseError as error:
            misfits[name] = error
            continue
        if found is None:
            misfits[name] = misfit_error(owner, name, value, allowed)
        else:
            sent[name] = found
    if owner is Checkpoint and "tinker_path" in sent:
        _complete(sent)
    return sent, misfits


def _complete(sent: dict[str, Any]) -> None:
    """Read from a checkpoint's path what else it tells."""
    if not sent.keys() >= {"checkpoint_id", "checkpoint_type"}:
        with suppress(ValueError):
            known = TinkerPath.parse(sent["tinker_path"])
            sent.setdefault("checkpoint_id", known.name)
            sent.setdefault("checkpoint_type", known.checkpoint_type)


@cache
def _fields(owner: type) -> tuple[tuple[str, Any, tuple[Callable[[Any], Any], str]], ...]:
    return tuple(
        (each.name, each.default, _READERS[str(each.type)]) for each in fields(owner) if each.init
    )


_checkpoint = Checkpoint.from_json
_READERS = {**READERS, "Checkpoint | None": (_checkpoint, "an object")}
