"""A run that is opened by its name is made once, gone on with later, and trained by one owner."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

import pytest
from support.accounts import BEGAN, FIRST, Account, Service, elsewhere, first_step
from support.sites import account_of
from support.world import RUN, StatusError

import tinkex
from tinkex.errors import ApiResponseError, ApiStatusError, RunHeldError, TinkexError


def is_trained(account, world, monkeypatch):
    """From here on the first run makes a request each minute."""
    get = account.get_training_run

    def moving(config, run_id):
        moment = BEGAN + timedelta(seconds=world.fake.now() // 60)
        account.rows[FIRST]["last_request_time"] = moment.isoformat()
        return get(config, run_id)

    monkeypatch.setattr(account, "get_training_run", moving)


def test_a_name_that_is_new_is_given_to_a_run_that_is_made(opened, account):
    service = Service(account)
    of_another = {"team": "a", "tinkex_recovered_from": "other1:train:0"}
    with opened("sft-7", service, rank=8, user_metadata=of_another) as run:
        assert (run.run_id, first_step(run)) == (FIRST, 0)
        assert run.client.model_id == FIRST

    told = account.rows[FIRST]["user_metadata"]
    assert service.options == [("any", 8)]
    assert {"tinkex_name", "tinkex_root", "tinkex_owner", "tinkex_silent_for"} < set(told)
    assert (told["tinkex_name"], told["tinkex_generation"], told["team"]) == ("sft-7", "0", "a")
    assert "tinkex_recovered_from" not in told


def test_the_same_script_run_again_goes_on(opened, account):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)

    steps = []
    for number in range(3):
        service = Service(account)
        with opened("sft-7", service) as run:
            steps.append(first_step(run))
            assert service.options == []
            account.save(run.run_id, 30 + number)
            lineage = run.lineage

    assert steps == [20, 30, 31]
    assert len(lineage) == 4
    roots = {row["user_metadata"]["tinkex_root"] for row in account.rows.values() if row}
    assert len(roots) == 1
    told = [row["user_metadata"]["tinkex_generation"] for row in account.rows.values() if row]
    assert told == ["0", "1", "2", "3"]


def test_a_run_that_saved_nothing_is_begun_anew_as_the_next_generation(opened, account):
    with opened("sft-7", Service(account)):
        pass
    service = Service(account)
    with opened("sft-7", service) as run:
        assert first_step(run) == 0
        assert run.status().generation == 1

    made = account.rows["made:train:2"]["user_metadata"]
    assert made["tinkex_generation"] == "1"
    assert made["tinkex_root"] == account.rows[FIRST]["user_metadata"]["tinkex_root"]


@pytest.mark.parametrize("told", [None, {"tinker_path": 5}])
def test_a_run_whose_first_save_the_list_does_not_tell_yet_is_gone_on_with(opened, account, told):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)
    account.rows[FIRST]["last_checkpoint"] = told

    service = Service(account)
    with opened("sft-7", service) as run:
        assert first_step(run) == 20
        assert run.lineage[0].run_id == FIRST
    assert service.options == []


@pytest.mark.parametrize("status", [404, 422, 500])
def test_where_it_cannot_be_told_whether_a_run_has_saved_it_is_not_begun_anew(
    opened, account, monkeypatch, status
):
    with opened("sft-7", Service(account)):
        pass

    def list_checkpoints(config, run_id):
        raise ApiStatusError.of(status)

    monkeypatch.setattr(account, "list_checkpoints", list_checkpoints)
    service = Service(account)
    with suppress(ApiStatusError), opened("sft-7", service):
        pass
    assert len(service.options) == (status < 500)


def test_to_look_at_a_run_that_is_there_makes_nothing(opened, account, world):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)
    service = Service(account)
    with opened("sft-7", service) as run:
        assert run.plan().candidates[0].step == 20
        world.fake.advance(60)

    assert (service.options, service.created) == ([], [])


def test_create_makes_the_client_with_the_metadata_that_it_gets(opened, account):
    service, given = Service(account), []

    def create(client, metadata):
        given.append((client, metadata["tinkex_name"]))
        return client._made("own:train:0", metadata)

    with opened("sft-7", service, create=create) as run:
        assert run.run_id == "own:train:0"

    assert given == [(service, "sft-7")]


def test_a_create_that_leaves_the_metadata_out_is_told_of_it(opened, account):
    def create(client, metadata):
        return client._made("own:train:0", {})

    with (
        pytest.raises(TinkexError, match=r"own:train:0.* make it with user_metadata=metadata"),
        opened("sft-7", Service(account), create=create),
    ):
        pass


@pytest.mark.parametrize("given", [{"create": "any"}, {"user_metadata": "any"}], ids=repr)
def test_options_of_a_wrong_kind_are_refused_before_anything_is_asked(opened, given):
    def never(rows, offset):
        raise AssertionError("it was asked")

    with (
        pytest.raises(TypeError, match=rf"{next(iter(given))} must be .*, not 'any'"),
        opened("sft-7", Service(Account(page=never)), **given),
    ):
        pass


@pytest.mark.parametrize("options", [{"base_model": "other"}, {"rank": 8}], ids=repr)
def test_another_model_under_the_same_name_is_an_error(opened, account, options):
    with opened("sft-7", Service(account)):
        pass

    with pytest.raises(ValueError, match="sft-7"), opened("sft-7", Service(account), **options):
        pass


def test_a_list_that_is_cut_short_makes_no_run(opened):
    account = Account(page=lambda rows, offset: rows[:3] if offset == 0 else [])
    service = Service(account)

    with pytest.raises(ApiResponseError), opened("sft-7", service):
        pass

    assert service.options == []


def test_a_server_without_metadata_is_an_error(opened, account):
    account.keeps_metadata = False

    with pytest.raises(TinkexError, match="metadata"), opened("sft-7", Service(account)):
        pass


def test_a_service_client_without_metadata_is_an_error_before_a_run_is_made(opened, account):
    service = Service(account)
    service.create_lora_training_client = lambda base_model: pytest.fail("a run was made")

    with pytest.raises(TypeError, match="metadata"), opened("sft-7", service):
        pass


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, 5, None])
def test_what_is_no_name_is_refused_at_the_door(opened, account, name):
    with pytest.raises((TypeError, ValueError), match="name"), opened(name, Service(account)):
        pass


@pytest.mark.parametrize("field", ["silent_for", "held_wait"])
@pytest.mark.parametrize("given", [-1, float("nan"), "5", True])
def test_what_is_no_time_is_refused_at_the_door(opened, account, field, given):
    with (
        pytest.raises((TypeError, ValueError), match=field),
        opened("sft-7", Service(account), **{field: given}),
    ):
        pass


@pytest.mark.parametrize("given", ["false", "no", 0, None])
def test_a_takeover_that_is_no_bool_is_refused(opened, account, given):
    with (
        pytest.raises(TypeError, match="takeover"),
        opened("sft", Service(account), takeover=given),
    ):
        pass


# Owners


def test_a_name_that_is_open_in_this_process_is_held(opened, account):
    with opened("sft-7", Service(account)):
        with pytest.raises(RunHeldError, match="sft-7"), opened("sft-7", Service(account)):
            pass
        with opened("sft-8", Service(account)) as other:
            assert other.run_id == "made:train:2"


def test_its_lineage_is_held_by_its_ids_as_well(opened, account, world):
    with opened("sft-7", Service(account)):
        account.save(FIRST, 20)
        with (
            pytest.raises(RunHeldError),
            tinkex.resume(FIRST, Service(account), rest_module=account, rest_client_fun=account_of),
        ):
            pass


HOLDER = """
import sys
from datetime import datetime, UTC
from tinkex.lineage.owners import Ownership

with Ownership("one", "sft-7") as held:
    held.claim(datetime.now(UTC), [])
    print(held.owner, flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_process_that_was_killed_is_free_and_tells_who_it_was():
    from tinkex.lineage.owners import Ownership

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        owner = holder.stdout.readline().strip()
        with pytest.raises(RunHeldError, match=f"pid {holder.pid}"), Ownership("one", "sft-7"):
            pass
        with Ownership("two", "sft-8") as other:
            assert other.before == set()
    finally:
        holder.kill()
        holder.communicate(timeout=10)

    with Ownership("one", "sft-7") as taken:
        assert taken.before == {owner}


def test_where_no_file_can_be_made_the_server_alone_tells(opened, account, monkeypatch, caplog):
    monkeypatch.setattr("tinkex.lineage.owners._folders", list)
    with opened("sft-7", Service(account)) as run:
        assert run.run_id == FIRST

    assert "lock" in caplog.text


def test_on_another_machine_its_silence_is_waited_for(
    opened, account, world, monkeypatch, tmp_path
):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)
    elsewhere(monkeypatch, tmp_path)
    before = world.fake.now()

    with opened("sft-7", Service(account), silent_for=90.0) as run:
        assert first_step(run) == 20

    # It was made with 120, which is more.
    assert 120 <= world.fake.now() - before < 140


def test_there_a_run_that_makes_requests_is_held(opened, account, world, monkeypatch, tmp_path):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)
    elsewhere(monkeypatch, tmp_path)
    is_trained(account, world, monkeypatch)
    before = world.fake.now()
    service = Service(account)
    with pytest.raises(RunHeldError, match="elsewhere"), opened("sft-7", service):
        pass

    assert 180 <= world.fake.now() - before < 200
    assert service.created == []


def test_takeover_waits_for_nothing(opened, account, world, monkeypatch, tmp_path):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)
    elsewhere(monkeypatch, tmp_path)
    before = world.fake.now()

    with opened("sft-7", Service(account), takeover=True) as run:
        assert first_step(run) == 20

    assert world.fake.now() == before


def test_a_server_that_tells_no_time_gives_no_evidence(opened, account, monkeypatch, tmp_path):
    with opened("sft-7", Service(account)):
        pass
    account.rows[FIRST]["last_request_time"] = None
    elsewhere(monkeypatch, tmp_path)

    with pytest.raises(RunHeldError, match="takeover"), opened("sft-7", Service(account)):
        pass


def test_back_on_the_first_machine_the_one_of_the_other_is_waited_for(
    opened, account, world, monkeypatch, tmp_path
):
    elsewhere(monkeypatch, tmp_path, "a")
    with opened("sft-7", Service(account)):
        account.save(FIRST, 20)
    elsewhere(monkeypatch, tmp_path, "b")
    with opened("sft-7", Service(account), takeover=True) as run:
        first_step(run)
        account.save(run.run_id, 30)
    elsewhere(monkeypatch, tmp_path, "a")
    before = world.fake.now()

    with opened("sft-7", Service(account)) as run:
        assert first_step(run) == 30

    assert world.fake.now() - before >= 120


def is_refused(service, metadata):
    raise StatusError(503)


def test_none_of_many_owners_that_ended_before_they_saved_is_waited_for(opened, account, world):
    for _ in range(130):
        with opened("sft-7", Service(account)):
            pass

    assert world.fake.now() == 0


@pytest.mark.parametrize("end", ["looked", "failed"])
def test_whoever_ended_before_it_made_a_run_is_not_waited_for(opened, account, world, end):
    with opened("sft-7", Service(account)):
        pass
    if end == "looked":
        account.save(FIRST, 20)
        with opened("sft-7", Service(account)) as run:
            run.plan()
    else:
        with (
            pytest.raises(StatusError),
            opened("sft-7", Service(account), create=is_refused),
        ):
            pass

    before = world.fake.now()
    with opened("sft-7", Service(account)):
        pass

    assert world.fake.now() == before


def test_where_files_cannot_be_locked_the_server_alone_tells(opened, account, world, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with opened("sft-7", Service(account)):
        account.save(FIRST, 20)
        before = world.fake.now()
        with opened("sft-7", Service(account)):
            pass

    assert world.fake.now() - before >= 120


def test_what_a_failed_load_left_behind_does_not_hide_an_owner_that_lives(
    opened, account, world, monkeypatch, tmp_path
):
    with opened("sft-7", Service(account)):
        pass
    account.save(FIRST, 20)
    elsewhere(monkeypatch, tmp_path)
    account.keeps_saves = False
    with opened("sft-7", Service(account), takeover=True) as run:
        first_step(run)
    is_trained(account, world, monkeypatch)

    with pytest.raises(RunHeldError, match="elsewhere"), opened("sft-7", Service(account)):
        pass


def test_a_full_disk_keeps_no_run_from_being_opened(opened, account, monkeypatch, caplog):
    def write(file, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.write", write)
    with opened("sft-7", Service(account)) as run:
        assert run.run_id == FIRST

    assert "No space left" in caplog.text


def test_where_no_temporary_file_can_be_written_it_is_opened_and_recovered(
    opened, account, world, monkeypatch
):
    def gettempdir():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", gettempdir)
    with opened("sft-7", Service(account)) as run:
        assert run.run_id == FIRST

    world.rest.set_run(RUN)
    run = world.monitor().monitor_run(RUN, world.service)
    world.corrupt()
    world.fake.advance(10)
    assert run.state == "healthy"
    assert len(world.service.created) == 1


def test_whoever_still_waits_is_named_and_not_the_one_before(tmp_path):
    from tinkex.lineage.owners import Ownership

    with Ownership("one", "sft-7") as held:
        held.claim(BEGAN, [])
    with (
        Ownership("one", "sft-7"),
        pytest.raises(RunHeldError) as refused,
        Ownership("one", "sft-7"),
    ):
        pass

    assert "2026" not in str(refused.value)
    assert f"pid {os.getpid()}" in str(refused.value)
