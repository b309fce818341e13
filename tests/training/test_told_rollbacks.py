"""A server that answers with 409 or 410 that it went back to a checkpoint rolled the run back."""

from __future__ import annotations

import pytest
from support.loops import FailedError, Once, begin, train
from support.world import RECOVERY, RUN, weights

#: So rare that in these tests only failures have a run polled.
NEVER = 100_000.0

RESTORED = (
    "Server restored from checkpoint s8. Operations after this checkpoint need to be retried."
)


def promise_broken(text, status):
    """As the SDK raises what the server answered for a request that was under way."""
    error = FailedError("Promise expired/broken for request 7")
    error.__cause__ = FailedError(f"Error code: {status} - {{'detail': '{text}'}}", status)
    return error


def trained_through(world, error, **policy):
    """Train 9 steps, of which the 8th meets the error once; give the run and the steps."""
    run, client = begin(world, poll_interval=NEVER, **policy)
    diary = train(run, 9, before=Once(7, lambda segment: client.fail(error)))
    return run, diary.steps


@pytest.mark.parametrize("recover_on", ["error", "unusable"])
def test_it_is_told_and_restored_at_once(world, recover_on):
    error = promise_broken(RESTORED, 410)

    run, steps = trained_through(world, error, recover_on=recover_on)

    assert steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.fake.now() == 0.0
    assert world.events.names_of(RUN) == ["detected", "rolled_back", *RECOVERY[1:]]
    assert world.events.one("detected").cause == "rolled_back"
    told = world.events.one("rolled_back")
    assert told.checkpoint.tinker_path == weights("s8")
    assert RESTORED in told.evidence
    assert run.lineage[0].cause == "rolled_back"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"rolled back to checkpoint {weights('a/b', '77aa:train:0')}.", "tinker://77aa:train:0/weights/a/b"),
        ("This run was restored from checkpoint v1.5, retry", weights("v1.5")),
        ("the model was rolled back to checkpoint `at-4` and goes on there", weights("at-4")),
        ("Restored from checkpoint 000005 (step 5)", weights("000005")),
        ("Server restored from checkpoint. Operations must be retried.", None),
        ("Server restored from checkpoint because a node failed.", None),
        ("Server restored from a checkpoint", None),
        (f"restored from checkpoint {weights('s8').replace('weights', 'sampler_weights')}", None),
        ("restored from checkpoint tinker://", None),
        ("The run was rolled back", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [409, 410])
def test_the_checkpoint_is_the_one_that_the_text_names(world, text, path, status):
    trained_through(world, promise_broken(text, status))

    checkpoint = world.events.one("rolled_back").checkpoint
    assert (checkpoint and checkpoint.tinker_path) == path


@pytest.mark.parametrize(
    "error",
    [
        FailedError("409 Sequence conflict: expected 23, got 25", 409),
        FailedError("Promise expired", 410),
        FailedError("This ServiceClient is poisoned.", 410),
        FailedError(RESTORED, 400),
    ],
    ids=str,
)
def test_what_says_less_leaves_the_client_unusable(world, error):
    trained_through(world, error)

    assert world.events.one("detected").cause == "unusable"
    assert world.events.of("rolled_back") == []


def test_the_key_is_not_in_the_evidence(world):
    trained_through(world, promise_broken(f"key tml-fake: {RESTORED}", 410))

    evidence = world.events.one("rolled_back").evidence
    assert "tml-fake" not in evidence
    assert RESTORED in evidence


def test_a_policy_for_flags_alone_raises_it(world):
    error = promise_broken(RESTORED, 410)

    with pytest.raises(FailedError) as caught:
        trained_through(world, error, recover_on="corrupted")

    assert caught.value is error
    assert world.events.of("rolled_back") == world.service.created == []


def test_the_loop_gets_the_error_itself(world):
    run, client = begin(world, poll_interval=NEVER)
    error, met = promise_broken(RESTORED, 410), []

    for segment in run.segments():
        with segment:
            if not met:
                segment.save_state("a", step=0)
                client.fail(error)
                met.append(segment.client.optim_step().exception())
                raise met[0]

    assert met == [error]
    assert run.lineage[0].cause == "rolled_back"


def test_what_another_client_was_told_is_not_told_of_this_run(world):
    run, _ = begin(world, poll_interval=NEVER, confirm_within=0.0)

    with pytest.raises(FailedError), next(run.segments()):
        raise promise_broken(RESTORED, 410)

    assert world.events.of("rolled_back") == world.service.created == []
