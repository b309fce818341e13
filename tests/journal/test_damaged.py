"""Values that cannot be written, files that are no journal, and rows that are damaged."""

from __future__ import annotations

import sqlite3
import stat

import pytest
from support.world import OTHER, RUN, weights

import tinkex
from tinkex import Journal
from tinkex.errors import JournalError


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "tinkex.db") as made:
        yield made


def test_metadata_that_holds_itself_keeps_no_run_from_being_written(world, journal):
    monitor = world.monitor(options={"journal": journal}, start=False)
    around: dict = {}
    around["around"] = around
    monitor.monitor_run(RUN, world.service, {"team": "a", "around": around})
    monitor.monitor_run(OTHER, world.service)
    monitor.stop()

    told = journal.store.call(lambda db: db.execute("SELECT root_id, metadata FROM run").fetchall())
    assert dict(told) == {RUN: '{"team":"a"}', OTHER: "{}"}


DAMAGES = [
    "UPDATE run SET body = 'x' WHERE root_id = ?",
    "UPDATE run SET body = '{}' WHERE root_id = ?",
    "UPDATE run SET body = '[]' WHERE root_id = ?",
    "UPDATE run SET body = CAST(x'7b80' AS TEXT) WHERE root_id = ?",
    "UPDATE run SET metadata = '7' WHERE root_id = ?",
    "UPDATE generation SET body = '{' WHERE root_id = ?",
    'UPDATE generation SET body = \'{"attempts":"x"}\' WHERE root_id = ?',
    "UPDATE lease SET epoch = 'x', owner_id = 'gone' WHERE root_id = ?",
    "INSERT INTO checkpoint VALUES ('tinker://a/weights/1', ?, '[]', NULL, NULL, 0)",
    "INSERT INTO checkpoint VALUES ('tinker://a/weights/1', ?, NULL, 'x', '1', 0)",
    "INSERT INTO checkpoint VALUES ('tinker://a/weights/1', ?, NULL, 1, '{', 0)",
    "INSERT INTO checkpoint VALUES (x'37', ?, NULL, 1, '1', 0)",
]


@pytest.fixture
def left(world, journal):
    """Leaves two runs behind, of which something is done to the first."""

    def leave(damage):
        for run_id in (RUN, OTHER):
            world.rest.set_run(run_id)
        first = world.monitor(options={"journal": journal})
        for run_id in (RUN, OTHER):
            first.monitor_run(run_id, world.service)
        first.stop()
        journal.store.call(lambda db: db.execute(damage, (RUN,)).rowcount)
        return world.monitor(options={"journal": journal})

    return leave


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_run_that_cannot_be_read_is_told_and_all_others_are_brought_back(
    world, left, damage, caplog
):
    second = left(damage)
    (other,) = second.resume(world.service)
    assert other.run_id == OTHER
    assert f"run {RUN} is not brought back" in caplog.text
    world.corrupt(OTHER)
    world.fake.advance(10)
    second.stop()

    assert world.events.names[-1] == "completed"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_cannot_be_read_is_polled_and_costs_itself_alone(world, left, journal, damage):
    second = left(damage)
    run = second.monitor_run(RUN, world.service)
    other = second.monitor_run(OTHER, world.service)
    polls = len(world.rest.calls)
    world.fake.advance(30)
    assert len(world.rest.calls) > polls
    (told,) = world.events.of("journal_failed")
    assert told.run_id == RUN
    assert repr(RUN) in str(told.error)

    world.corrupt(OTHER)
    world.corrupt(RUN)
    world.fake.advance(300)
    second.stop()
    assert other.status().generation == 1
    assert [each.kind for each in journal.history(OTHER)][-1] == "completed"
    assert [path for path, _ in world.service.created] == [weights("000100", OTHER)]
    (given_up,) = world.events.of("exhausted")
    assert (given_up.run_id, run.status().generation) == (RUN, 0)
    assert isinstance(given_up.error, JournalError)
    assert given_up.error.run_id == RUN
    assert "paused" not in world.events.names
    assert world.events.names.count("journal_failed") == 1


def test_a_run_that_cannot_be_read_is_not_opened(world, left, journal):
    second = left(DAMAGES[0])
    second.stop()
    with (
        pytest.raises(JournalError, match="damaged") as raised,
        tinkex.resume(
            RUN, world.service, journal=journal, rest_module=world.rest, scheduler=world.fake
        ),
    ):
        pass
    assert raised.value.run_id == RUN


@pytest.mark.parametrize("value", ["'{'", "CAST(x'7b80' AS TEXT)", "7"])
def test_of_an_entry_that_cannot_be_read_the_history_is_told_without_it(
    world, left, journal, value, caplog
):
    left(f"UPDATE event SET body = {value} WHERE root_id = ?").stop()

    assert [each.root_id for each in journal.history()] == [OTHER]
    assert "entry 1 " in caplog.text


def test_a_file_that_is_damaged_as_a_whole_fails_for_all_runs(world, left, journal):
    second = left("SELECT ?")
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'generation'"
    page = journal.store.call(lambda db: db.execute(query).fetchone()[0])
    with journal.path.open("r+b") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        file.seek(24)
        file.write(b"\xff" * 4)  # what others have in memory is out of date
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    second.monitor_run(RUN, world.service)
    second.monitor_run(OTHER, world.service)
    world.fake.advance(30)
    second.stop()

    (told,) = world.events.of("journal_failed")
    assert told.run_id is None
    assert "malformed" in str(told.error)


def test_a_file_of_something_else_stays_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE other (value)")
    db.close()
    path.chmod(0o664)
    with pytest.raises(JournalError, match="something else"):
        Journal(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
