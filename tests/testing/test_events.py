"""`RecoveryEvents`: what it keeps of what is published, and how it is waited for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tinkex import Monitor, Policy, RecoveryExecutor, signals
from tinkex.testing import (
    FakeRest,
    FakeScheduler,
    FakeServiceClient,
    InlineExecutor,
    RecoveryEvents,
)

RUN = "3f0c:train:0"
OTHER = "3f0c:train:1"
RECOVERED = ["detected", "started", "checkpoint_selected", "client_created", "completed"]


def path(run_id):
    return f"tinker://{run_id}/weights/000100"


@pytest.fixture
def events():
    kept = RecoveryEvents()
    with signals.subscribe(kept):
        yield kept


@pytest.fixture
def rest():
    return FakeRest()


def corrupt(rest, run_id):
    rest.set_run(run_id, corrupted=True, last_checkpoint=path(run_id))


def monitor(rest, fake, **policy):
    fakes = {"rest_module": rest, "executor": InlineExecutor(), "scheduler": fake}
    return Monitor(Policy(enabled=True, poll_interval=10.0, **policy), **fakes)


def test_it_is_a_sequence_of_all_events_in_order(events, rest):
    fake = FakeScheduler()
    with monitor(rest, fake) as made:
        made.monitor_run(RUN, FakeServiceClient())
        corrupt(rest, RUN)
        fake.advance(10)

    assert [event.name for event in events] == [*RECOVERED, "swept"]
    assert len(events) == len(RECOVERED) + 1
    assert events[0].run_id == RUN
    assert [event.name for event in events[1:3]] == ["started", "checkpoint_selected"]
    assert events[4] in events


def test_its_names_leave_out_the_ends_of_sweeps(events, rest):
    fake = FakeScheduler()
    with monitor(rest, fake) as made:
        made.monitor_run(RUN, FakeServiceClient())
        corrupt(rest, RUN)
        fake.advance(30)

    assert events.names == RECOVERED
    assert len(events.of("swept")) == 3
    assert repr(events) == f"<RecoveryEvents {', '.join(RECOVERED)}>"


def test_the_events_of_one_name_are_found(events, rest):
    fake = FakeScheduler()
    with monitor(rest, fake) as made:
        for run_id in (RUN, OTHER):
            made.monitor_run(run_id, FakeServiceClient())
            corrupt(rest, run_id)
        fake.advance(10)

    assert {event.run_id for event in events.of("completed")} == {RUN, OTHER}
    assert events.of("exhausted") == []


def test_it_tells_when_nothing_came(events):
    assert (len(events), events.names, repr(events)) == (0, [], "<RecoveryEvents none>")


def test_what_an_executor_was_asked_for_directly_is_left_out(events, rest):
    executor = RecoveryExecutor(InlineExecutor(), rest_module=rest, scheduler=FakeScheduler())
    policy = Policy(enabled=True)
    heard = []
    with signals.subscribe(lambda sender, event: heard.append(event.name)):
        executor.recover(RUN, FakeServiceClient(), policy, last_checkpoint=path(RUN)).result(0)

    assert "completed" in heard
    assert events.names == []


@pytest.mark.parametrize("method", ["of", "wait_for"])
def test_a_misspelt_name_is_refused(events, method):
    with pytest.raises(ValueError, match="no signal 'complete'; did you mean 'completed'"):
        getattr(events, method)("complete")


def test_none_can_not_be_waited_for(events):
    with pytest.raises(ValueError, match="count must be 1 or more, not 0"):
        events.wait_for("completed", count=0)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1.0, 1e300])
def test_only_for_a_time_that_ends_can_be_waited(events, timeout):
    with pytest.raises(ValueError, match="timeout must be 0 s or more and finite"):
        events.wait_for("completed", timeout=timeout)


def test_an_event_that_came_before_is_not_waited_for(events, rest):
    fake = FakeScheduler()
    with monitor(rest, fake) as made:
        made.monitor_run(RUN, FakeServiceClient())
        corrupt(rest, RUN)
        fake.advance(10)

    assert events.wait_for("completed", timeout=0) is events.of("completed")[0]


def test_an_event_is_waited_for_that_comes_on_another_thread(events, rest):
    corrupt(rest, RUN)
    with Monitor(Policy(enabled=True, poll_interval=0.01), rest_module=rest) as made:
        run = made.monitor_run(RUN, FakeServiceClient())
        completed = events.wait_for("completed", timeout=10)

        assert completed.successor_id == run.run_id


def test_the_last_of_several_is_given(events):
    made = Monitor(Policy(enabled=True))
    told = [swept(number) for number in range(3)]
    began = threading.Event()

    def tell():
        began.wait(10)
        for event in told:
            events(made, event=event)

    with ThreadPoolExecutor() as pool:
        pool.submit(tell)
        began.set()

        assert events.wait_for("swept", count=2, timeout=10) is told[1]


def test_a_wait_ends_and_tells_what_came(events):
    events(Monitor(Policy(enabled=True)), event=unprotected())

    with pytest.raises(TimeoutError) as caught:
        events.wait_for("completed", count=2, timeout=0.01)

    assert str(caught.value) == (
        "0 of 2 'completed' events came within 0.01 s; all that came: <RecoveryEvents unprotected>"
    )


def common():
    return {"run_id": RUN, "metadata": {}, "time": None}


def swept(runs):
    return signals.Swept(**common(), runs=runs, requests=1, duration=0.1, errors=0)


def unprotected():
    return signals.Unprotected(**common(), since=None, checkpoint=None)
