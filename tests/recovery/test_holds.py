"""Circuit breakers of accounts: what opens and closes them, and who may probe."""

from __future__ import annotations

import pytest

from tinkex.errors import ApiStatusError
from tinkex.recovery.holds import Breaker, Holds
from tinkex.runtime.publisher import Publisher
from tinkex.runtime.scheduler import Clock
from tinkex.testing import FakeScheduler

REFUSAL = ApiStatusError.of(402)
ACCOUNT = "account"


def nothing():
    """Stands for what is applied to the run."""


@pytest.fixture
def holds():
    return World()


class World:
    """Holds over a fake clock; `released` are the incidents that may go on."""

    def __init__(self):
        self.released = []
        publisher = Publisher(self, inline=True, on_idle=lambda: None)
        runs = {ACCOUNT: ("a:train:0", "b:train:0")}
        self.table = Holds(
            Clock(FakeScheduler()),
            publisher,
            lambda account: runs.get(account, ()),
            self.released.extend,
        )


def test_an_account_that_nothing_holds_admits_every_incident(holds):
    assert holds.table.breaker(ACCOUNT) is Breaker.CLOSED
    assert holds.table.admit(ACCOUNT, "incident")


def test_an_open_breaker_keeps_incidents_until_a_poll_proves_that_the_account_works(holds, world):
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=True, apply=nothing)

    assert holds.table.breaker(ACCOUNT) is Breaker.OPEN
    assert not holds.table.admit(ACCOUNT, "one")
    assert not holds.table.admit(ACCOUNT, "two")
    assert holds.table.admit("another account", "three")

    holds.table.poll_succeeded(ACCOUNT)

    assert holds.table.breaker(ACCOUNT) is Breaker.CLOSED
    assert holds.released == ["one", "two"]
    assert world.events.names == ["paused", "resumed"]
    assert world.events.one("paused").runs == ("a:train:0", "b:train:0")
    assert world.events.one("resumed").error is REFUSAL


def test_an_account_that_is_held_again_is_told_of_once(holds, world):
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=False, apply=nothing)
    holds.table.hold(
        ACCOUNT, ApiStatusError.of(402), reason="refused", polls_fail=True, apply=nothing
    )

    assert world.events.names == ["paused"]


def test_where_polls_prove_nothing_one_incident_probes(holds, world):
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=False, apply=nothing)
    for incident in ("one", "two", "three"):
        holds.table.admit(ACCOUNT, incident)

    holds.table.poll_succeeded(ACCOUNT)
    assert holds.table.breaker(ACCOUNT) is Breaker.OPEN

    holds.table.probe({ACCOUNT})
    assert holds.released == ["one"]
    assert holds.table.breaker(ACCOUNT) is Breaker.HALF_OPEN
    assert holds.table.admit(ACCOUNT, "one")

    # It was refused as well, and waits behind the others.
    assert not holds.table.admit(ACCOUNT, "one")
    assert holds.table.breaker(ACCOUNT) is Breaker.OPEN
    holds.table.probe({ACCOUNT})
    assert holds.released == ["one", "two"]

    holds.table.attempt_went_on(ACCOUNT, nothing)
    assert holds.table.breaker(ACCOUNT) is Breaker.CLOSED
    assert holds.released[2:] == ["three", "one"]


def test_a_probe_that_has_ended_leaves_the_breaker_open(holds):
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=False, apply=nothing)
    holds.table.admit(ACCOUNT, "one")
    holds.table.probe({ACCOUNT})
    holds.table.admit(ACCOUNT, "one")

    holds.table.forget(ACCOUNT, "one")

    assert holds.table.breaker(ACCOUNT) is Breaker.OPEN


def test_an_incident_that_has_ended_is_not_released(holds):
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=True, apply=nothing)
    holds.table.admit(ACCOUNT, "one")
    holds.table.admit(ACCOUNT, "two")

    holds.table.forget(ACCOUNT, "one")
    holds.table.poll_succeeded(ACCOUNT)

    assert holds.released == ["two"]


def test_where_no_run_of_an_account_is_polled_any_more_an_incident_probes(holds):
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=True, apply=nothing)
    holds.table.admit(ACCOUNT, "one")

    holds.table.probe({ACCOUNT})
    assert holds.released == []

    holds.table.probe({"another account"})
    assert holds.released == ["one"]


def test_an_account_that_is_held_for_two_reasons_waits_until_both_are_over(holds, world):
    outage = ConnectionResetError("the server is away")
    holds.table.hold(ACCOUNT, REFUSAL, reason="refused", polls_fail=True, apply=nothing)
    holds.table.hold(ACCOUNT, outage, reason="outage", polls_fail=False, apply=nothing)
    holds.table.admit(ACCOUNT, "one")

    holds.table.poll_succeeded(ACCOUNT)
    assert holds.table.breaker(ACCOUNT) is Breaker.OPEN
    assert holds.released == []

    holds.table.attempt_went_on(ACCOUNT, nothing)
    assert holds.table.breaker(ACCOUNT) is Breaker.CLOSED
    assert holds.released == ["one"]
    assert world.events.names == ["paused", "resumed"]
    assert world.events.one("resumed").error is outage


def test_polls_tell_how_lately_the_account_worked(holds):
    assert not holds.table.succeeded_since(ACCOUNT, -1.0)

    holds.table.poll_succeeded(ACCOUNT)

    assert holds.table.succeeded_since(ACCOUNT, -1.0)
    assert not holds.table.succeeded_since(ACCOUNT, 0.0)
