"""Decides what to do after a failed attempt, under a policy; pure functions."""

from __future__ import annotations

import random
from concurrent.futures import Future
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from ..policy import Policy
from .error_kinds import Failure, Kind

if TYPE_CHECKING:
    from tenacity import RetryCallState

#: The most seconds that a policy's own wait strategy may ask for.
LONGEST_DELAY = 86_400.0


class Action(StrEnum):
    """What follows a failed attempt."""

    #: The same checkpoint again, after the delay.
    RETRY = "retry"
    #: The next older checkpoint, at once.
    STEP_DOWN = "step_down"
    #: The checkpoints once more from the newest, weights only, at once.
    DROP_OPTIMIZER = "drop_optimizer"
    #: Nothing until the account works again.
    PAUSE = "pause"
    #: No attempt is left.
    GIVE_UP = "give_up"


class Decision(NamedTuple):
    """An action, and the seconds until the next attempt at the earliest."""

    action: Action
    delay: float = 0.0


class Tally(NamedTuple):
    """What counts within an incident.

    `tries` are the counted failures on the present checkpoint, `waits` the uncounted ones in
    a row, `rungs_left` how many older checkpoints may still be tried, `elapsed` the seconds
    since the incident began, `seed` what the jitter is drawn from; `can_pause`: polls tell when
    the account works again.
    """

    seed: str
    can_pause: bool
    with_optimizer: bool
    tries: int = 0
    waits: int = 0
    rungs_left: int = 0
    elapsed: float = 0.0

    def after(self, failure: Failure) -> Tally:
        """The tally with one more failure counted."""
        if failure.kind is Kind.PATIENCE:
            return self._replace(waits=self.waits + 1)
        if failure.kind is Kind.CHECKPOINT:
            return self._replace(tries=0, waits=0)
        if failure.kind is Kind.ACCOUNT:
            return self
        return self._replace(tries=self.tries + 1, waits=0)


def decide(policy: Policy, failure: Failure, tally: Tally, error: BaseException) -> Decision:
    """What follows a failed attempt under a policy; `tally` includes this failure."""
    if failure.kind is Kind.ACCOUNT and tally.can_pause:
        return Decision(action=Action.PAUSE, delay=policy.poll_interval)
    if failure.kind is Kind.CHECKPOINT and tally.rungs_left > 0:
        return Decision(action=Action.STEP_DOWN)
    if failure.kind is Kind.CHECKPOINT and tally.with_optimizer and policy.allow_weights_only:
        return Decision(action=Action.DROP_OPTIMIZER)
    if failure.kind in (Kind.ACCOUNT, Kind.CHECKPOINT, Kind.REQUEST):
        return Decision(action=Action.GIVE_UP)
    if failure.kind is Kind.PATIENCE:
        plain = _delay(policy, tally.waits, tally, error)
        return Decision(action=Action.RETRY, delay=max(plain, failure.retry_after or 0.0))
    if _is_last(policy, tally, error):
        return Decision(action=Action.GIVE_UP)
    return Decision(action=Action.RETRY, delay=_delay(policy, tally.tries, tally, error))


def _is_last(policy: Policy, tally: Tally, error: BaseException) -> bool:
    if policy.stop is None:
        return tally.tries >= policy.max_attempts
    return bool(policy.stop(_retry_state(tally.tries, tally.elapsed, error)))


def _delay(policy: Policy, number: int, tally: Tally, error: BaseException) -> float:
    return delay_of(policy, number, error, seed=tally.seed, elapsed=tally.elapsed)


def delay_of(
    policy: Policy, number: int, error: BaseException, *, seed: str, elapsed: float = 0.0
) -> float:
    """Seconds to wait after failure `number`; `seed` is what the jitter is drawn from."""
    state = _retry_state(number, elapsed, error)
    if policy.wait is not None:
        return min(max(float(policy.wait(state)), 0.0), LONGEST_DELAY)
    from tenacity import wait_exponential  # noqa: PLC0415 (only where something failed)

    plain = wait_exponential(multiplier=policy.backoff, max=policy.max_backoff)(state)
    # Drawn from the run's id and the attempt: spread over runs, yet the same every time.
    return plain * random.Random(f"{seed}:{number}").uniform(0.5, 1.0)


def _retry_state(number: int, elapsed: float, error: BaseException) -> RetryCallState:
    """What a tenacity strategy looks at."""
    import tenacity  # noqa: PLC0415 (only where something failed)

    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = number
    state.start_time = 0.0
    state.outcome_timestamp = elapsed
    outcome: Future[Any] = tenacity.Future(number)
    outcome.set_exception(error)
    state.outcome = outcome  # type: ignore[assignment]
    return state
