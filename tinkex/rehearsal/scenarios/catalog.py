"""The table of fault scenarios by name, and `play`, which runs one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import corruptions, outages
from .claims import ClaimError

#: A function that takes a seed and returns its figures as text, or raises a `ClaimError`.
Scenario = Callable[[int], str]

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "corrupted 20 times, flagged and failing": corruptions.flagged_and_failing,
        "corrupted 20 times, only the client fails": corruptions.client_alone_fails,
        "corrupted 20 times, only the flag comes": corruptions.flag_alone_comes,
        "newest two checkpoints broken": corruptions.two_newest_broken,
        "newest checkpoint expired": corruptions.expired_newest,
        "session over with its run": corruptions.session_over,
        "corrupted again and again": corruptions.corrupted_again_and_again,
        "account refused, every call": outages.account_refused,
        "account refused, new clients only": outages.creations_refused,
        "polls go wrong": outages.polls_go_wrong,
        "load answered with 500": outages.sdk_retries,
        "load given up with 500": outages.load_fails,
        "server back with an older state": outages.rolled_back_in_silence,
        "server back, unanswered requests refused": outages.rolled_back_with_a_word,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a scenario; `reason` has its figures, or why it failed."""

    name: str
    passed: bool
    reason: str
    seconds: float


def play(name: str, *, seed: int = 0, scenarios: Mapping[str, Scenario] = SCENARIOS) -> Result:
    """Play the scenario of this name; an error in it is in the result, not raised."""
    began = time.monotonic()
    try:
        reason, passed = scenarios[name](seed), True
    except ClaimError as error:
        reason, passed = str(error), False
    except Exception as error:  # the other scenarios must still be played
        reason, passed = f"{type(error).__name__}: {error}", False
    return Result(name=name, passed=passed, reason=reason, seconds=time.monotonic() - began)
