"""A generation that a named run goes on with is saved before anything else, as it was restored."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from support.accounts import FIRST, Client, Service, elsewhere, first_step
from support.sites import account_of
from support.world import StatusError, weights

import tinkex
from tinkex.errors import RecoveryExhaustedError
from tinkex.testing import InlineExecutor

NAME, ADOPTED = "sft-7", "tinkex-adopted"
SECOND = "made:train:2"


@pytest.fixture
def left(opened, account):
    """A run of that name was left at step 20."""
    with opened(NAME, Service(account)):
        account.save(FIRST, 20)
        account.saves[FIRST][-1]["user_metadata"]["tinkex_data"] = "[7]"


def of_kind(account, kind):
    """A service client whose training clients are of another kind."""

    class Other(Service):
        def _made(self, run_id, metadata, base_model="any"):
            super()._made(run_id, metadata, base_model)
            return kind(run_id, account)

    return Other(account)


def train(segment, step):
    segment.client.forward_backward(f"batch {step}").result()
    segment.client.optim_step().result()


@pytest.mark.usefixtures("left")
def test_it_is_saved_before_anything_else_with_its_step_and_owner_for_a_day(opened, account):
    service = Service(account)
    with opened(NAME, service) as run, next(run.segments()) as segment:
        train(segment, 20)

    owner = account.rows[SECOND]["user_metadata"]["tinkex_owner"]
    metadata = {"tinkex_step": "20", "tinkex_data": "[7]", "tinkex_owner": owner}
    assert service.clients[0].saved == [(ADOPTED, metadata, 86_400)]
    assert [name for name, _ in service.clients[0].calls] == [
        "save_state",
        "forward_backward",
        "optim_step",
    ]


@pytest.mark.usefixtures("left")
def test_it_is_saved_once(opened, account):
    service = Service(account)
    with opened(NAME, service) as run:
        run.wait(5)
        run.wait(5)
        for _ in range(2):
            with next(run.segments()):
                pass

    assert [name for name, _, _ in service.clients[0].saved] == [ADOPTED]


def test_the_first_generation_is_not_saved(opened, account):
    service = Service(account)
    with opened(NAME, service) as run, next(run.segments()):
        pass

    assert service.clients[0].saved == []


def test_a_run_that_goes_by_its_id_alone_is_not_saved(account, world):
    account.listed.append(FIRST)
    account.save(FIRST, 20)
    service = Service(account)
    options = {"rest_module": account, "rest_client_fun": account_of, "scheduler": world.fake}
    options |= {"executor": InlineExecutor(), "takeover": True}
    with tinkex.resume(FIRST, service, {"enabled": True}, **options) as run:
        assert first_step(run) == 20

    assert service.clients[0].saved == []


@pytest.mark.usefixtures("left")
def test_a_later_recovery_goes_on_from_it_at_the_same_step(opened, account, world):
    service = Service(account)
    with opened(NAME, service) as run:
        segments = run.segments()
        with next(segments) as segment:
            for step in segment.steps(22):
                train(segment, step)
            account.corrupted.add(SECOND)
            world.fake.advance(10)
        segment = next(segments)

        assert (segment.start_step, segment.data) == (20, [7])
        assert service.created[-1] == (weights(ADOPTED, SECOND), True)
        assert segment.resume.steps_lost == 1
        assert [name for name, _, _ in service.clients[-1].saved] == [ADOPTED]


@pytest.mark.usefixtures("left")
def test_another_process_goes_on_from_it_at_the_same_step(opened, account, monkeypatch, tmp_path):
    with opened(NAME, Service(account)) as run:
        first_step(run)
    elsewhere(monkeypatch, tmp_path)
    with opened(NAME, Service(account), takeover=True) as run:
        segment = next(run.segments())
        assert (segment.start_step, segment.data) == (20, [7])


@pytest.mark.usefixtures("left")
def test_the_loop_did_not_save_it(opened, account):
    """So a loop that is interrupted before it submits anything goes on in place."""
    service = Service(account)
    with opened(NAME, service) as run:
        with pytest.raises(KeyboardInterrupt), next(run.segments()):
            raise KeyboardInterrupt
        with next(run.segments()) as segment:
            assert segment.start_step == 20
            train(segment, 20)
            assert segment.save_state("000021", step=21).tinker_path == weights("000021", SECOND)
        assert first_step(run) == 21

    assert len(service.created) == 1


@pytest.mark.usefixtures("left")
def test_that_it_fails_is_a_line_in_the_log(opened, account, caplog):
    class Failing(Client):
        def __init__(self, *args):
            super().__init__(*args)
            self.fail(StatusError(500))

    service = of_kind(account, Failing)
    with opened(NAME, service) as run, next(run.segments()) as segment:
        train(segment, 20)

    assert "saved at its beginning" in caplog.text
    assert account.saves.get(SECOND) is None


@pytest.mark.usefixtures("left")
def test_that_it_cannot_be_asked_for_is_a_line_in_the_log(opened, account, caplog):
    class Refusing(Client):
        def save_state(self, name, user_metadata=None):
            raise StatusError(400)

    with opened(NAME, of_kind(account, Refusing)) as run:
        assert first_step(run) == 20

    assert "saved at its beginning" in caplog.text


@pytest.mark.usefixtures("left")
def test_it_is_not_waited_for(opened, account):
    class Hanging(Client):
        def save_state(self, name, user_metadata=None):
            return Future()

    with opened(NAME, of_kind(account, Hanging)) as run, next(run.segments()) as segment:
        train(segment, 20)


@pytest.mark.usefixtures("left")
def test_an_interrupt_within_it_leaves_the_client_to_no_loop(opened, account):
    """It may have taken a turn in the SDK's order of requests."""

    class Interrupted(Client):
        def save_state(self, name, user_metadata=None):
            if self.model_id == SECOND:
                raise KeyboardInterrupt
            return super().save_state(name, user_metadata)

    with opened(NAME, of_kind(account, Interrupted)) as run:
        with pytest.raises(KeyboardInterrupt):
            first_step(run)
        assert first_step(run) == 20
        assert run.run_id == "made:train:3"


@pytest.mark.usefixtures("left")
def test_a_client_that_keeps_no_step_with_a_checkpoint_is_not_saved(opened, account):
    class Old(Client):
        def save_state(self, name):
            return super().save_state(name)

    service = of_kind(account, Old)
    with opened(NAME, service) as run:
        assert first_step(run) == 20

    assert service.clients[0].saved == []


@pytest.mark.usefixtures("left")
def test_a_client_that_keeps_checkpoints_for_ever_is_asked_without_a_time(opened, account):
    class Lasting(Client):
        def save_state(self, name, user_metadata=None):
            return super().save_state(name, user_metadata)

    service = of_kind(account, Lasting)
    with opened(NAME, service) as run:
        assert first_step(run) == 20

    assert [(name, ttl) for name, _, ttl in service.clients[0].saved] == [(ADOPTED, None)]


def test_where_its_step_is_not_known_it_is_not_saved(opened, account):
    with opened(NAME, Service(account)):
        account.save(FIRST, 20)
        account.saves[FIRST][-1]["user_metadata"].clear()
    service = Service(account)
    with opened(NAME, service) as run:
        segment = next(run.segments(resume_step=lambda found: int(found.checkpoint_id)))
        assert segment.start_step == 20
        assert segment.client.saved == []


@pytest.mark.usefixtures("left")
def test_it_is_no_progress(opened, account, world):
    """A batch that the server cannot digest is not paid for for ever."""
    service = Service(account)
    with opened(NAME, service) as run, pytest.raises(RecoveryExhaustedError) as exhausted:
        for segment in run.segments():
            with segment:
                for step in segment.steps(30):
                    train(segment, step)
                    account.corrupted.add(run.run_id)
                    world.fake.advance(10)

    assert exhausted.value.error.step == 20
    assert len(service.created) == 4
