"""The server's runs and checkpoints, with their JSON for the API and values for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .model import LanguageModel
from .records import CheckpointInfo, FailureMode, RunInfo

#: The two kinds of checkpoints, as written in a tinker path.
TRAINING = "weights"
SAMPLER = "sampler_weights"
_TYPES = {TRAINING: "training", SAMPLER: "sampler"}


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)


def isoformat(moment: datetime) -> str:
    """Write `moment` as the API does: ISO 8601 with microseconds and Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """A saved state; `kind` is its segment in the tinker path."""

    run_id: str
    kind: str
    name: str
    time: datetime
    size_bytes: int
    step: int
    expires_at: datetime | None = None
    user_metadata: Mapping[str, str] | None = None
    broken: bool = False

    @property
    def tinker_path(self) -> str:
        """The path that clients use as its name."""
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"

    @property
    def expired(self) -> bool:
        """Whether `expires_at` has passed."""
        return self.expires_at is not None and self.expires_at <= now()

    def keep_for(self, seconds: float | None) -> None:
        """Make it expire `seconds` from now, or never."""
        self.expires_at = None if seconds is None else now() + timedelta(seconds=seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the API's JSON object; without metadata the field is left out."""
        answer: dict[str, Any] = {
            "checkpoint_id": self.name,
            "checkpoint_type": _TYPES[self.kind],
            "time": isoformat(self.time),
            "tinker_path": self.tinker_path,
            "size_bytes": self.size_bytes,
            "public": False,
            "expires_at": None if self.expires_at is None else isoformat(self.expires_at),
        }
        if self.user_metadata is not None:
            answer["user_metadata"] = dict(self.user_metadata)
        return answer

    def info(self) -> CheckpointInfo:
        """Return the value for Python callers."""
        return CheckpointInfo(
            tinker_path=self.tinker_path,
            checkpoint_type=_TYPES[self.kind],
            name=self.name,
            step=self.step,
            broken=self.broken,
            expires_at=self.expires_at,
            user_metadata=None if self.user_metadata is None else dict(self.user_metadata),
        )


@dataclass(slots=True, kw_only=True)
class Run:
    """A training run; the state's lock guards it, except `model` (the server's thread only)."""

    run_id: str
    owner: str
    base_model: str
    lora_config: Mapping[str, Any]
    user_metadata: Mapping[str, str] | None
    model: LanguageModel
    last_request: datetime = field(default_factory=now)
    corrupted: bool = False
    failure: FailureMode | None = None
    forgotten: bool = False
    unloaded: bool = False
    created_from: str | None = None
    with_optimizer: bool = False
    start_step: int = 0
    #: By tinker path, oldest first.
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)

    def newest(self, kind: str) -> Checkpoint | None:
        """Find the newest checkpoint of `kind`."""
        return next((one for one in reversed(self.checkpoints.values()) if one.kind == kind), None)

    def to_json(self) -> dict[str, Any]:
        """Return the API's JSON object."""
        training, sampler = self.newest(TRAINING), self.newest(SAMPLER)
        return {
            "training_run_id": self.run_id,
            "base_model": self.base_model,
            "model_owner": self.owner,
            "is_lora": True,
            "corrupted": self.corrupted,
            "lora_rank": self.lora_config["rank"],
            "last_request_time": isoformat(self.last_request),
            "last_checkpoint": None if training is None else training.to_json(),
            "last_sampler_checkpoint": None if sampler is None else sampler.to_json(),
            "user_metadata": None if self.user_metadata is None else dict(self.user_metadata),
        }

    def info(self) -> RunInfo:
        """Return the value for Python callers."""
        return RunInfo(
            run_id=self.run_id,
            owner=self.owner,
            base_model=self.base_model,
            corrupted=self.corrupted,
            failure=self.failure,
            forgotten=self.forgotten,
            steps=self.model.steps,
            start_step=self.start_step,
            created_from=self.created_from,
            with_optimizer=self.with_optimizer,
            user_metadata=None if self.user_metadata is None else dict(self.user_metadata),
            checkpoints=tuple(one.info() for one in self.checkpoints.values()),
        )
