"""`docs/parity.md` has a row for all that the Elixir original's monitor has, with its test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parity.md"

#: What the original has, by its own names.
ORIGINAL = {
    "functions": {"start_link/1", "child_spec/1", "monitor_run/4", "stop_monitoring/2"},
    "types": {"option()", "state()"},
    "options": {
        ":policy",
        ":config",
        ":rest_module",
        ":rest_client_fun",
        ":service_client_module",
        ":executor",
        ":send_after",
    },
    "state fields": {
        "policy",
        "rest_module",
        "rest_client_fun",
        "service_module",
        "executor",
        "runs",
        "runs.service_pid",
        "runs.config",
        "runs.metadata",
        "poll_ref",
        "send_after",
    },
    "events": {
        "[:tinkex, :recovery, :detected]",
        "[:tinkex, :recovery, :poll_error]",
        "[:tinkex, :recovery, :started]",
        "[:tinkex, :recovery, :checkpoint_selected]",
        "[:tinkex, :recovery, :client_created]",
        "[:tinkex, :recovery, :completed]",
        "[:tinkex, :recovery, :failed]",
        "[:tinkex, :recovery, :exhausted]",
    },
    "policy fields": {
        "enabled",
        "max_attempts",
        "backoff_ms",
        "max_backoff_ms",
        "poll_interval_ms",
        "checkpoint_strategy",
        "restore_optimizer",
        "on_recovery",
        "on_failure",
    },
}


def rows_of(section):
    """The rows of the table in one section of the page, each a list of its cells."""
    found = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n", 1)
    assert len(found) == 2, f"the page has no section {section!r}"
    body = found[1].split("\n## ", 1)[0]
    lines = [line for line in body.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def shown_by(text):
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


@pytest.mark.parametrize("section", ORIGINAL)
def test_the_page_has_a_row_for_all_that_the_original_has(section):
    named = {row[0].strip("`") for row in rows_of(section.capitalize())}

    assert named == ORIGINAL[section]


@pytest.mark.parametrize("section", ORIGINAL)
def test_each_row_of_the_page_says_what_stands_here_and_which_test_shows_it(section):
    bare = [row[0] for row in rows_of(section.capitalize()) if len(row) != 3 or not all(row)]
    untested = [row[0] for row in rows_of(section.capitalize()) if not shown_by(row[-1])]

    assert (bare, untested) == ([], [])


def test_each_test_that_the_page_names_exists():
    named = shown_by(PAGE.read_text(encoding="utf-8"))
    written = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }

    assert named
    assert set(named) - written == set()
