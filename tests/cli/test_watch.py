"""`tinkex watch`: what it shows, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tinkex.cli import main

WAIT = 50.0

#: These tests may run in the background of a shell, where interrupts are ignored.
AS_IN_FRONT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tinkex.cli import main
sys.exit(main())
"""

NAMED = {"tinkex_name": "sft-7", "tinkex_root": "r", "tinkex_generation": "0"}


def runs_in(terminal):
    return {each["run_id"]: each for each in json.loads(terminal.out)["runs"]}


def test_a_healthy_run_is_shown_in_a_table_with_status_0(terminal):
    run = terminal.client.run()
    terminal.client.save(run, "000004")

    assert terminal.run("watch", run, "--once") == 0

    row = next(line for line in terminal.out.splitlines() if run in line)
    assert "healthy" in row
    assert "rank 8" in row
    assert "000004" in row
    assert "ago" in row or "now" in row


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_corrupted_run_among_healthy_ones_ends_with_status_1(terminal, form):
    well, ill = terminal.client.run(), terminal.client.run()
    terminal.server.corrupt(ill)

    assert terminal.run("watch", well, ill, "--once", "-f", form) == 1

    assert "corrupted" in terminal.out
    assert "healthy" in terminal.out


def test_in_the_table_what_is_ill_comes_first(terminal):
    well, ill = terminal.client.run(), terminal.client.run()
    terminal.server.corrupt(ill)

    terminal.run("watch", well, ill, "--once")

    assert terminal.out.index(ill) < terminal.out.index(well)


def test_programs_get_an_object_with_what_is_known(terminal):
    run = terminal.client.run()
    path = terminal.client.save(run, "000004")

    terminal.run("watch", run, "--once", "--format", "json")

    told = runs_in(terminal)[run]
    assert told["state"] == "healthy"
    assert told["last_checkpoint"] == path
    assert told["error"] is None
    assert told["last_request_time"].endswith("+00:00")


def test_a_run_that_is_not_there_is_missing(terminal):
    assert terminal.run("watch", "none:train:0", "--once") == 1

    assert "missing" in terminal.out


def test_it_does_not_wait_for_runs_of_which_none_was_ever_there(terminal):
    assert terminal.run("watch", "none:train:0", "other:train:0") == 1

    assert terminal.out.count("missing") == 2


def test_all_runs_of_an_account_are_listed(terminal):
    ids = {terminal.client.run(), terminal.client.run()}

    assert terminal.run("watch", "--all", "--once", "-f", "json") == 0

    assert runs_in(terminal).keys() == ids


def test_by_its_name_the_newest_run_is_shown(terminal):
    first = terminal.client.run(user_metadata=NAMED)
    terminal.client.save(first, "a")
    second = terminal.client.run(user_metadata={**NAMED, "tinkex_generation": "1"})
    terminal.client.save(second, "b")

    assert terminal.run("watch", "--name", "sft-7", "--once", "-f", "json") == 0

    assert list(runs_in(terminal)) == [second]


def test_a_name_that_none_has_is_missing(terminal):
    assert terminal.run("watch", "--name", "sft-8", "--once") == 1

    assert "no run goes by it" in terminal.out


@pytest.mark.parametrize("which", [["a:train:0"], ["--all"], ["--name", "sft-7"]])
def test_a_server_that_cannot_be_asked_ends_with_status_3(terminal, which):
    terminal.server.close()

    assert terminal.run("watch", *which, "--once") == 3

    assert "unreachable" in terminal.out


@pytest.mark.parametrize(
    "arguments",
    [[], ["a:train:0", "--all"], ["--all", "--name", "a"], ["--all", "--interval", "0"]],
)
def test_it_is_said_which_runs_and_how_often(terminal, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["watch", *arguments])


# Keys


def test_the_stored_login_of_the_official_command_is_used(terminal, monkeypatch, tmp_path):
    key = terminal.server.api_key
    run = terminal.client.run()
    monkeypatch.delenv("TINKER_API_KEY")
    stored = {"version": 1, "default": "a", "keys": {"a": {"type": "manual", "key": key}}}
    (tmp_path / ".tinker").mkdir()
    (tmp_path / ".tinker" / "credentials.json").write_text(json.dumps(stored), encoding="utf-8")

    assert terminal.run("watch", run, "--once") == 0

    assert key not in terminal.out + terminal.err


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "not JSON",
        "[]",
        '{"keys": {}}',
        '{"default": null, "keys": {}}',
        '{"default": "a", "keys": {"a": {"key": 7}}}',
        '{"version": 2, "default": "a", "keys": {"a": {"key": "tml-of-a-later-form"}}}',
    ],
)
def test_without_a_key_it_is_said_where_one_is_looked_for(terminal, monkeypatch, tmp_path, stored):
    monkeypatch.delenv("TINKER_API_KEY")
    if stored is not None:
        (tmp_path / ".tinker").mkdir()
        (tmp_path / ".tinker" / "credentials.json").write_text(stored, encoding="utf-8")

    assert terminal.run("watch", "--all", "--once") == 2

    assert "TINKER_API_KEY" in terminal.err
    assert "tinker auth login" in terminal.err


def test_the_environment_goes_before_the_stored_login(terminal, tmp_path):
    run = terminal.client.run()
    stored = {"default": "a", "keys": {"a": {"key": "tml-not-of-this-server"}}}
    (tmp_path / ".tinker").mkdir()
    (tmp_path / ".tinker" / "credentials.json").write_text(json.dumps(stored), encoding="utf-8")

    assert terminal.run("watch", run, "--once") == 0


# Terminals and pipes


def test_without_rich_the_extra_is_named(terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    run = terminal.client.run()

    assert terminal.run("watch", run, "--once") == 2

    assert 'pip install "tinkex[cli]"' in terminal.err


def test_without_rich_programs_are_served(terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    run = terminal.client.run()

    assert terminal.run("watch", run, "--once", "-f", "json") == 0


def test_in_a_narrow_terminal_no_line_is_longer_and_no_id_is_cut(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    run = terminal.client.run()

    terminal.run("watch", run, "--once")

    lines = terminal.out.splitlines()
    assert max(map(len, lines)) <= 60
    cells = [line.strip("│┃").split("│")[0].strip() for line in lines if "│" in line]
    assert "".join(cells) == run


def test_what_a_server_sends_is_no_markup(terminal):
    run = terminal.client.run(base_model="[red]any[/red]")

    terminal.run("watch", run, "--once")

    assert "[red]any[/red]" in terminal.out


def begun(terminal, *arguments):
    """The command as a process of its own, whose first line was read."""
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IN_FRONT, "watch", *arguments, "--interval", "1", "-f", "json"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline())["runs"]
    return process


def test_it_looks_until_it_is_interrupted(terminal):
    process = begun(terminal, terminal.client.run())
    assert json.loads(process.stdout.readline())["runs"]

    process.send_signal(signal.SIGINT)

    _, err = process.communicate(timeout=WAIT)
    assert (process.returncode, err) == (130, "")


def test_it_ends_without_a_word_when_nothing_reads_it_any_more(terminal):
    process = begun(terminal, terminal.client.run())

    process.stdout.close()

    process.wait(WAIT)
    assert (process.returncode, process.stderr.read()) == (141, "")
    process.stderr.close()
