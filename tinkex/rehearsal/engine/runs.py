"""The server's sessions, runs and checkpoints, with their JSON and their values for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .model import LanguageModel
from .records import CheckpointInfo, FailureMode, Refusal, RunInfo, SessionEnd

#: The two kinds of checkpoints, as written in a tinker path.
TRAINING = "weights"
SAMPLER = "sampler_weights"
#: The status of a session that goes on.
ACTIVE: Mapping[str, Any] = {"type": "active"}
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

    @property
    def session_id(self) -> str:
        """The session that it was made in."""
        return self.run_id.partition(":")[0]

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


@dataclass(slots=True, kw_only=True)
class Session:
    """A session; the state's lock guards it.

    `end` is what its calls are answered once it is over, `status` what a search tells of it.
    """

    session_id: str
    owner: str
    display_name: str | None = None
    user_metadata: Mapping[str, Any] | None = None
    created: datetime = field(default_factory=now)
    end: SessionEnd | None = None
    status: Mapping[str, Any] = field(default_factory=lambda: ACTIVE)
    run_ids: list[str] = field(default_factory=list)
    sampler_ids: list[str] = field(default_factory=list)

    def finish(self, reason: Mapping[str, Any], detail: str | None) -> None:
        """Its client says that it is done; without effect on one that is over."""
        if self.end is None:
            self.end = "finished"
            self.status = {"type": "client_finished", "reason": dict(reason), "detail": detail}

    def fail(self, how: SessionEnd, run_id: str | None = None) -> None:
        """End it: with its run of this id, or by itself."""
        self.end = how
        if run_id is None:
            self.status = {"type": "cancelled", "detail": None}
        else:
            self.status = {
                "type": "failed",
                "category": "internal",
                "reason": {"type": "training_run", "training_run_id": run_id},
                "message": f"Training run {run_id} was lost to a failure of the backend.",
            }

    def check(self, *, finished_status: int = 400) -> None:
        """Raise the `Refusal` of its calls if it is over."""
        match self.end:
            case "gone":
                raise Refusal(404, f"Session {self.session_id} not found", early=True)
            case "finished":
                detail = f"Session {self.session_id} has finished"
                raise Refusal(finished_status, detail, early=True)
            case "poisoned":
                raise Refusal(410, "This ServiceClient is poisoned.", early=True)
