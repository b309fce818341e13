"""Immutable values for the API's JSON: runs, pages of runs, checkpoints, paths, weights info."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Literal, Self, TypeVar, cast

from .errors import ApiResponseError

__all__ = ["Checkpoint", "TinkerPath", "TrainingRun", "TrainingRunPage", "WeightsInfo"]

_T = TypeVar("_T")

_SCHEME = "tinker://"
_KINDS: dict[str, Literal["training", "sampler"]] = {
    "weights": "training",
    "sampler_weights": "sampler",
}
_PATH_FORMS = "tinker://RUN_ID/weights/NAME or tinker://RUN_ID/sampler_weights/NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinkerPath:
    """The parts of a checkpoint's path; `str()` gives the path as text."""

    run_id: str
    checkpoint_type: Literal["training", "sampler"]
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a tinker path.

        Raises:
            ValueError: `text` is not the path of a training or a sampler checkpoint.
        """
        if not isinstance(text, str):
            raise ValueError(f"a tinker path is text like {_PATH_FORMS}, not {_shown(text)}")  # noqa: TRY004
        problem = _path_problem(text)
        if problem:
            raise ValueError(
                f"{reprlib.repr(text)} is not a tinker path: {problem}; use {_PATH_FORMS}"
            )
        run_id, kind, name = text.removeprefix(_SCHEME).split("/", 2)
        return cls(run_id=run_id, checkpoint_type=_KINDS[kind], name=name)

    def __str__(self) -> str:
        kind = "weights" if self.checkpoint_type == "training" else "sampler_weights"
        return f"{_SCHEME}{self.run_id}/{kind}/{self.name}"


def _path_problem(text: str) -> str | None:
    if not text.startswith(_SCHEME):
        return f"it does not begin with {_SCHEME}"
    if not text.isprintable() or any(character.isspace() for character in text):
        return "it holds a space or a control character"
    parts = text.removeprefix(_SCHEME).split("/")
    if "" in parts or "." in parts or ".." in parts:
        return "one of its parts is empty, '.' or '..'"
    if len(parts) < 3:
        return "a part is missing"
    if parts[1] not in _KINDS:
        return f"{reprlib.repr(parts[1])} is not one of {', '.join(_KINDS)}"
    return None


def list_of_objects(owner: type, data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the list `name` of an answer, after a check that it holds only objects."""
    rows = data.get(name)
    if not isinstance(rows, list):
        raise _misfit(owner, name, rows, "a list")
    for row in rows:
        if not isinstance(row, Mapping):
            raise _misfit(owner, name, row, "a list of objects")
    return rows


def _mapping(owner: type, data: Any) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return data
    dump = getattr(data, "model_dump", None)
    dumped = dump() if callable(dump) else None
    if isinstance(dumped, Mapping):
        return dumped
    raise ApiResponseError(f"a {owner.__name__} should be a JSON object, but is {_shown(data)}")


def _misfit(owner: type, name: str, value: Any, allowed: str) -> ApiResponseError:
    return ApiResponseError(
        f"{owner.__name__} field {name!r} should be {allowed}, but is {_shown(value)}"
    )


def _shown(value: Any) -> str:
    return "missing or null" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"


def _optional(
    owner: type, row: Mapping[str, Any], name: str, kind: type[_T], allowed: str
) -> _T | None:
    value = row.get(name)
    if value is None:
        return None
    # In Python a bool is an int; in the API it is not.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _misfit(owner, name, value, allowed)
    return value


def _text(owner: type, row: Mapping[str, Any], name: str) -> str | None:
    return _optional(owner, row, name, str, "text")


def _required_text(owner: type, row: Mapping[str, Any], name: str) -> str:
    value = _text(owner, row, name)
    if not value:
        raise _misfit(owner, name, value, "text that is not empty")
    return value


def _whole(owner: type, row: Mapping[str, Any], name: str) -> int | None:
    return _optional(owner, row, name, int, "a whole number")


def _flag(owner: type, row: Mapping[str, Any], name: str) -> bool | None:
    return _optional(owner, row, name, bool, "true or false")


def _corrupted(owner: type, row: Mapping[str, Any], name: str) -> bool:
    # A flag that cannot be read, null included, must not count as "not corrupted".
    value = row.get(name, False)
    if not isinstance(value, bool):
        raise _misfit(owner, name, value, "true or false")
    return value


def _metadata(owner: type, row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value: Mapping[str, Any] | None = _optional(owner, row, name, Mapping, "an object")  # type: ignore[type-abstract]
    return None if value is None else dict(value)


def _checkpoint(_: type, row: Mapping[str, Any], name: str) -> Checkpoint | None:
    value = row.get(name)
    return None if value is None else Checkpoint.from_json(value)


def _time(owner: type, row: Mapping[str, Any], name: str) -> datetime | None:
    value = row.get(name)
    if value is None:
        return None
    moment = _moment(value)
    if moment is None:
        raise _misfit(owner, name, value, "a time in ISO 8601")
    return moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC)


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None
    return None


def _id_in_path(owner: type, row: Mapping[str, Any], name: str) -> str | None:
    given, known = _text(owner, row, name), _known(row["tinker_path"])
    return known.name if known and given is None else given


def _type_in_path(owner: type, row: Mapping[str, Any], name: str) -> str | None:
    given, known = _text(owner, row, name), _known(row["tinker_path"])
    return known.checkpoint_type if known and given is None else given


@lru_cache(maxsize=1)
def _known(path: str) -> TinkerPath | None:
    """A path taken apart, where it is one; both fields of a row ask for the same."""
    return None if _path_problem(path) else TinkerPath.parse(path)


class _Answer:
    """A JSON object of the API; the metadata of each field holds the function that reads it."""

    __slots__ = ()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Make it from the API's JSON object, or from the official SDK's object.

        Raises:
            ApiResponseError: a field has the wrong type, or one that is always sent is missing.
        """
        if isinstance(data, cls):
            return data
        row = _mapping(cls, data)
        return cls(**{name: read(cls, row, name) for name, read in _readers(cast("Hashable", cls))})


@cache
def _readers(kind: Hashable) -> list[tuple[str, Callable[..., Any]]]:
    return [(each.name, each.metadata["read"]) for each in fields(cast("Any", kind))]


def _by(read: Callable[..., object]) -> dict[str, object]:
    """A field's metadata: the function that reads it from a row."""
    return {"read": read}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(_Answer):
    """A saved state of a run. A field that the server did not send is `None`.

    If `checkpoint_id` or `checkpoint_type` is missing, `from_json` reads it from the path.
    """

    tinker_path: str = field(metadata=_by(_required_text))
    checkpoint_id: str | None = field(default=None, metadata=_by(_id_in_path))
    checkpoint_type: str | None = field(default=None, metadata=_by(_type_in_path))
    time: datetime | None = field(default=None, metadata=_by(_time))
    size_bytes: int | None = field(default=None, metadata=_by(_whole))
    public: bool | None = field(default=None, metadata=_by(_flag))
    user_metadata: Mapping[str, Any] | None = field(
        default=None, hash=False, metadata=_by(_metadata)
    )
    expires_at: datetime | None = field(default=None, metadata=_by(_time))

    @classmethod
    def from_path(cls, path: str | TinkerPath) -> Self:
        """Make a checkpoint from its path alone.

        Raises:
            ValueError: `path` is not a tinker path.
        """
        parsed = path if isinstance(path, TinkerPath) else TinkerPath.parse(path)
        return cls(
            tinker_path=str(parsed),
            checkpoint_id=parsed.name,
            checkpoint_type=parsed.checkpoint_type,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(_Answer):
    """A training run as the server sees it. A field that the server did not send is `None`."""

    training_run_id: str = field(metadata=_by(_required_text))
    base_model: str | None = field(default=None, metadata=_by(_text))
    model_owner: str | None = field(default=None, metadata=_by(_text))
    is_lora: bool | None = field(default=None, metadata=_by(_flag))
    corrupted: bool = field(default=False, metadata=_by(_corrupted))
    lora_rank: int | None = field(default=None, metadata=_by(_whole))
    last_request_time: datetime | None = field(default=None, metadata=_by(_time))
    last_checkpoint: Checkpoint | None = field(default=None, metadata=_by(_checkpoint))
    last_sampler_checkpoint: Checkpoint | None = field(default=None, metadata=_by(_checkpoint))
    user_metadata: Mapping[str, Any] | None = field(
        default=None, hash=False, metadata=_by(_metadata)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRunPage:
    """One page of the list of runs.

    `rows` are the JSON objects as the server sent them: a caller that needs few of them does not
    pay for converting all. `training_runs` are the same rows as `TrainingRun` values.
    """

    rows: list[Mapping[str, Any]] = field(hash=False)
    total_count: int | None = None
    _runs: list[TrainingRun] = field(
        default_factory=list, init=False, repr=False, compare=False, hash=False
    )

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Make a page from the API's JSON object, or from the official SDK's object.

        Raises:
            ApiResponseError: it has no list of objects.
        """
        page = _mapping(cls, data)
        cursor = page.get("cursor")
        total = None if cursor is None else _whole(cls, _mapping(cls, cursor), "total_count")
        rows = page.get("training_runs")
        # A bad row is left out; if all are bad, this is not a page.
        good = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        if not good:
            good = list_of_objects(cls, page, "training_runs")
        return cls(rows=good, total_count=total)

    @property
    def training_runs(self) -> tuple[TrainingRun, ...]:
        """The runs of this page, converted at the first access.

        Raises:
            ApiResponseError: a row is not a run.
        """
        if len(self._runs) != len(self.rows):
            # One assignment: two threads at the same time both see a whole list.
            self._runs[:] = [TrainingRun.from_json(row) for row in self.rows]
        return tuple(self._runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo(_Answer):
    """The base model and LoRA settings of a checkpoint; a client that loads it needs the same."""

    base_model: str = field(metadata=_by(_required_text))
    is_lora: bool | None = field(default=None, metadata=_by(_flag))
    lora_rank: int | None = field(default=None, metadata=_by(_whole))
    train_unembed: bool | None = field(default=None, metadata=_by(_flag))
    train_mlp: bool | None = field(default=None, metadata=_by(_flag))
    train_attn: bool | None = field(default=None, metadata=_by(_flag))
