"""`Backend`, which applies each run's requests in order of their numbers, and keeps futures."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .model import LanguageModel
from .records import Refusal
from .runs import Run, Session, now
from .sampling import SampleRequest, Samplers
from .state import State
from .training import LoadWeights, Operation, Outcome, Trainer

#: The model that the server says it has; it accepts any other name too.
BASE_MODEL = "tinkex/rehearsal-bigram"
#: The most futures that are remembered; older ones are unknown.
FUTURES_KEPT = 10_000


@dataclass(slots=True, kw_only=True)
class Pending:
    """The future of an accepted request of a run or a sampler, its `source_id`.

    `outcome` is `None` until the request was applied.
    """

    request_id: str
    source_id: str
    owner: str
    outcome: Outcome | None = None
    fetched: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, outcome: Outcome | None) -> None:
        """Set the outcome and wake all waits for it; with `None` they wait on."""
        if outcome is not None:
            self.outcome = outcome
            self.settled.set()


@dataclass(slots=True)
class _Queue:
    """A run's requests: the early ones in `waiting`, the id of each number's future in `taken`."""

    due: int = 1
    waiting: dict[int, tuple[Operation, Pending]] = field(default_factory=dict)
    taken: dict[int, str] = field(default_factory=dict)


class Backend:
    """Accepts requests, applies them in order, and keeps their futures.

    Threads: all of it belongs to the server's thread; only `State` is shared.
    """

    def __init__(self, state: State, trainer: Trainer, samplers: Samplers) -> None:
        self._state = state
        self._trainer = trainer
        self._samplers = samplers
        self._queues: dict[str, _Queue] = {}
        self._futures: dict[str, Pending] = {}
        self._count = 0

    def create_model(
        self,
        owner: str,
        session_id: str,
        number: int,
        *,
        base_model: str,
        lora_config: Mapping[str, Any],
        user_metadata: Mapping[str, str] | None,
    ) -> Pending:
        """Make a run with fresh weights; the same number again returns the same future."""
        run_id = f"{session_id}:train:{number}"
        if known := self._known(run_id, 0):
            return known
        session = self._state.live_session_of(owner, session_id)
        run = self._add_run(
            session,
            run_id,
            base_model=base_model,
            lora_config=lora_config,
            user_metadata=user_metadata,
        )
        pending = self._promise_of(run, 0)
        pending.settle({"model_id": run.run_id, "type": "create_model"})
        return pending

    def create_from_weights(
        self,
        owner: str,
        session_id: str,
        number: int,
        load: LoadWeights,
        *,
        base_model: str | None,
        user_metadata: Mapping[str, str] | None,
    ) -> Pending:
        """Make a run and load a checkpoint into it; if that fails, an empty run stays."""
        run_id = f"{session_id}:train:{number}"
        if run_id not in self._queues:
            with self._state.changed:
                source = self._state.runs.get(load.path.removeprefix("tinker://").split("/")[0])
            name = BASE_MODEL if source is None else source.base_model
            config = {"rank": 32} if source is None else source.lora_config
            self._add_run(
                self._state.live_session_of(owner, session_id),
                run_id,
                base_model=base_model or name,
                lora_config=config,
                user_metadata=user_metadata,
            )
        return self.submit(owner, run_id, 0, load)

    def submit(self, owner: str, run_id: str, sequence: int | None, work: Operation) -> Pending:
        """Accept a request and apply all requests that are due; a repeated one has one future.

        `Refusal` if the run is unknown, or the request is refused before it has a future.
        """
        run = self._state.run_of(owner, run_id)
        queue = self._queues[run_id]
        with self._state.changed:
            run.last_request = now()
        if sequence is None:
            sequence = max((queue.due - 1, *queue.waiting)) + 1
        if known := self._known(run_id, sequence):
            return known
        pending = self._promise_of(run, sequence)
        if sequence < queue.due:
            # The load of a new run, or a refused request that is sent again.
            pending.settle(self._trainer.perform(run, sequence, work))
        else:
            queue.waiting[sequence] = (work, pending)
            self._drain(run, queue)
        if isinstance(pending.outcome, Refusal) and pending.outcome.early:
            del queue.taken[sequence]
            raise pending.outcome
        return pending

    def sample(
        self, owner: str, sampler_id: str, sequence: int | None, request: SampleRequest
    ) -> Pending:
        """Sample at once; a repeated request has a new future with the same samples."""
        report = self._samplers.sample(owner, sampler_id, sequence, request)
        pending = self._promise(owner, sampler_id)
        pending.settle(report)
        return pending

    def future(self, owner: str, request_id: str) -> Pending:
        """Find the future of a request."""
        pending = self._futures.get(request_id)
        if pending is None or pending.owner != owner:
            raise Refusal(404, f"Future {request_id} not found")
        return pending

    def refuse(self, run_id: str, detail: str) -> None:
        """Have the requests of a run whose answers were not fetched refused; none is served now."""
        detail += " Operations after this checkpoint need to be retried."
        for pending in self._futures.values():
            if pending.source_id == run_id and not pending.fetched:
                pending.settle(Refusal(410, detail))

    def _drain(self, run: Run, queue: _Queue) -> None:
        while entry := queue.waiting.pop(queue.due, None):
            work, pending = entry
            sequence, queue.due = queue.due, queue.due + 1
            pending.settle(self._trainer.perform(run, sequence, work))

    def _add_run(
        self,
        session: Session,
        run_id: str,
        *,
        base_model: str,
        lora_config: Mapping[str, Any],
        user_metadata: Mapping[str, str] | None,
    ) -> Run:
        seed = lora_config.get("seed")
        run = Run(
            run_id=run_id,
            owner=session.owner,
            base_model=base_model,
            lora_config=lora_config,
            user_metadata=user_metadata,
            model=LanguageModel(zlib.crc32(run_id.encode()) if seed is None else abs(int(seed))),
        )
        self._queues[run_id] = _Queue()
        self._state.add_run(session, run)
        return run

    def _promise_of(self, run: Run, sequence: int) -> Pending:
        pending = self._promise(run.owner, run.run_id)
        self._queues[run.run_id].taken[sequence] = pending.request_id
        return pending

    def _promise(self, owner: str, source_id: str) -> Pending:
        self._count += 1
        request_id = f"{source_id}:request:{self._count}"
        pending = Pending(request_id=request_id, source_id=source_id, owner=owner)
        self._futures[request_id] = pending
        if len(self._futures) > FUTURES_KEPT:
            self._futures.pop(next(iter(self._futures)))
        return pending

    def _known(self, run_id: str, sequence: int) -> Pending | None:
        queue = self._queues.get(run_id)
        request_id = None if queue is None else queue.taken.get(sequence)
        return None if request_id is None else self._futures.get(request_id)
