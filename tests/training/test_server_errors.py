"""What an error of the server means for a run: recovered, raised at once, or waited on."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from support.loops import FailedError, Once, SdkError, ValidationError, begin, train
from support.world import RUN, weights

from tinkex.errors import RecoveryExhaustedError

#: So rare that in these tests only failures have a run polled.
NEVER = 100_000.0


class ElsewhereError(Exception):
    """An error of a service with the SDK's surface."""

    __module__ = "baseten.training"


def failing(client, error, times=1):
    """Have the next requests fail, once, before step 7."""
    return Once(7, lambda segment: client.fail(error, times))


@pytest.mark.parametrize(
    "error",
    [
        FailedError("internal error", 500),
        FailedError("the engine failed", category="server"),
        FailedError("Connection error."),
        ElsewhereError("the backend failed"),
        FailedError("Expected Content-Type response header to be `application/json`", 200),
    ],
    ids=repr,
)
def test_a_server_that_fails_at_a_step_has_its_run_recovered_in_time(world, error):
    run, client = begin(world, poll_interval=NEVER)

    diary = train(run, 9, before=failing(client, error))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.fake.now() == 30.0
    assert world.events.one("detected").cause == "error"
    assert str(error) in world.events.one("detected").reason
    assert run.lineage[0].cause == "error"


@pytest.mark.parametrize("recover_on", ["unusable", "corrupted"])
def test_a_policy_may_leave_such_a_run_alone(world, recover_on):
    run, client = begin(world, poll_interval=NEVER, recover_on=recover_on)

    with pytest.raises(FailedError):
        train(run, 9, before=failing(client, FailedError("internal error", 500)))

    assert world.service.created == []


@pytest.mark.parametrize(
    "text",
    [
        "410 - Server restored from checkpoint s8. Operations after this must be retried.",
        "409 Sequence conflict: expected 23, got 25",
        "Promise expired",
        "410 - This ServiceClient is poisoned.",
    ],
)
def test_a_text_that_leaves_no_doubt_begins_a_recovery_at_once(world, text):
    run, client = begin(world, poll_interval=NEVER)

    diary = train(run, 9, before=failing(client, FailedError(text)))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    assert world.fake.now() == 0.0
    assert world.events.one("detected").cause == "unusable"


@pytest.mark.parametrize(
    "error",
    [
        FailedError("loss 'x' is not supported", 422),
        FailedError("too long", 400),
        FailedError("bad", category="user"),
    ],
    ids=repr,
)
def test_a_mistake_of_the_caller_is_raised_at_once(world, error):
    run, client = begin(world, poll_interval=NEVER)

    with pytest.raises(FailedError) as caught:
        train(run, 9, before=failing(client, error))

    assert caught.value is error
    assert world.fake.now() == 0.0
    assert world.service.created == []


@pytest.mark.parametrize(
    "error", [TypeError("no AdamParams"), AttributeError("model_input"), ValidationError("path")]
)
def test_arguments_that_make_no_request_are_raised_at_once(world, error):
    run, client = begin(world, poll_interval=NEVER)

    with pytest.raises(type(error)) as caught:
        train(run, 9, before=failing(client, error))

    assert caught.value is error
    assert world.fake.now() == 0.0
    assert world.service.created == []


def test_an_answer_that_cannot_be_read_is_not_taken_for_the_callers_mistake(world):
    run, client = begin(world, poll_interval=NEVER)

    def fail(segment):
        client.fail(ValueError("Error retrieving result: 1 validation error"))
        world.fake(10.0, world.corrupt).start()

    assert train(run, 9, before=Once(7, fail)).steps[-1] == 8
    assert len(world.service.created) == 1


def test_a_mistake_that_hides_a_flag_does_not_hide_it(world):
    run, client = begin(world, poll_interval=NEVER)

    def corrupt(segment):
        world.corrupt(RUN, "000005")
        client.fail(FailedError("bad request", 400))

    diary = train(run, 9, before=Once(7, corrupt))

    assert diary.steps == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8]


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_an_account_that_is_refused_begins_no_recovery(world, status):
    run, client = begin(world, poll_interval=NEVER, confirm_within=5.0)

    with pytest.raises(FailedError):
        train(run, 9, before=failing(client, FailedError("refused", status)))

    assert world.service.created == []
    assert run.state == "healthy"


@pytest.mark.parametrize(
    "text",
    [
        "422 Adapter 77aa:train:0 not found",
        "404 tokenizer of Qwen/Qwen9 not found",
        "404 Model Qwen/Qwen9 not found",
        "410 - This ServiceClient is poisoned.",
    ],
)
def test_what_another_client_met_recovers_no_run(world, text):
    run, _ = begin(world, confirm_within=0.0)

    with pytest.raises(SdkError):
        for segment in run.segments():
            with segment:
                raise SdkError(text)

    assert world.service.created == []


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: ExceptionGroup("g", [e])], ids=["", "g"])
def test_a_group_is_judged_by_what_is_in_it(world, wrap):
    run, client = begin(world, poll_interval=NEVER, confirm_within=0.0)
    entered = 0

    for segment in run.segments():
        entered += 1
        with segment:
            if entered == 1:
                segment.save_state("a", step=0)
                client.fail(FailedError("internal error", 500))
                try:
                    segment.client.optim_step().result()
                except FailedError as error:
                    raise wrap(error)  # noqa: B904

    assert entered == 2


def test_a_group_with_a_bug_in_it_is_raised(world):
    run, client = begin(world, poll_interval=NEVER, confirm_within=0.0)

    with pytest.raises(ExceptionGroup):
        for segment in run.segments():
            with segment:
                client.fail(FailedError("internal error", 500))
                error = segment.client.optim_step().exception()
                raise ExceptionGroup("two", [error, KeyError("mine")])

    assert world.service.created == []


def test_an_error_that_the_loop_passed_over_is_no_end(world):
    run, client = begin(world, poll_interval=NEVER)
    trained = []

    for segment in run.segments():
        with segment:
            for step in segment.steps(6):
                if step == 4 and len(run.lineage) == 1:
                    client.fail(FailedError("internal error", 500))
                try:
                    segment.client.forward_backward("x").result()
                    segment.client.optim_step().result()
                    trained.append(step)
                    segment.save_state(f"{step}", step=step + 1)
                except Exception:
                    continue

    assert trained == [0, 1, 2, 3, 4, 5]
    assert world.service.created == [(weights("3"), True)]


def test_an_error_that_nobody_looked_at_is_no_end_either(world):
    run, client = begin(world, poll_interval=NEVER)
    entered = 0

    for segment in run.segments():
        entered += 1
        with segment:
            if entered == 1:
                segment.save_state("a", step=0)
                client.fail(FailedError("internal error", 500))
                segment.client.optim_step()

    assert entered == 2
    assert world.service.created == [(weights("a"), True)]


class NoRequestError(Exception):
    """As `httpx.HTTPError`, whose property raises where there is no request."""

    @property
    def request(self):
        raise RuntimeError("The .request property has not been set.")


def test_an_error_whose_attributes_raise_is_raised_as_it_is(world):
    run, client = begin(world, poll_interval=NEVER, confirm_within=0.0)

    with pytest.raises(NoRequestError):
        train(run, 9, before=failing(client, NoRequestError("no route")))

    assert run.report_failure(NoRequestError("no route")) is False


# Saves


def test_a_save_that_fails_is_made_again(world):
    run, client = begin(world, poll_interval=NEVER)
    with next(run.segments()) as segment:
        client.fail(FailedError("internal error", 500), 2)

        saved = segment.save_state("a", step=0)

    assert saved.tinker_path == weights("a")
    assert [name for method, name in client.calls if method == "save_state"] == ["a", "a", "a"]
    assert 7.5 <= world.fake.now() <= 15.0
    assert world.service.created == []


def test_a_save_that_goes_on_failing_has_its_run_recovered(world):
    run, client = begin(world, poll_interval=NEVER)
    run.record_checkpoint(weights("a"), step=0)
    entered = 0

    for segment in run.segments():
        entered += 1
        with segment:
            if entered == 1:
                client.fail(FailedError("internal error", 500), 3)
                segment.save_state("b", step=0)

    assert entered == 2
    assert world.events.one("detected").cause == "error"


@pytest.mark.parametrize(("told", "is_there"), [("5", True), ("4", False), (None, False)])
def test_a_name_that_is_taken_is_ones_own_save_where_its_step_says_so(world, told, is_there):
    run, client = begin(world, poll_interval=NEVER, confirm_within=0.0)
    listed = {"tinker_path": weights("a"), "size_bytes": 5}
    if told is not None:
        listed["user_metadata"] = {"tinkex_step": told}
    world.rest.set_run(RUN, checkpoints=[listed])
    client.fail(FailedError("Checkpoint 'a' already exists", 409))

    with next(run.segments()) as segment:
        if is_there:
            assert segment.save_state("a", step=5).tinker_path == weights("a")
        else:
            with pytest.raises(FailedError):
                segment.save_state("a", step=5)

    assert world.service.created == []


def test_a_batch_that_a_server_never_digests_ends_with_the_budget(world):
    run, _ = begin(world, poll_interval=NEVER, max_incidents=2, confirm_within=0.0)
    run.record_checkpoint(weights("a"), step=0)

    def break_it(segment, step):
        segment.client.fail(FailedError("internal error", 500))

    with pytest.raises(RecoveryExhaustedError):
        train(run, 9, before=break_it)

    assert len(world.service.created) == 2


@pytest.mark.parametrize("is_answered", [True, False], ids=["before the error", "after it"])
def test_a_save_behind_a_request_that_failed_is_not_believed(world, is_answered):
    run, client = begin(world, poll_interval=NEVER, confirm_within=0.0)
    update, answer, entered = Future(), Future(), 0

    for segment in run.segments():
        entered += 1
        with segment:
            if entered > 1:
                assert segment.start_step == 2
                continue
            segment.client.forward_backward("x").result()
            path = segment.client.save_state("at-2").result().tinker_path
            run.record_checkpoint(path, step=2)
            client.optim_step = lambda params=None: update
            segment.client.optim_step()
            client.save_state = lambda name, user_metadata=None: answer
            saving = segment.save_state_async("at-3", step=3)
            saved = type("Saved", (), {"path": weights("at-3")})()
            if is_answered:
                answer.set_result(saved)
                update.set_exception(FailedError("internal error", 500))
            else:
                update.set_exception(FailedError("internal error", 500))
                answer.set_result(saved)
            saving.close()

    assert entered == 2
    assert world.service.created == [(weights("at-2"), True)]
