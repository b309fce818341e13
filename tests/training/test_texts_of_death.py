"""Which texts of a server say that this run is dead: not those of a mistake or of another run."""

from __future__ import annotations

import pytest
from support.loops import FailedError, Once, SdkError, begin, train
from support.world import RUN, weights

from tinkex.errors import ResumePointUnknownError
from tinkex.testing import FakeTrainingClient

#: So rare that in these tests only failures have a run polled.
NEVER = 100_000.0

SESSION = RUN.partition(":")[0]


def detail(status, text):
    """As the SDK raises a refusal: its message holds the whole body."""
    return FailedError(f"Error code: {status} - {{'detail': {text!r}}}", status)


def failed(text, category):
    """As the SDK raises a request that failed after it was taken."""
    text = f"Request failed: {text} for self.request_id='{SESSION}:7' and expected type"
    return FailedError(text, category=category)


MISTAKES = [
    detail(404, f"Checkpoint {weights('typo')} not found"),
    detail(404, f"Checkpoint {RUN}/typo not found"),
    detail(404, f"Checkpoint typo of run {RUN} not found"),
    detail(404, f"Checkpoint {weights('old')} has expired"),
    detail(404, "Checkpoint of model qwen does not exist"),
    detail(400, "Adapter not found in checkpoint tinker://77aa:train:0/weights/a"),
    detail(400, "Invalid model input: 9000 tokens exceed the context of 8192"),
    detail(400, f"Invalid model {RUN}:input"),
    detail(422, "model_input of the client is empty: target_tokens not found"),
    detail(422, f"Model {RUN}: target_tokens not found"),
    detail(400, "loss_fn 'foo' of model Qwen3 does not exist"),
    detail(400, f"loss_fn 'foo' of model {RUN} does not exist"),
    detail(400, "Loss function foo not found."),
    detail(400, "Invalid run name in checkpoint 000003"),
    detail(400, "Invalid checkpoint name 'poisoned'"),
    detail(400, "the tokenizer of this model does not exist"),
    detail(404, "Model not found: Qwen/Qwen9"),
    detail(404, "Unknown model: Qwen/Qwen9"),
    detail(404, "Base model not found"),
    detail(404, "Sampling session not found"),
    detail(404, "Session 77aa not found"),
    detail(422, "the data file is corrupted"),
    failed("loss_fn 'foo' of model Qwen3 does not exist", "user"),
]


@pytest.mark.parametrize("error", MISTAKES, ids=str)
def test_a_callers_own_mistake_replaces_no_run(world, error):
    run, client = begin(world, poll_interval=NEVER)

    with pytest.raises(FailedError) as caught:
        train(run, 9, before=Once(7, lambda segment: client.fail(error)))

    assert caught.value is error
    assert world.service.created == []


class Loads(FakeTrainingClient):
    def load_state(self, path):
        return self._answer("load_state", path, None)


def load_once(world, error):
    """Load a state, which fails with the error."""
    world.rest.set_run(RUN)
    client, met = Loads(RUN), []
    run = world.monitor(poll_interval=NEVER).monitor_run(RUN, world.service, client=client)
    for segment in run.segments():
        with segment:
            if not met:
                segment.save_state("a", step=0)
                met.append(error)
                client.fail(error)
                segment.client.load_state("tinker://77aa:train:0/weights/typo").result()


@pytest.mark.parametrize("text", ["Model not found", "Training run not found", "Adapter not found"])
def test_what_names_no_run_may_speak_of_the_one_that_was_to_be_loaded(world, text):
    error = detail(404, text)

    with pytest.raises(FailedError) as caught:
        load_once(world, error)

    assert caught.value is error
    assert world.service.created == []


@pytest.mark.parametrize(
    "text", ["This TrainingClient is poisoned.", "Session has finished", f"Model {RUN} not loaded"]
)
def test_a_load_through_a_dead_client_recovers_its_run(world, text):
    with pytest.raises(ResumePointUnknownError, match="another state was loaded"):
        load_once(world, detail(400, text))

    assert world.service.created == [(weights("a"), True)]


def test_a_request_of_a_run_whose_id_does_not_tell_its_session_may_name_any(world):
    identity = "model_57878b35"
    world.rest.set_run(identity)
    client = FakeTrainingClient(identity)
    run = world.monitor(poll_interval=NEVER).monitor_run(identity, world.service, client=client)

    diary = train(
        run, 9, before=Once(7, lambda _: client.fail(detail(404, "Session 5c1e not found")))
    )

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]


@pytest.mark.parametrize("status", [401, 402, 403, 429, 503])
def test_an_account_or_a_server_that_asks_for_patience_says_nothing_of_the_run(world, status):
    run, client = begin(world, poll_interval=NEVER, recover_on="unusable")

    with pytest.raises(FailedError):
        train(
            run, 9, before=Once(7, lambda _: client.fail(detail(status, f"Model {RUN} not loaded")))
        )

    assert world.service.created == []


DEAD = [
    detail(422, f"Future failed: Adapter {RUN} not found"),
    detail(422, f"Adapter {RUN} not found."),
    detail(500, f"Server error: Adapter {RUN} does not exist."),
    detail(400, f"Model {RUN} not loaded"),
    detail(400, f"Model '{RUN}' is no longer active"),
    detail(400, f"Model not loaded: {RUN}"),
    detail(404, f"Unknown model: {RUN}"),
    detail(404, f"Training run {RUN} not found"),
    detail(400, f"Training run {RUN} is corrupted and cannot save checkpoints."),
    detail(404, f"Session {SESSION} not found."),
    detail(400, f"Session {SESSION} has finished"),
    FailedError(f"422 Adapter {RUN} not found"),
    failed(f"Adapter {RUN} not found", "user"),
    failed(f"Adapter {RUN} not found", "server"),
    failed(f"Training run {RUN} is corrupted and could not be restored; it ends", "unknown"),
]

UNNAMED = [
    detail(404, "Model not found"),
    detail(400, "The model is not loaded"),
    detail(400, "Session has expired"),
    detail(410, "This ServiceClient is poisoned."),
    FailedError("410 - This ServiceClient is poisoned."),
    FailedError("A previous request failed; this TrainingClient is poisoned and cannot go on."),
    failed("Adapter not found", "user"),
    FailedError("Error retrieving result: Model not loaded with status 400 for self.request_id=''"),
]


@pytest.mark.parametrize("error", DEAD + UNNAMED, ids=str)
def test_what_says_that_this_run_is_dead_recovers_it(world, error):
    run, client = begin(world, poll_interval=NEVER)

    diary = train(run, 9, before=Once(7, lambda segment: client.fail(error)))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.events.one("detected").cause == "unusable"


def raised_elsewhere(world, error):
    """Have an error of no request of the segment leave its block, once."""
    run, _ = begin(world, poll_interval=NEVER, confirm_within=0.0)
    met = []
    for segment in run.segments():
        with segment:
            if not met:
                segment.save_state("a", step=0)
                met.append(error)
                raise error


@pytest.mark.parametrize("error", DEAD, ids=str)
def test_an_error_from_elsewhere_that_names_the_run_recovers_it(world, error):
    raised_elsewhere(world, error)

    assert world.service.created == [(weights("a"), True)]


@pytest.mark.parametrize(
    "error",
    [
        *UNNAMED,
        *MISTAKES,
        detail(422, f"Adapter {SESSION}:train:1 not found"),
        detail(422, f"Adapter {RUN}2 not found"),
        detail(422, f"Adapter x-{RUN} not found"),
        detail(422, f"Adapter not found: {RUN}2"),
        detail(404, f"Session {SESSION}-2 has finished"),
        detail(409, f"Sequence conflict of {SESSION}:train:1: expected 23, got 25"),
        detail(410, f"{SESSION}:train:1 was rolled back"),
        detail(410, f"{SESSION}:train:1 was restored from checkpoint {weights('a')}"),
    ],
    ids=str,
)
def test_what_another_client_of_the_session_met_recovers_no_run(world, error):
    with pytest.raises(SdkError) as caught:
        raised_elsewhere(world, error)

    assert caught.value is error
    assert world.service.created == []


@pytest.mark.parametrize(
    "text", [f"Sequence conflict of {RUN}", f"Promise of session {SESSION}: Promise expired"]
)
def test_what_is_certain_and_names_the_run_recovers_it(world, text):
    raised_elsewhere(world, detail(409, text))

    assert world.service.created == [(weights("a"), True)]
