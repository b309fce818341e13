"""An owner that was taken over finds out and ends its loop; nobody restores what it saved then."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress

import pytest
from support.accounts import FIRST, Service, elsewhere, first_step
from support.sites import account_of, refuses
from support.world import ManualExecutor

from tinkex.errors import ApiServerError, RunHeldError, SegmentSupersededError
from tinkex.testing import FakeScheduler

NAME = "sft-7"


def train(segment, step):
    """One step, and its save."""
    segment.client.forward_backward(f"batch {step}").result()
    segment.client.optim_step().result()
    return segment.save_state(f"{step + 1:06d}", step=step + 1)


def fenced(world):
    return [(each.run_id, each.successor_id) for each in world.events.of("fenced")]


class Suspended(FakeScheduler):
    """Its clock goes on for some seconds in which no timer fires."""

    suspended = 0.0

    def now(self):
        return super().now() + self.suspended


@pytest.fixture(autouse=True)
def machine_that_may_sleep(world):
    world.fake = Suspended()


@pytest.fixture
def other_machine(monkeypatch, tmp_path):
    return lambda name="b": elsewhere(monkeypatch, tmp_path, name)


def test_who_was_taken_over_finds_out_within_a_minute(opened, account, world, other_machine):
    with opened(NAME, Service(account)) as run:
        segments = run.segments()
        with next(segments) as segment:
            train(segment, 0)
            other_machine()
            with opened(NAME, Service(account), takeover=True) as other:
                assert first_step(other) == 1
                run.client.hold()
                pending = segment.client.save_state("never-answered")
                world.fake.advance(60)

                assert (run.state, other.state) == ("following", "healthy")
                with pytest.raises(SegmentSupersededError):
                    pending.result(0)
                with pytest.raises(SegmentSupersededError):
                    segment.client.forward_backward("more")
                with pytest.raises(SegmentSupersededError):
                    segment.save_state("000002", step=2)
                for ask in (lambda: next(segments), run.wait, run.recover):
                    with pytest.raises(RunHeldError, match=other.run_id) as held:
                        ask()
                owner = account.rows[other.run_id]["user_metadata"]["tinkex_owner"]
                assert owner in str(held.value)

    [event] = world.events.of("fenced")
    assert (event.run_id, event.successor_id, event.owner) == (FIRST, other.run_id, owner)
    assert [name for name, _, _ in segment.client.saved] == ["000001", "never-answered"]


def test_the_block_of_the_run_ends_with_an_error_that_names_who_holds_it(
    opened, account, other_machine
):
    steps = []

    def script():
        with opened(NAME, Service(account)) as run:
            for segment in run.segments():
                with segment:
                    for step in segment.steps(10):
                        train(segment, step)
                        steps.append(step)
                        if step == 2:
                            other_machine()
                            with opened(NAME, Service(account), takeover=True) as other:
                                first_step(other)

    with pytest.raises(RunHeldError, match="made:train:2"):
        script()

    assert steps == [0, 1, 2]


def test_a_save_looks_before_it_is_sent(opened, account, world, other_machine):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            first_step(other)
            with pytest.raises(SegmentSupersededError):
                segment.save_state("000002", step=2)

    assert [name for name, _, _ in segment.client.saved] == ["000001"]
    assert fenced(world) == [(FIRST, "made:train:2")]


def test_a_save_that_takes_a_minute_looks_again_before_it_returns(
    opened, account, world, other_machine
):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        save = run.client.save_state

        def save_slowly(name, user_metadata=None):
            other_machine()
            with opened(NAME, Service(account), takeover=True) as other:
                first_step(other)
            world.fake.suspended += 60
            return save(name, user_metadata)

        run.client.save_state = save_slowly
        with pytest.raises(SegmentSupersededError):
            segment.save_state("000002", step=2)
        assert run.state == "following"


@pytest.mark.parametrize("saved", ["000002", None])
def test_what_a_loser_saved_is_restored_by_nobody(opened, account, world, other_machine, saved):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            assert first_step(other) == 1
            if saved:
                account.save(FIRST, 2)
            world.fake.advance(60)
        assert run.state == "following"
    other_machine("c")
    with opened(NAME, Service(account), takeover=True) as third:
        assert first_step(third) == 1
        assert [each.run_id for each in third.lineage][:2] == [FIRST, other.run_id]


def test_one_that_has_made_a_run_and_saved_nothing_fences_nobody(
    opened, account, world, other_machine
):
    account.keeps_saves = False
    with opened(NAME, Service(account)) as run, next(run.segments()):
        account.save(FIRST, 1)
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            first_step(other)
            world.fake.advance(130)
            assert (run.state, other.state) == ("healthy", "healthy")

            account.save(other.run_id, 2)
            world.fake.advance(60)
            assert (run.state, other.state) == ("following", "healthy")


def test_a_run_that_is_followed_is_polled_and_not_recovered(opened, account, world, other_machine):
    service = Service(account)
    with opened(NAME, service) as run, next(run.segments()) as segment:
        train(segment, 0)
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            first_step(other)
            world.fake.advance(60)
            before = run.status().last_poll
            world.fake.advance(20)
            assert run.status().last_poll > before

            account.corrupted.add(FIRST)
            world.fake.advance(20)
            assert run.state == "following"
            assert run.report_failure(RuntimeError("it failed")) is False
            run.stop()
            assert run.state == "stopped"
            with pytest.raises(SegmentSupersededError):
                segment.client.forward_backward("more")

    assert service.created == []
    assert "detected" not in world.events.names


# Looks


def test_runs_without_an_owner_are_not_looked_at(account, world):
    options = {"rest_module": account, "rest_client_fun": account_of}
    account.listed.append(FIRST)
    world.monitor(options=options).monitor_run(FIRST, Service(account))
    world.fake.advance(300)

    assert account.lists == []


def looks_of(account, since):
    """How often the whole list of 41 runs was read; no sweep reads it for one run."""
    return len(account.lists) - since


def test_an_account_is_looked_at_once_a_minute(opened, account, world):
    with opened(NAME, Service(account)):
        began = len(account.lists)
        world.fake.advance(600)

    assert 10 <= looks_of(account, began) <= 12


def test_nothing_is_looked_at_after_the_end(opened, account, world):
    with opened(NAME, Service(account)):
        pass
    began = len(account.lists)
    world.fake.advance(600)

    assert looks_of(account, began) == 0
    assert world.fake.pending == ()


def test_time_in_which_the_machine_was_suspended_counts(opened, account, world, other_machine):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            first_step(other)
            world.fake.suspended += 3600
            world.fake.advance(10)

            assert run.state == "following"


def test_a_look_that_fails_proves_nothing_and_is_made_again_soon(
    opened, account, world, caplog, other_machine
):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            first_step(other)
            account.page = refuses(ApiServerError(503, "down"))
            world.fake.advance(100)
            assert run.state == "healthy"
            assert caplog.text.count("cannot be seen") == 2  # one of each monitor

            account.page = lambda rows, offset: rows
            world.fake.advance(10)
            assert run.state == "following"


def test_a_save_goes_on_where_its_look_fails(opened, account, caplog):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        account.page = refuses(ApiServerError(503, "down"))
        train(segment, 0)

    assert [name for name, _, _ in segment.client.saved] == ["000001"]
    assert "it is saved, though" in caplog.text


# An incident that is open


def test_an_incident_is_given_up_and_its_attempt_is_not_made_any_more(opened, account, world):
    opened.executor = executor = ManualExecutor()
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        account.corrupted.add(FIRST)
        world.fake.advance(10)
        assert (run.state, len(executor.waiting)) == ("recovering", 1)
        assert executor.begin_next()
        next_generation(account, "zzzz:train:0")
        world.fake.advance(60)
        executor.finish_next()

        assert (run.state, run.run_id) == ("following", FIRST)
        with pytest.raises(RunHeldError):
            run.wait()

    assert "made:train:3" not in account.listed


@pytest.mark.parametrize("is_made", [False, True])
def test_a_recovery_that_was_asked_for_ends_with_who_has_the_run(opened, account, world, is_made):
    opened.executor = ManualExecutor()

    class Slow(Service):
        def _create(self, *args, **options):
            next_generation(account, "zzzz:train:0")
            world.fake.advance(60)
            return super()._create(*args, **options)

    with opened(NAME, Slow(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        future = run.recover()
        if is_made:
            opened.executor.run_next()
        else:
            next_generation(account, "zzzz:train:0")
            world.fake.advance(60)

        assert run.state == "following"
        with pytest.raises(RunHeldError, match="zzzz"):
            future.result(0)


def test_what_an_attempt_under_way_brings_is_an_orphan(opened, account, world):
    class Slow(Service):
        def _create(self, *args, **options):
            next_generation(account, "zzzz:train:0")
            world.fake.advance(60)
            return super()._create(*args, **options)

    with opened(NAME, Slow(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
        account.corrupted.add(FIRST)
        world.fake.advance(10)

        assert (run.state, run.run_id) == ("following", FIRST)
        assert run.lineage[0].orphans == ("made:train:3",)
        assert run.client.model_id == FIRST


def test_a_run_that_was_given_up_is_fenced_as_well(opened, account, world, other_machine):
    service = Service(account)
    with opened(NAME, service) as run, next(run.segments()) as segment:
        train(segment, 0)
        service.fail(RuntimeError("no"), times=3)
        account.corrupted.add(FIRST)
        world.fake.advance(40)
        assert run.state == "exhausted"
        other_machine()
        with opened(NAME, Service(account), takeover=True) as other:
            first_step(other)
            world.fake.advance(60)
            with pytest.raises(RunHeldError):
                run.recover()


# Ties


def make(service, metadata):
    return service.create_lora_training_client("any", 32, metadata)


def begin_together(opened, account, other_machine, stack, *, ours_is_first):
    """A `create` in which another machine opens the same name; and what that one opened."""
    made, others = [], []

    def create(service, metadata):
        def create_there(its_service, its_metadata):
            if ours_is_first:
                made.append(make(service, metadata))
            return make(its_service, its_metadata)

        other_machine()
        with suppress(RunHeldError):
            run = opened(NAME, Service(account), create=create_there)
            others.append(stack.enter_context(run))
        return made[0] if made else make(service, metadata)

    return create, others


def test_of_two_that_begin_at_the_same_moment_the_one_with_the_smaller_id_goes_on(
    opened, account, world, other_machine
):
    with ExitStack() as stack:
        about = opened, account, other_machine, stack
        create, others = begin_together(*about, ours_is_first=True)
        with opened(NAME, Service(account), create=create) as run:
            assert (run.run_id, run.state) == (FIRST, "healthy")

    assert others == []
    assert fenced(world) == [("made:train:2", FIRST)]


def test_the_other_one_is_refused_before_its_client_is_handed_out(
    opened, account, world, other_machine
):
    with ExitStack() as stack:
        about = opened, account, other_machine, stack
        create, others = begin_together(*about, ours_is_first=False)
        with (
            pytest.raises(RunHeldError, match=FIRST),
            opened(NAME, Service(account), create=create),
        ):
            pass

        world.fake.advance(60)
        assert [(each.run_id, each.state) for each in others] == [(FIRST, "healthy")]
    assert fenced(world) == [("made:train:2", FIRST)]


def next_generation(account, run_id, *, saved=True):
    """Another machine has gone on with the first run."""
    told = account.rows[FIRST]["user_metadata"]
    made_from = {"tinkex_recovered_from": FIRST, "tinkex_checkpoint": account.saved[-1]}
    account.add(run_id, {**told, **made_from, "tinkex_owner": "they", "tinkex_generation": "1"})
    if saved:
        account.save(run_id, 1)


@pytest.mark.parametrize(
    ("it", "state"), [("aaaa:train:0", "following"), ("zzzz:train:0", "healthy")]
)
def test_of_two_that_restore_at_the_same_moment_one_goes_on(opened, account, it, state):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
    with opened(NAME, Service(account)) as run:
        next_generation(account, it, saved=False)
        segments = run.segments()
        if state == "following":
            with pytest.raises(RunHeldError, match=it):
                assert next(segments).client.model_id
        else:
            assert next(segments).client.model_id == run.run_id

        assert run.state == state
        # Who yields saves nothing: that would turn it round.
        is_saved = "tinkex-adopted" in "".join(account.saved)
        assert is_saved is (state == "healthy")


def test_a_run_that_was_taken_over_before_its_first_use_is_not_restored(opened, account, world):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        train(segment, 0)
    service = Service(account)
    with opened(NAME, service) as run:
        next_generation(account, "zzzz:train:0")
        with pytest.raises(RunHeldError, match="zzzz"):
            first_step(run)

    assert service.created == []


def smaller_appears(account, root="other"):
    """Another machine has made a run of the same name whose id is smaller."""
    owned = {"tinkex_root": root, "tinkex_owner": "they", "tinkex_generation": "0"}
    account.add("aaaa:train:0", {"tinkex_name": NAME, **owned})


def test_in_a_tie_the_save_that_is_under_way_may_turn_it_round(opened, account, world):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        run.client.hold()
        segment.client.save_state("000001")
        smaller_appears(account)
        world.fake(75, run.client.release).start()
        world.fake.advance(90)

        assert run.state == "healthy"
        account.save("aaaa:train:0", 5)
        world.fake.advance(60)
        assert run.state == "following"


def test_in_a_tie_a_save_that_never_ends_is_not_waited_for_for_ever(opened, account, world):
    with opened(NAME, Service(account)) as run, next(run.segments()) as segment:
        run.client.hold()
        segment.client.save_state("000001")
        smaller_appears(account)
        world.fake.advance(100)

        assert run.state == "following"


def test_a_save_on_an_event_loop_looks_before_it_returns(opened, account, other_machine):
    async def script(run):
        async for segment in run.segments():
            async with segment:
                await segment.save_state_async("000001", step=1)
                began = len(account.lists)
                next_generation(account, "zzzz:train:0")
                saving = segment.save_state_async("000002", step=2)
                assert len(account.lists) == began
                with pytest.raises(SegmentSupersededError):
                    await saving
                raise SegmentSupersededError(FIRST)

    with opened(NAME, Service(account)) as run, pytest.raises(RunHeldError, match="zzzz"):
        asyncio.run(script(run))
