"""What an error means and what follows from it: tables."""

from __future__ import annotations

import enum

import pytest
import tenacity
from support.world import StatusError

from tinkex import Policy
from tinkex.errors import (
    ApiConnectionError,
    ApiResponseError,
    ApiStatusError,
    ApiTimeoutError,
    AttemptTimeoutError,
    CheckpointMissingError,
    ServiceError,
)
from tinkex.recovery.error_kinds import Failure, Kind, classify
from tinkex.recovery.retry import Action, Tally, decide

ACCOUNT, CHECKPOINT, REQUEST = Kind.ACCOUNT, Kind.CHECKPOINT, Kind.REQUEST
SERVER, PATIENCE, CODE = Kind.SERVER, Kind.PATIENCE, Kind.CODE


class Category(enum.StrEnum):
    """As the official SDK's `RequestErrorCategory`."""

    USER = "user"
    SERVER = "server"
    UNKNOWN = "unknown"


class RequestFailedError(Exception):
    """As the official SDK's: a category and no status."""

    def __init__(self, category):
        super().__init__(f"failed: {category}")
        self.category = category


class APIConnectionError(Exception):
    """As the official SDK's: told by its name."""


class ReadTimeout(Exception):  # noqa: N818
    """As httpx's: told by its name."""


def caused_by(cause, error=None):
    error = error or RuntimeError("wrapped")
    error.__cause__ = cause
    return error


def in_context_of(context):
    error = RuntimeError("raised while handling another")
    error.__context__ = context
    return error


# classify

KIND_OF_STATUS = {
    400: REQUEST,
    401: ACCOUNT,
    402: ACCOUNT,
    403: ACCOUNT,
    404: REQUEST,
    405: REQUEST,
    408: SERVER,
    409: REQUEST,
    410: REQUEST,
    418: REQUEST,
    422: REQUEST,
    425: SERVER,
    429: PATIENCE,
    500: SERVER,
    502: SERVER,
    503: PATIENCE,
    504: SERVER,
    529: SERVER,
}

#: Statuses that speak of the checkpoint where one is being loaded.
OF_THE_CHECKPOINT = {400, 404, 409, 410, 422}


@pytest.mark.parametrize("make", [ApiStatusError.of, StatusError], ids=["ours", "the SDK's"])
@pytest.mark.parametrize(("status", "kind"), [*KIND_OF_STATUS.items()])
def test_a_status_tells_whose_fault_it_is(make, status, kind):
    failure = classify(make(status))

    assert (failure.kind, failure.status) == (kind, status)


@pytest.mark.parametrize("make", [ApiStatusError.of, StatusError], ids=["ours", "the SDK's"])
@pytest.mark.parametrize(("status", "kind"), [*KIND_OF_STATUS.items()])
def test_while_a_checkpoint_loads_a_refusal_speaks_of_that_checkpoint(make, status, kind):
    failure = classify(make(status), loading=True)

    assert failure.kind is (CHECKPOINT if status in OF_THE_CHECKPOINT else kind)


@pytest.mark.parametrize(
    ("error", "kind", "kind_loading"),
    [
        (CheckpointMissingError("a"), CHECKPOINT, CHECKPOINT),
        (AttemptTimeoutError("a", 5.0), SERVER, SERVER),
        (ApiConnectionError("no route"), SERVER, SERVER),
        (ApiTimeoutError("slow"), SERVER, SERVER),
        (ConnectionResetError(), SERVER, SERVER),
        (TimeoutError(), SERVER, SERVER),
        (APIConnectionError("no route"), SERVER, SERVER),
        (ReadTimeout("slow"), SERVER, SERVER),
        (RequestFailedError(Category.USER), REQUEST, CHECKPOINT),
        (RequestFailedError("user"), REQUEST, CHECKPOINT),
        (RequestFailedError("RequestErrorCategory.User"), REQUEST, CHECKPOINT),
        (RequestFailedError(None), CODE, CODE),
        (ServiceError("X", "failed", status=402), ACCOUNT, ACCOUNT),
        (ServiceError("X", "failed", category="user"), REQUEST, CHECKPOINT),
        (ServiceError("APIConnectionError", "no route"), SERVER, SERVER),
        (ServiceError("KeyError", "oops"), CODE, CODE),
        (ApiResponseError("not JSON"), CODE, CODE),
        (ValueError("a bug"), CODE, CODE),
        (KeyError("a bug"), CODE, CODE),
        (StatusError(None), CODE, CODE),
        (StatusError("402"), CODE, CODE),
        (StatusError(True), CODE, CODE),
    ],
    ids=repr,
)
def test_an_error_without_a_status_is_told_by_what_it_is(error, kind, kind_loading):
    assert classify(error).kind is kind
    assert classify(error, loading=True).kind is kind_loading


@pytest.mark.parametrize("category", [Category.SERVER, Category.UNKNOWN, "Server"])
def test_a_failure_that_is_not_the_users_is_the_servers(category):
    assert classify(RequestFailedError(category)).kind is SERVER


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (caused_by(StatusError(402)), ACCOUNT),
        (caused_by(caused_by(caused_by(StatusError(503)))), PATIENCE),
        (in_context_of(ConnectionResetError()), SERVER),
        (caused_by(caused_by(ValueError())), CODE),
        (caused_by(StatusError(401), StatusError(500)), SERVER),
        (caused_by(RequestFailedError("user")), REQUEST),
    ],
)
def test_the_first_of_the_causes_that_tells_anything_counts(error, kind):
    assert classify(error).kind is kind


def test_a_chain_of_causes_that_bites_its_tail_ends():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one

    assert classify(one).kind is CODE


def test_what_the_server_asked_to_wait_is_kept():
    failure = classify(ApiStatusError.of(429, retry_after=17.0))

    assert failure == Failure(kind=PATIENCE, status=429, retry_after=17.0)


# decide


def tally(**fields):
    given = {"seed": "3f0c:train:0", "can_pause": False, "with_optimizer": True, **fields}
    return Tally(**given)


def decided(kind, *, policy=None, retry_after=None, error=None, **counts):
    return decide(
        policy or Policy(),
        Failure(kind=kind, retry_after=retry_after),
        tally(**counts),
        error or ValueError("it failed"),
    )


WEIGHTS_ONLY = Policy(allow_weights_only=True)


@pytest.mark.parametrize(
    ("kind", "policy", "counts", "action"),
    [
        (ACCOUNT, Policy(), {"can_pause": True}, Action.PAUSE),
        (ACCOUNT, Policy(), {"can_pause": False}, Action.GIVE_UP),
        (ACCOUNT, Policy(), {"can_pause": True, "tries": 99}, Action.PAUSE),
        (CHECKPOINT, Policy(), {"rungs_left": 2}, Action.STEP_DOWN),
        (CHECKPOINT, Policy(), {"rungs_left": 0}, Action.GIVE_UP),
        (CHECKPOINT, WEIGHTS_ONLY, {"rungs_left": 1}, Action.STEP_DOWN),
        (CHECKPOINT, WEIGHTS_ONLY, {"rungs_left": 0}, Action.DROP_OPTIMIZER),
        (CHECKPOINT, WEIGHTS_ONLY, {"with_optimizer": False}, Action.GIVE_UP),
        (REQUEST, Policy(), {"tries": 1, "rungs_left": 5}, Action.GIVE_UP),
        (PATIENCE, Policy(), {"waits": 50}, Action.RETRY),
        (SERVER, Policy(), {"tries": 1}, Action.RETRY),
        (SERVER, Policy(), {"tries": 2}, Action.RETRY),
        (SERVER, Policy(), {"tries": 3}, Action.GIVE_UP),
        (SERVER, Policy(max_attempts=1), {"tries": 1}, Action.GIVE_UP),
        (CODE, Policy(), {"tries": 2}, Action.RETRY),
        (CODE, Policy(), {"tries": 3}, Action.GIVE_UP),
    ],
)
def test_what_follows_from_a_failure(kind, policy, counts, action):
    assert decided(kind, policy=policy, **counts).action is action


def test_the_next_checkpoint_is_tried_at_once():
    assert decided(CHECKPOINT, rungs_left=1).delay == 0.0
    assert decided(CHECKPOINT, policy=WEIGHTS_ONLY).delay == 0.0


@pytest.mark.parametrize("seed", [f"run-{number}" for number in range(20)])
@pytest.mark.parametrize(
    ("tries", "plain"), [(1, 5.0), (2, 10.0), (3, 20.0), (4, 40.0), (5, 60.0), (50, 60.0)]
)
def test_the_backoff_doubles_up_to_its_limit_and_is_never_below_half_of_that(seed, tries, plain):
    decision = decided(SERVER, policy=Policy(max_attempts=99), tries=tries, seed=seed)

    assert plain / 2 <= decision.delay <= plain


def test_the_jitter_spreads_runs_yet_is_the_same_every_time():
    delays = [decided(SERVER, tries=1, seed=f"run-{number}").delay for number in range(50)]
    again = [decided(SERVER, tries=1, seed=f"run-{number}").delay for number in range(50)]

    assert delays == again
    assert len(set(delays)) == 50
    assert min(delays) < 3.0
    assert max(delays) > 4.5


def test_a_backoff_of_zero_is_no_wait():
    policy = Policy(backoff=0, max_backoff=0)

    assert decided(SERVER, policy=policy, tries=1).delay == 0.0


@pytest.mark.parametrize(
    ("waits", "retry_after", "least", "most"),
    [(1, None, 2.5, 5.0), (3, None, 10.0, 20.0), (1, 40.0, 40.0, 40.0), (4, 1.0, 20.0, 40.0)],
)
def test_a_server_that_asks_for_patience_is_given_at_least_what_it_asks_for(
    waits, retry_after, least, most
):
    decision = decided(PATIENCE, waits=waits, retry_after=retry_after)

    assert least <= decision.delay <= most


@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (tenacity.wait_fixed(7), [7.0, 7.0, 7.0]),
        (tenacity.wait_none(), [0.0, 0.0, 0.0]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1.0, 2.0, 3.0]),
        (tenacity.wait_incrementing(start=2, increment=3), [2.0, 5.0, 8.0]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), [1.0, 9.0, 9.0]),
    ],
    ids=["fixed", "none", "exponential", "incrementing", "chain"],
)
def test_a_tenacity_wait_strategy_is_used_as_it_is(wait, delays):
    policy = Policy(wait=wait, max_attempts=9)

    assert [decided(SERVER, policy=policy, tries=n).delay for n in (1, 2, 3)] == delays


def test_a_wait_strategy_that_asks_for_less_than_nothing_is_no_wait():
    policy = Policy(wait=tenacity.wait_incrementing(start=1, increment=-5))

    assert decided(SERVER, policy=policy, tries=2).delay == 0.0


@pytest.mark.parametrize(
    ("stop", "counts", "is_last"),
    [
        (tenacity.stop_after_attempt(2), {"tries": 1}, False),
        (tenacity.stop_after_attempt(2), {"tries": 2}, True),
        (tenacity.stop_after_delay(60), {"tries": 50, "elapsed": 59.0}, False),
        (tenacity.stop_after_delay(60), {"tries": 1, "elapsed": 60.0}, True),
        (tenacity.stop_never, {"tries": 10_000, "elapsed": 1e9}, False),
        (
            tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(60),
            {"tries": 1, "elapsed": 61.0},
            True,
        ),
    ],
)
def test_a_tenacity_stop_strategy_stands_in_for_max_attempts(stop, counts, is_last):
    decision = decided(SERVER, policy=Policy(stop=stop), **counts)

    assert (decision.action is Action.GIVE_UP) is is_last


def test_strategies_see_the_error_of_the_attempt():
    seen = []

    class Watching(tenacity.wait.wait_base):
        def __call__(self, retry_state):
            seen.append((retry_state.attempt_number, retry_state.outcome.exception()))
            return 0

    error = StatusError(500)
    decided(SERVER, policy=Policy(wait=Watching()), tries=2, error=error)

    assert seen == [(2, error)]


# Tally


@pytest.mark.parametrize(
    ("kinds", "tries", "waits"),
    [
        ([SERVER], 1, 0),
        ([SERVER, CODE], 2, 0),
        ([SERVER, PATIENCE, PATIENCE], 1, 2),
        ([PATIENCE, SERVER], 1, 0),
        ([SERVER, SERVER, CHECKPOINT], 0, 0),
        ([SERVER, ACCOUNT, ACCOUNT], 1, 0),
        ([REQUEST], 1, 0),
    ],
)
def test_only_some_failures_count_as_attempts(kinds, tries, waits):
    counted = tally()
    for kind in kinds:
        counted = counted.after(Failure(kind=kind))

    assert (counted.tries, counted.waits) == (tries, waits)


def test_a_tally_is_a_value_that_counting_does_not_change():
    before = tally()

    after = before.after(Failure(kind=SERVER))

    assert before.tries == 0
    assert after != before
