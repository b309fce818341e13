"""`TinkerPath`, the path of a checkpoint, taken apart."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Literal, Self

from .reading import shown

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
            raise ValueError(f"a tinker path is text like {_PATH_FORMS}, not {shown(text)}")  # noqa: TRY004
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
    if not text.isprintable() or " " in text:
        return "it holds a space or a control character"
    parts = text.removeprefix(_SCHEME).split("/")
    if "" in parts or "." in parts or ".." in parts:
        return "one of its parts is empty, '.' or '..'"
    if len(parts) < 3:
        return "a part is missing"
    if parts[1] not in _KINDS:
        return f"{reprlib.repr(parts[1])} is not one of {', '.join(_KINDS)}"
    return None
