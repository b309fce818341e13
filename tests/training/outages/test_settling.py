"""After an outage the weights are compared with those of the saves."""

from __future__ import annotations

import logging
from concurrent.futures import Future

import pytest
from support.outages import Site, Weights, heard, saved_and_trained, train
from support.recorder import PATIENCE
from support.world import RUN, weights

from tinkex import signals
from tinkex.errors import ApiStatusError, SegmentSupersededError


@pytest.mark.parametrize("on_doubt", ["recover", "ignore"])
@pytest.mark.parametrize("back_at", ["at-4", "at-2", None])
def test_weights_that_are_back_at_an_older_state_are_told_of_and_restored(
    bench, listener, back_at, on_doubt
):
    site = Site(bench, listener, Weights(), on_doubt=on_doubt)
    told = []
    with signals.subscribe(
        lambda _, event: told.append(event), "detected", "rolled_back", sender=site.monitor
    ):
        segments = site.run.segments()
        with next(segments) as segment:
            saved_and_trained(segment)
            site.go_down()
            site.client.updates = site.client.saved.get(back_at, 0)
            site.come_back()
            train(segment, 1)
        resumed = next(segments)
        bench.told.wait_for("completed", RUN)

    assert (resumed.start_step, site.service.created) == (4, [(weights("at-4"), True)])
    detected, rolled_back = told
    assert (detected.name, detected.cause, rolled_back.name) == (
        "detected",
        "rolled_back",
        "rolled_back",
    )
    path = rolled_back.checkpoint and rolled_back.checkpoint.tinker_path
    assert path == (back_at and weights(back_at))
    assert "log-probabilities" in rolled_back.evidence
    assert rolled_back.run_id == RUN


def test_weights_that_are_what_they_were_go_on_in_place(bench, listener, elsewhere):
    site = Site(bench, listener, Weights())

    with next(site.run.segments()) as segment:
        saved_and_trained(segment)
        site.go_down()
        calls = len(site.client.calls)
        waiting = elsewhere.submit(train, segment, 1)
        assert [name for name, _ in site.client.calls[calls:]] == []
        site.come_back()
        waiting.result(PATIENCE)
        assert site.client.updates == 6
        segment.save_state("end", step=6)

    names = [name for name, _ in site.client.calls[calls:]]
    # The newest batch is asked for twice, for the noise.
    assert names == [*["forward"] * 4, "forward_backward", "optim_step", "save_state"]
    assert site.service.created == []
    assert "detected" not in bench.told.names_of(RUN)


def test_a_state_that_was_saved_and_not_left_may_be_there_still(bench, listener):
    site = Site(bench, listener, Weights())

    with next(site.run.segments()) as segment:
        train(segment, 2, save="at-2")
        segment.client.forward([7]).result()
        site.go_down()
        site.come_back()
        train(segment, 1, save="at-3")

    assert site.service.created == []


def test_a_state_that_was_saved_and_is_another_one_now_is_restored(bench, listener):
    site = Site(bench, listener, Weights())
    segments = site.run.segments()

    with next(segments) as segment:
        train(segment, 2, save="at-2")
        segment.client.forward([7]).result()
        site.go_down()
        site.client.updates = 1
        site.come_back()
        train(segment, 1)

    assert next(segments).start_step == 2


class Silent(Weights):
    """A client whose `optim_step` is never answered once it is told so."""

    def __init__(self):
        super().__init__()
        self.is_silent = False

    def optim_step(self, params=None):
        answer = super().optim_step(params)
        return Future() if self.is_silent else answer


def in_flight(site, segment):
    site.client.is_silent = True
    segment.client.optim_step()
    site.client.is_silent = False


def gradient_left(site, segment):
    segment.client.forward_backward([9]).result()


def no_batch(site, segment):
    segment.save_state("at-5", step=5)
    segment.client.optim_step().result()


def refused(site, segment):
    def forward(*_):
        raise RuntimeError("forward is not served")

    site.client.forward = forward


def other_output(site, segment):
    site.client.forward = site.client.save_state


@pytest.mark.parametrize("on_doubt", ["recover", "warn", "ignore"])
@pytest.mark.parametrize("why", [in_flight, gradient_left, no_batch, refused, other_output])
def test_what_cannot_be_proved_is_a_doubt(bench, listener, caplog, why, on_doubt):
    caplog.set_level(logging.WARNING, "tinkex")
    site = Site(bench, listener, Silent(), on_doubt=on_doubt)
    segments = site.run.segments()

    with next(segments) as segment:
        saved_and_trained(segment)
        why(site, segment)
        site.go_down()
        site.come_back()
        segment.client.optim_step().result()
    is_restored = on_doubt == "recover"
    assert next(segments, None) is None or is_restored

    newest = "at-5" if why is no_batch else "at-4"
    assert site.service.created == ([(weights(newest), True)] if is_restored else [])
    warned = [each for each in caplog.records if each.getMessage().startswith(f"run {RUN}: its")]
    assert len(warned) == (on_doubt != "ignore")
    assert "rolled_back" not in bench.told.names_of(RUN)


def test_a_check_that_takes_too_long_is_a_doubt(bench, listener):
    site = Site(bench, listener, Weights(), confirm_within=0.05)
    segments = site.run.segments()

    with next(segments) as segment:
        saved_and_trained(segment)
        never = Future()
        site.client.forward = lambda *_: never
        site.go_down()
        site.come_back()
        train(segment, 1)

    assert next(segments).start_step == 4
    never.set_result(None)


def test_a_healthy_run_is_not_exhausted_by_a_doubt(bench, listener, caplog):
    caplog.set_level(logging.WARNING, "tinkex")
    site = Site(bench, listener, max_incidents=1)
    segments = site.run.segments()
    for number in range(2):
        with next(segments) as segment:
            segment.save_state(f"a{number}", step=number)
            segment.client.optim_step().result()
            site.go_down()
            site.come_back()
            segment.client.optim_step().result()

    assert len(site.service.created) == 1
    assert site.run.state == "healthy"
    assert "recovered too often" in caplog.text


def test_polls_that_fail_twice_in_a_row_are_an_outage(bench, listener):
    site = Site(bench, listener, Weights(), poll_interval=0.05)
    segments = site.run.segments()

    with next(segments) as segment:
        saved_and_trained(segment)
        with heard("requests of its runs wait") as noticed:
            site.rest.is_up = False
            assert noticed.wait(PATIENCE)
        site.client.updates = 4
        site.rest.is_up = True
        train(segment, 1)

    assert next(segments).start_step == 4
    assert site.run.lineage[0].cause == "rolled_back"


def test_an_outage_during_the_check_is_not_passed_over(bench, listener):
    site = Site(bench, listener, Weights())
    segments, real = site.run.segments(), site.client.forward

    def forward(*args):
        answer = real(*args)
        if not site.service.created and not down_again:
            down_again.append(True)
            listener.stop()
            listener.start()
        return answer

    down_again = []
    with next(segments) as segment:
        saved_and_trained(segment)
        site.client.forward = forward
        site.go_down()
        site.come_back()
        train(segment, 1)

    assert next(segments).start_step == 4


def test_what_was_saved_by_other_means_is_a_doubt(bench, listener):
    site = Site(bench, listener, Weights())
    segments = site.run.segments()

    with next(segments) as segment:
        train(segment, 2)
        site.client.save_state("own").result()
        site.run.record_checkpoint(weights("own"), step=2)
        train(segment, 1)
        site.go_down()
        site.come_back()
        train(segment, 1)

    assert next(segments).start_step == 2


@pytest.mark.parametrize("error", [ApiStatusError(500), ConnectionRefusedError()], ids=repr)
def test_polls_that_fail_while_requests_are_answered_are_no_outage(bench, listener, error):
    site = Site(bench, listener, Weights())
    with next(site.run.segments(max_wait=0.0)) as segment:
        site.rest.error = error
        site.rest.is_up = False
        for _ in range(5):
            site.monitor.poll_now()
            train(segment, 1)
        segment.save_state("end", step=5)

    assert "paused" not in bench.told.names_of(None)


def test_of_each_run_few_batches_are_kept(bench, listener):
    site = Site(bench, listener, Weights(), fallback_checkpoints=1)

    with next(site.run.segments()) as segment:
        for step in segment.steps(8):
            train(segment, 1)
            segment.save_state(f"at-{step + 1}", step=step + 1)
        segment.client.forward([8]).result()
        site.go_down()
        calls = len(site.client.calls)
        site.come_back()
        train(segment, 1)
        segment.save_state("end", step=9)

    asked = [batch for name, batch in site.client.calls[calls:] if name == "forward"]
    assert asked == [[8], [8], [0], [0]]
    assert site.service.created == []


def test_a_list_that_the_loop_fills_again_is_kept_as_it_was(bench, listener):
    site, batch = Site(bench, listener, Weights()), []

    with next(site.run.segments()) as segment:
        for step in segment.steps(3):
            batch[:] = [step]
            segment.client.forward_backward(batch).result()
            segment.client.optim_step().result()
        site.go_down()
        calls = len(site.client.calls)
        site.come_back()
        segment.save_state("end", step=3)

    assert site.client.calls[calls:][0] == ("forward", [0])


def test_other_runs_of_the_server_are_looked_at_too(bench, listener):
    site = Site(bench, listener, Weights())
    other = Weights("other:train:0")
    run = site.monitor.monitor_run(other.model_id, site.service, client=other)
    mine, others = site.run.segments(), run.segments()

    with next(mine) as one, next(others) as two:
        saved_and_trained(one)
        saved_and_trained(two)
        site.go_down()
        other.updates = 2
        site.come_back()
        train(one, 1)
        one.save_state("end", step=6)
        with pytest.raises(SegmentSupersededError):
            train(two, 1)

    assert site.run.run_id == RUN
