"""`Samplers`, which keeps the weights that sampling clients use, and samples from them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from .model import VOCABULARY, Floats, LanguageModel, Tokens, logprobs_of
from .records import Refusal
from .runs import Session
from .state import State
from .store import CheckpointStore

#: The longest sequence, prompt included.
CONTEXT = 512
#: The most samplers whose weights are kept; older ones are not found any more.
SAMPLERS_KEPT = 4_000
#: The seed of the base model, from which one can sample without a checkpoint.
BASE_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How to sample, by the names of the Tinker API; `stop` are tokens that end a sequence."""

    max_tokens: int | None = None
    seed: int | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    stop: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What to sample; `scored` is how many of the prompt's last tokens are scored."""

    prompt: Tokens
    count: int
    settings: SamplingSettings
    scored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sampled sequence, with the log-probability that the model gave each token.

    `is_stopped`: its last token is one of the stop tokens.
    """

    tokens: Tokens
    logprobs: Floats
    is_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """The result of a sampling request; NaN for each token of the prompt that was not scored."""

    samples: tuple[Sample, ...]
    prompt_logprobs: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """The weights behind a sampling client, as they were when it was made."""

    sampler_id: str
    session: Session
    base_model: str
    model_path: str | None
    weights: Floats

    def sample(self, request: SampleRequest, seed: int) -> SampleReport:
        """Sample; `seed` counts where the request has none."""
        settings = request.settings
        start = int(request.prompt[-1])
        length = _length(len(request.prompt), settings)
        logprobs = logprobs_of(self.weights)
        odds = np.cumsum(_probabilities(self.weights, settings), axis=1)
        given = seed if settings.seed is None else settings.seed
        # A generator for each: a sample is the same however many others there are.
        return SampleReport(
            samples=tuple(
                _walk(start, logprobs, odds, _uniform(given, place, length), settings.stop)
                for place in range(request.count)
            ),
            prompt_logprobs=_score(request, logprobs) if request.scored else None,
        )


class Samplers:
    """The samplers by id.

    Threads: all of it belongs to the server's thread.
    """

    def __init__(self, state: State, store: CheckpointStore) -> None:
        self._state = state
        self._store = store
        self._samplers: dict[str, Sampler] = {}

    def snapshot(self, session: Session, number: int, base_model: str, weights: Floats) -> str:
        """Keep weights for the sampling client of this number, and return the sampler's id."""
        return self._keep(session, number, base_model, None, weights).sampler_id

    def load(
        self,
        owner: str,
        session_id: str,
        number: int,
        *,
        model_path: str | None,
        base_model: str | None,
    ) -> str:
        """Keep the weights of a checkpoint, or those of a base model; return the sampler's id."""
        session = self._state.live_session_of(owner, session_id)
        if model_path is not None:
            checkpoint = self._state.saved(owner, model_path)
            name = self._state.run_of(owner, checkpoint.run_id).base_model
            weights = self._store.read(model_path).weights
        elif base_model is not None:
            name, weights = base_model, LanguageModel(BASE_SEED).state.weights
        else:
            raise Refusal(422, "either model_path or base_model must be given", early=True)
        return self._keep(session, number, name, model_path, weights).sampler_id

    def find(self, owner: str, sampler_id: str) -> Sampler:
        """Find a sampler; refused where its session is over."""
        sampler = self._samplers.get(sampler_id)
        if sampler is None or sampler.session.owner != owner:
            raise Refusal(404, f"Sampler {sampler_id} not found", early=True)
        with self._state.changed:
            sampler.session.check()
        return sampler

    def sample(
        self, owner: str, sampler_id: str, sequence: int | None, request: SampleRequest
    ) -> SampleReport:
        """Sample; without a seed, the same request of the same client has the same answer."""
        sampler = self.find(owner, sampler_id)
        return sampler.sample(request, zlib.crc32(f"{sampler_id}/{sequence}".encode()))

    def _keep(
        self,
        session: Session,
        number: int,
        base_model: str,
        model_path: str | None,
        weights: Floats,
    ) -> Sampler:
        sampler_id = f"{session.session_id}:sample:{number}"
        if known := self._samplers.get(sampler_id):
            return known
        sampler = self._samplers[sampler_id] = Sampler(
            sampler_id=sampler_id,
            session=session,
            base_model=base_model,
            model_path=model_path,
            weights=weights,
        )
        with self._state.changed:
            session.sampler_ids.append(sampler_id)
        if len(self._samplers) > SAMPLERS_KEPT:
            self._samplers.pop(next(iter(self._samplers)))
        return sampler


def _length(prompt: int, settings: SamplingSettings) -> int:
    if prompt >= CONTEXT:
        detail = f"the prompt has {prompt} tokens, and the context is of {CONTEXT}"
        raise Refusal(400, detail, early=True)
    room = CONTEXT - prompt
    return room if settings.max_tokens is None else min(room, settings.max_tokens)


def _probabilities(logits: Floats, settings: SamplingSettings) -> Floats:
    """The odds of each next token by the present one; each row sums to 1."""
    if settings.temperature == 0.0:
        greedy: Floats = np.eye(VOCABULARY)[logits.argmax(axis=1)]
        return greedy
    odds: Floats = np.exp(logprobs_of(logits / settings.temperature))
    order = np.argsort(-odds, axis=1, kind="stable")
    ranked = np.take_along_axis(odds, order, axis=1)
    # The likeliest token always stays; others stay while those before them are not enough.
    stays = np.cumsum(ranked, axis=1) - ranked < settings.top_p
    if settings.top_k > 0:
        stays[:, settings.top_k :] = False
    stays[:, 0] = True
    np.put_along_axis(odds, order, np.where(stays, ranked, 0.0), axis=1)
    kept: Floats = odds / odds.sum(axis=1, keepdims=True)
    return kept


def _uniform(seed: int, place: int, length: int) -> Floats:
    return np.random.default_rng((abs(seed), int(seed < 0), place)).random(length)


def _walk(
    start: int, logprobs: Floats, odds: Floats, draws: Floats, stop: frozenset[int]
) -> Sample:
    token, tokens, found = start % VOCABULARY, [], []
    for draw in draws:
        row = odds[token]
        # Rounding may leave the last sum a little below 1, and a draw above it.
        last = np.searchsorted(row, row[-1])
        following = int(min(np.searchsorted(row, draw, side="right"), last))
        found.append(float(logprobs[token, following]))
        tokens.append(following)
        token = following
        if token in stop:
            break
    return Sample(
        tokens=np.array(tokens, dtype=np.int64),
        logprobs=np.array(found, dtype=np.float64),
        is_stopped=bool(tokens) and tokens[-1] in stop,
    )


def _score(request: SampleRequest, logprobs: Floats) -> Floats:
    tokens = request.prompt % VOCABULARY
    scores = np.full(len(tokens), np.nan)
    scores[1:] = logprobs[tokens[:-1], tokens[1:]]
    scores[: len(tokens) - request.scored] = np.nan
    return scores
