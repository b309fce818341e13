"""`State`, the server's memory: sessions, runs, the step log, planned corruptions; one lock."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any
from uuid import UUID

from .records import AppliedStep, FailureMode, Refusal, RunInfo, SessionEnd
from .runs import TRAINING, Checkpoint, Run, Session

#: A checkpoint's path: its run, its kind, its name.
_PATH = re.compile(r"tinker://([^/]+)/(weights|sampler_weights)/([^/]+)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """A planned corruption, before a run applies step `step`; a `run_id` of `None`: any run."""

    run_id: str | None
    step: int
    break_newest: int
    flag: bool
    mode: FailureMode
    ends_session: SessionEnd | None


class State:
    """The memory that the server's thread and its Python callers share.

    Threads: `changed` is the lock; hold it around every use of what it guards, and never during
    file or socket work. Methods take it themselves (it is re-entrant).
    """

    def __init__(self, *, seed: int | None, unknown_run_status: int) -> None:
        self._random = SystemRandom() if seed is None else Random(seed)
        self._unknown_run_status = unknown_run_status
        self.changed = threading.Condition(threading.RLock())
        # Guarded by changed:
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, Run] = {}
        self._steps: list[AppliedStep] = []
        self._traps: list[Trap] = []

    def open_session(
        self,
        owner: str,
        *,
        display_name: str | None = None,
        user_metadata: Mapping[str, Any] | None = None,
    ) -> Session:
        """Begin a session of `owner`."""
        with self.changed:
            identity = str(UUID(int=self._random.getrandbits(128), version=4))
            session = self.sessions[identity] = Session(
                session_id=identity,
                owner=owner,
                display_name=display_name,
                user_metadata=user_metadata,
            )
            return session

    def session_of(self, owner: str, session_id: str) -> Session:
        """Find a session; that of another owner, and one that is gone, is not found."""
        with self.changed:
            session = self.sessions.get(session_id)
            if session is None or session.owner != owner or session.end == "gone":
                raise Refusal(404, f"Session {session_id} not found", early=True)
            return session

    def live_session_of(self, owner: str, session_id: str) -> Session:
        """Find a session for a call that belongs to it: refused where the session is over."""
        with self.changed:
            session = self.session_of(owner, session_id)
            session.check()
            return session

    def known_session(self, session_id: str) -> Session:
        """Find a session for a Python caller, of any owner."""
        with self.changed:
            try:
                return self.sessions[session_id]
            except KeyError:
                raise KeyError(f"no session {session_id!r} on this server") from None

    def add_run(self, session: Session, run: Run) -> None:
        """Remember a new run of `session`."""
        with self.changed:
            self.runs[run.run_id] = run
            session.run_ids.append(run.run_id)
            self.changed.notify_all()

    def run_of(self, owner: str, run_id: str) -> Run:
        """Find a run; a forgotten one, or one of another owner, is not found."""
        with self.changed:
            run = self.runs.get(run_id)
            if run is None or run.forgotten or run.owner != owner:
                raise self.unknown_run()
            return run

    def runs_of(self, owner: str) -> list[Run]:
        """List the runs of `owner`, the one with the newest request first."""
        with self.changed:
            mine = [run for run in self.runs.values() if run.owner == owner and not run.forgotten]
            mine.sort(key=lambda run: run.last_request)
            mine.reverse()
            return mine

    def unknown_run(self) -> Refusal:
        """Make the answer to a request about an unknown run."""
        status = self._unknown_run_status
        if status >= 500:
            return Refusal(status, "Internal Server Error", early=True, plain=True)
        return Refusal(status, "Model not found", early=True)

    def known_run(self, run_id: str) -> Run:
        """Find a run for a Python caller, of any owner."""
        with self.changed:
            try:
                return self.runs[run_id]
            except KeyError:
                raise KeyError(f"no run {run_id!r} on this server") from None

    def checkpoint(self, tinker_path: str) -> Checkpoint:
        """Find a checkpoint for a Python caller, of any owner."""
        with self.changed:
            for run in self.runs.values():
                if tinker_path in run.checkpoints:
                    return run.checkpoints[tinker_path]
        raise KeyError(f"no checkpoint {tinker_path!r} on this server")

    def saved(self, owner: str, tinker_path: str) -> Checkpoint:
        """Find a checkpoint that can be loaded; refused where there is none, or it has expired."""
        found = _PATH.match(tinker_path)
        if found is None:
            raise Refusal(400, f"{tinker_path!r} is not the path of a checkpoint", early=True)
        with self.changed:
            checkpoint = self.run_of(owner, found[1]).checkpoints.get(tinker_path)
            if checkpoint is None or checkpoint.expired:
                word = "not found" if checkpoint is None else "has expired"
                raise Refusal(404, f"Checkpoint {tinker_path} {word}", early=True)
            return checkpoint

    def log(self, step: AppliedStep) -> None:
        """Add an optimizer step that was applied to the log."""
        with self.changed:
            self._steps.append(step)
            self.changed.notify_all()

    def steps(self, run_id: str | None) -> tuple[AppliedStep, ...]:
        """List the applied steps, in the order in which they were applied."""
        with self.changed:
            return tuple(one for one in self._steps if run_id in (None, one.run_id))

    def infos(self) -> tuple[RunInfo, ...]:
        """Describe all runs, oldest first."""
        with self.changed:
            return tuple(run.info() for run in self.runs.values())

    def set_trap(self, trap: Trap) -> None:
        """Add a planned corruption; it happens once."""
        with self.changed:
            self._traps.append(trap)

    def spring(self, run_id: str, step: int) -> Trap | None:
        """Remove and return the oldest trap for `run_id` at `step`, if there is one."""
        with self.changed:
            for trap in self._traps:
                if trap.step == step and trap.run_id in (None, run_id):
                    self._traps.remove(trap)
                    return trap
            return None

    def disable(
        self, run_id: str, *, break_newest: int, mode: FailureMode, ends_session: SessionEnd | None
    ) -> tuple[str, ...]:
        """Make a run's calls fail from now on; return the tinker paths to break."""
        with self.changed:
            run = self.known_run(run_id)
            run.failure = mode
            if ends_session is not None:
                self.sessions[run.session_id].fail(ends_session, run_id)
            saved = [one for one in run.checkpoints.values() if one.kind == TRAINING]
            victims = saved[-break_newest:] if break_newest > 0 else []
            for one in victims:
                one.broken = True
            return tuple(one.tinker_path for one in victims)

    def flag(self, run_id: str) -> None:
        """Make the API say, for good, that a run is corrupted."""
        with self.changed:
            self.known_run(run_id).corrupted = True
            self.changed.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait until `predicate()` is true, up to `timeout` seconds."""
        with self.changed:
            return self.changed.wait_for(predicate, timeout)
