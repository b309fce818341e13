"""Signals: their records, subscriptions, and receivers that fail."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import logging
from datetime import UTC, datetime, timedelta

import pytest
from blinker import Signal
from support.world import RUN

from tinkex import Monitor, signals
from tinkex.runtime.publisher import Publisher
from tinkex.types import TrainingRun

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def emit(sender, event):
    Publisher(sender, inline=True, on_idle=lambda: None).publish("lane", event)


#: The signals and the fields that each has beside `run_id`, `metadata` and `time`.
CONTRACT = {
    "detected": {"checkpoint", "run", "cause", "reason"},
    "poll_error": {"error"},
    "started": {"attempt", "strategy"},
    "checkpoint_selected": {"attempt", "strategy", "checkpoint"},
    "client_created": {"attempt", "checkpoint", "client", "successor_id"},
    "completed": {"attempt", "checkpoint", "client", "successor_id", "duration"},
    "failed": {"attempt", "error", "retry_in"},
    "exhausted": {"attempt", "error"},
    "swept": {"runs", "requests", "duration", "errors"},
    "unprotected": {"since", "checkpoint"},
    "missing": {"error"},
    "paused": {"error", "runs"},
    "resumed": {"error", "runs"},
    "rolled_back": {"checkpoint", "evidence"},
    "journal_failed": {"error"},
    "fenced": {"successor_id", "owner"},
}


def poll_error(message="it failed"):
    return signals.PollError(run_id="a", metadata={}, time=NOW, error=ValueError(message))


def swept():
    return signals.Swept(
        run_id=None, metadata={}, time=NOW, runs=1, requests=1, duration=0.1, errors=0
    )


@pytest.mark.parametrize(("name", "fields"), [*CONTRACT.items()])
def test_each_signal_has_the_fields_of_the_contract(name, fields):
    kind = signals.EVENTS[name]

    assert {f.name for f in dataclasses.fields(kind)} == {"run_id", "metadata", "time", *fields}
    assert kind.name == name


@pytest.mark.parametrize("name", [*CONTRACT])
def test_each_signal_is_a_blinker_signal_under_its_name(name):
    signal = getattr(signals, name)

    assert isinstance(signal, Signal)
    assert signals.namespace[name] is signal
    assert signal.name == name


def test_there_are_no_other_signals_than_those_of_the_contract():
    assert set(signals.EVENTS) == set(signals.namespace) == set(CONTRACT)


def test_an_event_cannot_be_changed():
    event = poll_error()

    with pytest.raises(dataclasses.FrozenInstanceError):
        event.run_id = "b"


def test_the_repr_of_an_event_leaves_the_client_out():
    event = signals.ClientCreated(
        run_id="a",
        metadata={},
        time=NOW,
        attempt=1,
        checkpoint=None,
        client="a-client-that-may-hold-a-key",
        successor_id="b",
    )

    assert "a-client" not in repr(event)
    assert event.client == "a-client-that-may-hold-a-key"


def test_a_receiver_is_called_with_the_sender_and_the_event():
    calls = []
    sender, event = object(), poll_error()

    with signals.subscribe(lambda sent_by, event: calls.append((sent_by, event)), "poll_error"):
        emit(sender, event)

    assert calls == [(sender, event)]


def test_a_subscription_holds_a_closure_that_nothing_else_holds():
    calls = []

    subscription = signals.subscribe(lambda _, event: calls.append(event), "poll_error")
    gc.collect()
    emit(object(), poll_error())
    subscription.close()

    assert len(calls) == 1


def test_plain_connect_keeps_blinkers_weak_meaning():
    calls = []

    signals.poll_error.connect(lambda _, event: calls.append(event))
    gc.collect()
    emit(object(), poll_error())

    assert calls == []


def test_a_closed_subscription_is_called_no_more_and_closes_again_quietly():
    calls = []
    subscription = signals.subscribe(lambda _, event: calls.append(event), "poll_error")

    subscription.close()
    subscription.close()
    emit(object(), poll_error())

    assert calls == []


def test_the_end_of_a_with_block_ends_the_subscription_also_after_an_error():
    calls = []

    with (
        pytest.raises(KeyError),
        signals.subscribe(lambda _, event: calls.append(event), "poll_error"),
    ):
        raise KeyError
    emit(object(), poll_error())

    assert calls == []


def test_without_names_a_receiver_gets_every_signal():
    calls = []

    with signals.subscribe(lambda _, event: calls.append(event.name)):
        emit(object(), poll_error())
        emit(object(), swept())

    assert calls == ["poll_error", "swept"]


def test_with_names_a_receiver_gets_those_only():
    calls = []

    with signals.subscribe(lambda _, event: calls.append(event.name), "swept", "missing"):
        emit(object(), poll_error())
        emit(object(), swept())

    assert calls == ["swept"]


def test_with_a_sender_a_receiver_gets_what_that_one_sends_only():
    calls = []
    mine, other = object(), object()

    with signals.subscribe(lambda _, event: calls.append(str(event.error)), sender=mine):
        emit(other, poll_error("of another"))
        emit(mine, poll_error("of mine"))

    assert calls == ["of mine"]


@pytest.mark.parametrize("kind", ["handle", "id", "class"])
def test_what_sends_nothing_is_refused_as_a_sender(world, kind):
    handle = world.monitor().monitor_run(RUN, world.service)
    given = {"handle": handle, "id": RUN, "class": Monitor}[kind]

    with pytest.raises(TypeError, match="sender must be a"):
        signals.subscribe(print, "completed", sender=given)


def test_two_subscriptions_of_one_receiver_end_separately():
    calls = []

    def receive(_, event):
        calls.append(event)

    first = signals.subscribe(receive, "poll_error")
    with signals.subscribe(receive, "poll_error"):
        first.close()
        emit(object(), poll_error())

    assert len(calls) == 1


@pytest.mark.parametrize("broken", ["first", "last"], ids=["before the others", "after the others"])
def test_a_receiver_that_raises_does_not_starve_the_others_and_is_logged_by_name(broken, caplog):
    calls = []

    def unlucky_receiver(_, event):
        raise RuntimeError("the receiver's own fault")

    def other(_, event):
        calls.append(event)

    both = [unlucky_receiver, other] if broken == "first" else [other, unlucky_receiver]
    subscriptions = [signals.subscribe(receiver, "poll_error") for receiver in both]
    with caplog.at_level(logging.ERROR):
        emit(object(), poll_error())
    for subscription in subscriptions:
        subscription.close()

    assert len(calls) == 1
    (record,) = caplog.records
    assert "unlucky_receiver" in record.getMessage()
    assert "poll_error" in record.getMessage()
    assert record.exc_info is not None


def test_a_muted_signal_is_not_delivered():
    calls = []

    with (
        signals.subscribe(lambda _, event: calls.append(event), "poll_error"),
        signals.poll_error.muted(),
    ):
        emit(object(), poll_error())

    assert calls == []


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'completed'"):
        signals.subscribe(print, "complete")


def test_a_name_that_is_near_to_nothing_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match="checkpoint_selected") as caught:
        signals.subscribe(print, "zzz")

    assert "did you mean" not in str(caught.value)


def test_a_bad_name_connects_nothing():
    calls = []

    with pytest.raises(ValueError, match="zzz"):
        signals.subscribe(lambda _, event: calls.append(event), "poll_error", "zzz")
    emit(object(), poll_error())

    assert calls == []


@pytest.mark.parametrize("receiver", [None, "print", 3])
def test_what_cannot_be_called_is_refused(receiver):
    with pytest.raises(TypeError, match="callable"):
        signals.subscribe(receiver, "completed")


def test_a_coroutine_function_is_refused_because_nothing_would_await_it():
    async def receive(_, event):
        raise AssertionError

    assert inspect.iscoroutinefunction(receive)
    with pytest.raises(TypeError, match="coroutine"):
        signals.subscribe(receive, "completed")


def test_event_times_are_aware_and_in_utc(world):
    world.corrupt()
    monitor = world.monitor()
    monitor.monitor_run("3f0c:train:0", world.service)

    world.fake.advance(10)

    assert world.events.events
    assert {event.time.utcoffset() for event in world.events.events} == {timedelta(0)}


def test_a_detected_event_carries_the_run_as_the_server_told_it(world):
    path = world.corrupt()
    world.monitor().monitor_run("3f0c:train:0", world.service)

    world.fake.advance(10)

    event = world.events.one("detected")
    assert isinstance(event.run, TrainingRun)
    assert (event.run.training_run_id, event.run.corrupted) == ("3f0c:train:0", True)
    assert event.checkpoint.tinker_path == path
