"""`tinkex plan`, `recover` and `report`: for a run of a process that has died."""

from __future__ import annotations

import json
import threading

import pytest

import tinkex
from tinkex.cli import recovering
from tinkex.lineage.owners import Ownership
from tinkex.rehearsal import Fault

STEP = "tinkex_step"


@pytest.fixture
def left(terminal):
    """A run that was saved at two steps, and corrupted; its process is no more."""
    client = terminal.client
    run = client.run()
    client.train(run, 4)
    client.save(run, "000004", user_metadata={STEP: "4"})
    client.train(run, 4)
    client.save(run, "000008", user_metadata={STEP: "8"})
    terminal.server.corrupt(run)
    return run


def test_a_plan_lists_what_would_be_tried_and_makes_nothing(terminal, left):
    made = len(terminal.server.runs())

    assert terminal.run("plan", left) == 0

    rows = [line for line in terminal.out.splitlines() if "tried" in line]
    assert [row.split("│")[2].strip() for row in rows] == ["8", "4"]
    assert len(terminal.server.runs()) == made


def test_a_plan_for_programs(terminal, left):
    assert terminal.run("plan", left, "-f", "json") == 0

    told = json.loads(terminal.out)
    assert [each["step"] for each in told["candidates"]] == [8, 4]
    assert told["candidates"][0]["checkpoint"] == f"tinker://{left}/weights/000008"
    assert told["left_out"] == []


@pytest.mark.parametrize("command", ["plan", "recover"])
def test_a_run_that_was_never_saved_cannot_be_brought_back(terminal, command):
    assert terminal.run(command, terminal.client.run()) == 1

    assert "checkpoint" in terminal.err


@pytest.mark.parametrize("command", ["plan", "recover", "report"])
def test_a_run_that_is_not_there_and_a_server_that_is_gone(terminal, command):
    assert terminal.run(command, "none:train:0") == 1
    terminal.server.close()
    assert terminal.run(command, "none:train:0") == 3

    assert terminal.err.startswith("tinkex: ")


def test_a_run_is_restored_into_a_new_one_that_is_saved_at_once(terminal, left):
    assert terminal.run("recover", left, "--takeover") == 0

    told = dict(line.split(":", 1) for line in terminal.out.splitlines()[1:])
    new, path = told["new run"].strip(), told["saved"].strip()
    assert told["step"].strip() == "8"
    assert path == f"tinker://{new}/weights/tinkex-recovered"
    assert not terminal.server.run(new).corrupted
    assert terminal.run("plan", left, "-f", "json") == 0
    assert json.loads(terminal.out)["candidates"][0] == {
        "checkpoint": path,
        "step": 8,
        "expires_at": None,
        "is_expired": False,
    }


def test_a_checkpoint_without_a_step_is_restored_and_saved_as_well(terminal):
    run = terminal.client.run()
    terminal.client.save(run, "own")

    assert terminal.run("recover", run, "--takeover") == 0

    assert "no step is recorded" in terminal.err
    assert "weights/tinkex-recovered" in terminal.out


def test_a_run_that_a_process_has_open_is_refused(terminal, left, monkeypatch):
    def refuse(self):
        raise tinkex.errors.RunHeldError(left, "a process of this machine holds it: pid 7")

    monkeypatch.setattr(Ownership, "__enter__", refuse)

    assert terminal.run("recover", left, "--takeover") == 1

    assert "pid 7" in terminal.err


@pytest.mark.timeout(60)
@pytest.mark.parametrize("status", [401, 402, 403])
def test_an_account_that_is_refused_is_told_and_not_waited_for(terminal, left, status):
    terminal.server.add_fault(Fault(route="POST /api/v1/*", kind="status", status=status))

    assert terminal.run("recover", left, "--takeover") == 3

    assert "Error: " in terminal.err.splitlines()[-1]


@pytest.mark.timeout(60)
def test_what_ended_a_recovery_is_told_last(terminal, left, monkeypatch):
    terminal.server.add_fault(Fault(route="POST /api/v1/*", kind="status", status=402))
    is_over, complain, words = threading.Event(), recovering.complain, recovering.sentence

    def note(line):
        complain(line)
        if line.startswith("BillingError"):
            is_over.set()

    def late(event):
        """Has the words of an attempt that failed come late, as on a busy machine."""
        if event.name == "failed":
            is_over.wait(0.5)
        return words(event)

    monkeypatch.setattr(recovering, "complain", note)
    monkeypatch.setattr(recovering, "sentence", late)

    assert terminal.run("recover", left, "--takeover") == 3

    assert terminal.err.splitlines()[-1].startswith("tinkex: BillingError")


def test_a_save_that_is_refused_is_told(terminal, left):
    route, key = "POST /api/v1/save_weights", terminal.server.api_key
    body = f'{{"detail": "not with {key}"}}'
    terminal.server.add_fault(Fault(route=route, kind="status", status=400, body=body))

    assert terminal.run("recover", left, "--takeover") == 1

    assert "400" in terminal.err.splitlines()[-1]
    assert "not with ***" in terminal.err.splitlines()[-1]
    assert key not in terminal.err
    assert terminal.out.splitlines() == [f"restoring run {left}"]


def test_what_was_restored_and_not_trained_since_is_not_restored_again(terminal, left):
    terminal.run("recover", left, "--takeover")
    made = len(terminal.server.runs())

    assert terminal.run("recover", left, "--takeover") == 0

    assert len(terminal.server.runs()) == made
    assert "is restored already" in terminal.out
    assert "weights/tinkex-recovered" in terminal.out


def test_what_was_restored_and_lost_again_is_restored_again(terminal, left):
    terminal.run("recover", left, "--takeover")
    new = next(line.split()[-1] for line in terminal.out.splitlines() if "new run" in line)
    terminal.server.corrupt(new)

    assert terminal.run("recover", left, "--takeover") == 0

    assert "new run:" in terminal.out


def test_attempts_that_fail_are_told_in_words(terminal, left):
    terminal.server.break_checkpoint(f"tinker://{left}/weights/000008")

    assert terminal.run("recover", left, "--takeover") == 0

    assert "step:    4" in terminal.out
    assert "tinkex: attempt 1 failed: " in terminal.err
    assert "time=" not in terminal.err


@pytest.mark.parametrize("command", ["plan", "report"])
def test_a_run_may_be_told_by_its_name(terminal, command):
    named = {"tinkex_name": "sft-7", "tinkex_root": "r", "tinkex_generation": "0"}
    run = terminal.client.run(user_metadata=named)
    terminal.client.save(run, "000004", user_metadata={STEP: "4"})

    assert terminal.run(command, "--name", "sft-7") == 0
    assert run in terminal.out.replace("\n", "")
    assert terminal.run(command, "--name", "sft-8") == 1
    assert "no run goes by the name 'sft-8'" in terminal.err


# Reports


def test_a_report_tells_the_lineage_its_checkpoints_and_versions(terminal, left):
    terminal.run("recover", left, "--takeover")
    assert terminal.run("report", left) == 0

    out = terminal.out
    assert out.startswith(f"# Report on run `{left}`\n")
    assert f"| 0 | `{left}` | corrupted |" in out
    assert "| 1 | `" in out

    assert "| `000008` | training | 8 |" in out
    assert f"- tinkex: {tinkex.__version__}" in out
    assert "- tinker: 0." in out
    assert "- server: 127.0.0.1" in out


def test_all_times_of_a_report_are_in_utc(terminal, left, monkeypatch):
    row = {"tinker_path": f"tinker://{left}/weights/a", "time": "2026-01-02T01:00:00+05:30"}
    saved = tinkex.Checkpoint.from_json({**row, "expires_at": "2036-01-02T00:00:00-03:00"})
    monkeypatch.setattr(tinkex.rest, "list_checkpoints", lambda *_: (saved,))

    terminal.run("report", left)

    assert "| 2026-01-01 19:30:00 (" in terminal.out
    assert "| 2036-01-02 03:00:00 (in " in terminal.out


def test_a_report_holds_no_key_and_nothing_of_the_user_s(terminal):
    key = terminal.server.api_key
    run = terminal.client.run(user_metadata={"customer": "of-no-interest", "key": key})

    assert terminal.run("report", run) == 0

    assert key not in terminal.out
    assert "of-no-interest" not in terminal.out


def test_a_report_holds_no_key_even_where_a_name_does(terminal):
    key = terminal.server.api_key
    named = {"tinkex_name": f"a-{key}", "tinkex_root": "r", "tinkex_generation": "0"}
    run = terminal.client.run(base_model=f"b-{key}", user_metadata=named)
    terminal.client.save(run, f"c-{key}")

    assert terminal.run("report", run) == 0

    assert key not in terminal.out
    assert all(f"{each}-***" in terminal.out for each in "abc")


def test_why_a_session_ended_is_told(terminal, left):
    terminal.server.corrupt(left, ends_session="poisoned")

    terminal.run("report", left)

    row = next(line for line in terminal.out.splitlines() if line.startswith("| 0 |"))
    assert "internal: " in row


def test_what_the_server_tells_breaks_no_table_and_is_no_html(terminal):
    run = terminal.client.run(base_model=r"any | <b>bold</b> \| &lt; ![x](http://a.invalid)")

    terminal.run("report", run)

    shown = r"any \| &lt;b>bold&lt;/b> \\\| &amp;lt; !\[x](http://a.invalid)"
    assert f"- base model: {shown}\n" in terminal.out


def test_a_report_with_a_journal_has_a_timeline(terminal, left, tmp_path):
    journal = str(tmp_path / "tinkex.db")
    tinkex.Journal(journal).close()
    assert terminal.run("recover", left, "--takeover", "--journal", journal) == 0

    assert terminal.run("report", left, "--journal", journal) == 0

    timeline = terminal.out.partition("## Timeline (UTC)")[2]
    assert "| started | attempt 1 |" in timeline
    assert "checkpoint 000008" in timeline
    assert "| completed | attempt 1, checkpoint 000008, new run " in timeline


# Histories


def test_a_history_is_shown_and_told_to_programs(terminal, left, tmp_path):
    journal = str(tmp_path / "tinkex.db")
    tinkex.Journal(journal).close()
    terminal.run("recover", left, "--takeover", "--journal", journal)

    assert terminal.run("history", journal) == 0
    shown = terminal.out
    assert terminal.run("history", journal, "--run", left, "-f", "json") == 0
    told = json.loads(terminal.out)

    assert [each["kind"] for each in told][-1] in ("saved", "stopped")
    assert {"started", "completed", "saved"} <= {each["kind"] for each in told}
    assert all(each["kind"] in shown for each in told)
    assert {each["root_id"] for each in told} == {left}


def test_a_history_of_a_run_that_the_journal_does_not_know_is_refused(terminal, tmp_path):
    journal = str(tmp_path / "tinkex.db")
    tinkex.Journal(journal).close()

    assert terminal.run("history", journal, "--run", "other:train:0") == 2

    assert f"the journal {journal} knows no run other:train:0" in terminal.err


@pytest.mark.parametrize("command", ["history", "report", "plan", "recover"])
def test_a_journal_that_is_not_there_is_not_made(terminal, left, tmp_path, command):
    path = tmp_path / "none.db"
    arguments = [str(path)] if command == "history" else [left, "--journal", str(path)]

    assert terminal.run(command, *arguments) == 2

    assert "there is no journal" in terminal.err
    assert not path.exists()


@pytest.mark.parametrize("command", ["history", "report", "plan", "recover"])
def test_an_empty_file_is_no_journal_and_stays_empty(terminal, left, tmp_path, command):
    path = tmp_path / "notes.txt"
    path.touch()
    arguments = [str(path)] if command == "history" else [left, "--journal", str(path)]

    assert terminal.run(command, *arguments) == 2

    assert "there is no journal" in terminal.err
    assert path.read_bytes() == b""


def test_a_file_that_is_no_journal_is_refused(terminal, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no journal" * 100, encoding="utf-8")

    assert terminal.run("history", str(path)) == 1

    assert str(path) in terminal.err
