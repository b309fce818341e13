"""Who has a lineage open on this machine: to look at its lock disturbs no owner that comes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from tinkex.errors import RunHeldError
from tinkex.lineage import owners
from tinkex.lineage.owners import Ownership, holder_of, is_any_held

NOW = datetime(2026, 1, 1, tzinfo=UTC)

HOLDER = """
import sys
from datetime import UTC, datetime
from tinkex.lineage.owners import Ownership

with Ownership("one", "sft-7") as held:
    held.claim(datetime(2026, 1, 1, tzinfo=UTC), [], 3)
    print(held.owner, flush=True)
    sys.stdin.read()
"""

LOOKER = """
from tinkex.lineage.owners import holder_of, is_any_held

print("looks", flush=True)
while True:
    holder_of("one")
    is_any_held()
"""


@contextmanager
def process(script):
    made = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield made, made.stdout.readline().strip()
    finally:
        made.kill()
        made.communicate(timeout=10)


def test_a_holder_is_seen_until_its_process_has_ended():
    with process(HOLDER) as (held, owner):
        found = holder_of("one")
        assert found[:2] == (owner, 3)
        assert f"pid {held.pid}" in found.who
        assert "2026-01-01" in found.who
        assert is_any_held()
        assert holder_of("two") is None

    assert holder_of("one") is None
    assert not is_any_held()


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened from now on."""
    found, real = [], os.open

    def note(path, *args):
        found.append(path)
        return real(path, *args)

    monkeypatch.setattr(owners.os, "open", note)
    return found


def test_of_lineages_that_are_not_open_no_lock_is_tried(opened):
    for number in range(50):
        with Ownership(str(number), "sft-7") as own:
            own.claim(NOW, [])
    opened.clear()

    assert not is_any_held()

    assert opened == []


def test_the_lock_of_a_process_that_was_killed_is_tried_once(opened):
    with process(HOLDER):
        pass

    assert not is_any_held()
    assert len(opened) == 1
    assert not is_any_held()
    assert len(opened) == 1


def test_who_opens_a_lineage_that_was_left_is_seen_again():
    with process(HOLDER):
        pass
    assert not is_any_held()

    with process(HOLDER):
        assert is_any_held()


def test_a_forked_child_that_ends_leaves_its_parents_lock_to_be_seen():
    script = HOLDER.replace(
        "    print(held",
        "    import os\n    os.waitpid(os.fork() or sys.exit(0), 0)\n    print(held",
    )
    with process(script):
        assert is_any_held()


def test_a_holder_has_what_it_found_and_what_it_makes():
    with process(HOLDER) as (_, owner):
        found = holder_of("one")

    assert [found.has("any", each) for each in (0, 3, 4)] == [True, True, False]
    assert found.has(owner, 4)


def test_one_that_still_waits_for_others_has_nothing():
    with Ownership("one", "sft-7"):
        owners._own.clear()
        found = holder_of("one")

    assert not found.has(None, 0)
    assert not found.has("any", -1)


def test_what_this_process_has_is_no_other_s():
    with Ownership("one", "sft-7") as own:
        own.claim(NOW, [])
        assert holder_of("one") is None
        with pytest.raises(RunHeldError), Ownership("one", "sft-7"):
            pass
        assert holder_of("one") is None
        assert not is_any_held()


def test_a_process_that_looks_all_the_time_keeps_no_owner_out():
    with process(LOOKER):
        for _ in range(300):
            with Ownership("one", "sft-7") as own:
                own.claim(NOW, [])


def test_an_owner_that_meets_a_look_tries_again(monkeypatch):
    with Ownership("one", "sft-7"):
        pass
    [path] = owners._folder().glob("*.json")
    file = os.open(path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)
    waits = []

    class Event:
        def wait(self, seconds):
            waits.append(seconds)
            os.close(file)

    monkeypatch.setattr(owners, "Event", Event)
    with Ownership("one", "sft-7") as own:
        assert holder_of("one") is None
        assert path in owners._own
        assert own.before == set()

    assert waits == [owners.TRY_EVERY]


def test_a_look_that_does_not_end_is_not_taken_for_an_owner(monkeypatch):
    monkeypatch.setattr(owners, "TRIES", 2)
    with Ownership("one", "sft-7"):
        pass
    [path] = owners._folder().glob("*.json")
    file = os.open(path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)

    with pytest.raises(RunHeldError, match="looks at its lock"), Ownership("one", "sft-7"):
        pass
    os.close(file)


def test_an_owner_that_lives_is_found_without_a_wait(monkeypatch):
    monkeypatch.setattr(owners, "Event", lambda: pytest.fail("it waits"))

    with (
        process(HOLDER) as (held, _),
        pytest.raises(RunHeldError, match=f"pid {held.pid}"),
        Ownership("one", "sft-7"),
    ):
        pass


def test_where_files_cannot_be_locked_nobody_is_seen(monkeypatch, caplog):
    with Ownership("one", "sft-7") as own:
        own.claim(NOW, [])
        owners._own.clear()

        def flock(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", flock)
        assert holder_of("one") is None

    assert caplog.text == ""


@pytest.mark.parametrize("text", ["", "[]", "{", '{"owner": 5, "generation": "x"}', "\x00"])
def test_a_file_that_tells_nothing_names_no_owner(text):
    with Ownership("one", "sft-7"):
        owners._own.clear()
        [path] = owners._folder().glob("*.json")
        path.write_text(text)

        assert holder_of("one")[:2] == (None, -1)


def test_only_where_this_process_would_lock_is_looked(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME")
    with process(HOLDER):
        assert is_any_held()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))

        assert holder_of("one") is None
        assert not is_any_held()
