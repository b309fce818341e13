"""Odd arguments, narrow terminals, lost output: what shells do to the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tinkex.cli import main
from tinkex.cli.watch import Seen
from tinkex.rehearsal import Fault

WAIT = 50.0

LIST = "GET /api/v1/training_runs*"

COMMAND = (sys.executable, "-m", "tinkex")


@pytest.fixture
def saved(terminal):
    """A run with a checkpoint."""
    run = terminal.client.run()
    terminal.client.save(run, "000004", user_metadata={"tinkex_step": "4"})
    return run


def answer(terminal, body):
    """Have the server answer all requests for runs with it."""
    headers = {"content-type": "application/json"}
    fault = Fault(route=LIST, kind="garbage", body=json.dumps(body), headers=headers)
    return terminal.server.add_fault(fault)


def ended(*arguments, **options):
    """The command as a process of its own that has ended."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.run([*COMMAND, *arguments], timeout=WAIT, check=False, **given)


# Arguments


@pytest.mark.parametrize("run", ["", "a/b", "..", "a\nb", "x" * 513, "\udc80"])
@pytest.mark.parametrize("command", ["watch", "plan", "recover", "report"])
def test_what_can_be_no_id_of_a_run_ends_with_status_2(capsys, command, run):
    with pytest.raises(SystemExit, match="2"):
        main([command, run])

    assert "a run id is 1 to 512 printable characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", "--name", ""],
        ["plan", "a:train:0", "--journal", ""],
        ["recover", "a:train:0", "--journal", " "],
    ],
)
def test_an_empty_name_or_file_ends_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert "it is empty" in capsys.readouterr().err


def test_a_plan_makes_no_journal(terminal, saved, tmp_path):
    journal = tmp_path / "mistyped.db"

    assert terminal.run("plan", saved, "--journal", str(journal)) == 2

    assert "there is no journal" in terminal.err
    assert not journal.exists()


# Tables


def cells(line):
    return [cell.strip() for cell in line.strip("│┃\n").replace("┃", "│").split("│")]


@pytest.mark.parametrize("columns", ["60", "80", "100"])
@pytest.mark.parametrize(
    ("command", "number", "last"), [(["watch", "--once"], 7, "Saved"), (["plan"], 5, "tried 1.")]
)
def test_in_any_terminal_no_column_is_cut_off(
    terminal, saved, monkeypatch, columns, command, number, last
):
    monkeypatch.setenv("COLUMNS", columns)

    terminal.run(*command, saved)

    lines = terminal.out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    rows = [cells(line) for line in lines if line[0] in "│┃"]
    assert {len(row) for row in rows} == {number}
    assert last.replace(" ", "") in "".join(row[-1] for row in rows).replace(" ", "")
    assert saved in "".join(row[0] for row in rows)


def test_in_80_columns_the_states_are_in_one_piece(terminal, saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    terminal.run("watch", saved, "--once")

    assert "│ healthy │" in terminal.out


def test_in_a_very_narrow_terminal_the_state_is_still_shown(terminal, saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")

    terminal.run("watch", saved, "--once")

    rows = [cells(line) for line in terminal.out.splitlines() if line[0] == "│"]
    assert "".join(row[3] for row in rows) == "healthy"


def test_a_terminal_that_draws_nothing_anew_gets_a_table_for_each_look(
    terminal, saved, monkeypatch
):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) > 1:
            raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("tinkex.cli.watch.time", SimpleNamespace(sleep=sleep))

    assert terminal.run("watch", saved) == 130

    assert terminal.out.count("healthy") == 2


def test_the_cursor_is_not_hidden_when_the_process_is_ended_between_two_looks(
    terminal, saved, monkeypatch
):
    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("tinkex.cli.watch.time", SimpleNamespace(sleep=sleep))

    terminal.run("watch", saved)

    looked, _, _ = terminal.out.partition("healthy")
    assert looked.rfind("\x1b[?25h") > looked.rfind("\x1b[?25l") > -1


def test_no_row_is_drawn_that_a_terminal_does_not_show(terminal, monkeypatch):
    def sleep(seconds):
        raise KeyboardInterrupt

    drawn, cells_of = [], Seen.cells
    monkeypatch.setattr(Seen, "cells", lambda *about: drawn.append(about) or cells_of(*about))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("LINES", "20")
    monkeypatch.setattr("tinkex.cli.watch.time", SimpleNamespace(sleep=sleep))
    rows = [{"training_run_id": f"a{n}:train:0", "base_model": "m"} for n in range(300)]
    answer(terminal, {"training_runs": rows, "cursor": {"total_count": 300}})

    assert terminal.run("watch", "--all") == 130

    assert len(drawn) == 20
    assert "a10:train:0" in terminal.out


# Answers


def test_a_row_that_does_not_fit_hides_no_other(terminal):
    rows = [
        {"training_run_id": "bad:train:0", "corrupted": "maybe"},
        {"training_run_id": "sick:train:0", "corrupted": True},
    ]
    answer(terminal, {"training_runs": rows, "cursor": {"total_count": 2}})

    assert terminal.run("watch", "--all", "--once", "-f", "json") == 1

    states = {each["run_id"]: each["state"] for each in json.loads(terminal.out)["runs"]}
    assert states == {"bad:train:0": "unreachable", "sick:train:0": "corrupted"}


@pytest.mark.parametrize("run_id", [None, 7, ""])
def test_a_row_whose_id_cannot_be_read_is_not_left_out(terminal, run_id):
    rows = [{"training_run_id": each, "base_model": "m"} for each in ("a:train:0", run_id)]
    answer(terminal, {"training_runs": rows, "cursor": {"total_count": 2}})

    assert terminal.run("watch", "--all", "--once", "-f", "json") == 3

    seen = {each["run_id"]: each for each in json.loads(terminal.out)["runs"]}
    assert [each["state"] for each in seen.values()] == ["healthy", "unreachable"]
    assert "training_run_id" in seen["(no id)"]["error"]


@pytest.mark.parametrize("command", ["watch", "report"])
def test_what_a_server_sends_does_not_control_the_terminal(terminal, command):
    once = ["--once"] if command == "watch" else []
    made = terminal.client.run(base_model="any\x1b[2Jthing")
    terminal.run(command, made, *once)
    shown = terminal.out
    terminal.server.add_fault(Fault(route=LIST, kind="status", status=400, body="\x1b[2J"))
    terminal.run(command, made, *once)

    assert "any?" in shown
    assert "\x1b" not in shown + terminal.out + terminal.err


# Output


def test_characters_that_the_output_lacks_are_told_otherwise(terminal):
    made = terminal.client.run(base_model="modèle")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    for arguments in (["watch", made, "--once"], ["report", made]):
        done = ended(*arguments, env=environment)

        assert (done.returncode, done.stderr) == (0, "")
        assert "mod\\xe8le" in done.stdout


@pytest.mark.parametrize(
    "command", [["watch", "--once"], ["watch", "--once", "-f", "json"], ["plan"], ["report"]]
)
def test_what_nothing_reads_ends_with_status_141(terminal, saved, command):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ended(*command, saved, stdout=writer)
    finally:
        os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("command", [["watch", "--once"], ["report"]])
def test_a_full_disk_is_told(terminal, saved, command):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = ended(*command, saved, stdout=full)

    assert done.returncode == 2
    assert done.stderr.startswith("tinkex: ")
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lost", ["full", "unread"])
def test_where_complaints_are_lost_the_exit_status_tells(terminal, saved, lost):
    terminal.server.close()
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full" if lost == "full" else writing, "w", encoding="utf-8") as stream:
        assert ended("plan", saved, stderr=stream).returncode == 3


@pytest.mark.parametrize("command", ["watch --once", "report", "plan -f json"])
def test_closed_streams_change_no_exit_status(terminal, saved, command):
    line = f'exec "$0" -m tinkex {command} {saved} >&- 2>&-'

    done = subprocess.run(["/bin/sh", "-c", line, sys.executable], timeout=WAIT, check=False)

    assert done.returncode == 0


# The start


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["rehearse", "-h"], ["serve", "-h"]])
def test_what_asks_no_server_does_not_wait_for_what_does_to_be_imported(arguments):
    code = f"""
import sys
from tinkex.cli import main
try:
    main({arguments!r})
except SystemExit:
    loaded = sorted({{"requests", "sqlite3", "rich"}} & set(sys.modules))
    sys.exit(f"loaded: {{loaded}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False
    )

    assert done.stderr == "loaded: []\n"


def test_the_help_tells_all_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["-h"])

    told = capsys.readouterr().out
    for name in ("watch", "report", "history", "plan", "recover", "rehearse", "serve"):
        assert f"\n    {name} " in told


def test_an_interrupt_at_the_start_ends_with_status_130(monkeypatch):
    def interrupt(name, package):
        raise KeyboardInterrupt

    monkeypatch.setattr("tinkex.cli.commands.import_module", interrupt)

    assert main(["watch", "a:train:0", "--once"]) == 130
