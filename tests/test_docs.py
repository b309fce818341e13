"""Every Python snippet of the README and of docs/ runs, in order, with the official SDK."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

import tinkex
from tinkex import Policy, errors, signals
from tinkex.rehearsal import RehearsalServer, batch

ROOT = Path(__file__).parents[1]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
#: Run by tests of their own, with what they need: tests/end_to_end/test_cookbook.py,
#: tests/test_recipes.py and tests/testing/test_page.py.
ELSEWHERE = ("cookbook.md", "recipes.md", "testing.md")


@pytest.fixture
def server():
    with RehearsalServer() as running:
        yield running


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in ELSEWHERE and SNIPPET.search(page.read_text())],
    ids=lambda page: page.name,
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_snippet_runs_in_order(page, server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # for the files that they make
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    names = {"batch": lambda step: batch(step, 0), "total_steps": 6, "__name__": page.stem}
    names["port"] = 0  # any that is free

    with ExitStack() as stack:
        for snippet in SNIPPET.findall(page.read_text()):
            exec(compile(snippet, str(page), "exec"), names)
            # A later snippet may give the name to another monitor.
            if "monitor" in names:
                stack.callback(names["monitor"].stop)
            if "server" in names:
                stack.callback(names["server"].stop)

    assert names["run"].state in ("healthy", "stopped")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_readme_names_every_signal_and_policy_field():
    text = (ROOT / "README.md").read_text()

    assert [name for name in signals.EVENTS if f"`{name}`" not in text] == []
    left_out = [f.name for f in fields(Policy) if f.name not in text]
    assert left_out == []


def test_the_tests_that_show_what_outlives_what_are_there():
    page = (ROOT / "docs" / "durability.md").read_text()
    named = set(re.findall(r"`(tests/[\w/.]+)`", page))

    assert len(named) > 8
    assert {name for name in named if not (ROOT / name).exists()} == set()


# The site


def test_the_site_is_built_without_a_warning(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("site", ".cache"))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "docs/mkdocs.yml"]

    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert built.returncode == 0, built.stdout + built.stderr
    reference = (tmp_path / "docs" / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="tinkex.Monitor.monitor_run"' in reference
    assert 'id="tinkex.errors.RunHeldError"' in reference


def test_every_page_is_in_the_menu_of_the_site():
    menu = (DOCS / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]

    assert set(re.findall(r"[\w-]+\.md", menu)) == {page.name for page in DOCS.glob("*.md")}


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^::: tinkex\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)

    assert set(listed) == {*tinkex.__all__, "rehearsal", "testing"} - {"__version__"}


def test_of_every_error_it_is_told_what_to_do():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    known = {name for name, each in vars(errors).items() if isinstance(each, type)}
    public = {name for name in known if issubclass(getattr(errors, name), errors.TinkexError)}

    assert {name for name in public if f"`{name}`" not in page} == set()
    assert set(re.findall(r"`(\w+Error)`", page)) == public


def test_every_signal_is_told_with_what_its_event_has():
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", (DOCS / "signals.md").read_text(), re.M)
    common = {each.name for each in fields(signals.Event)}

    assert {name: set(re.findall(r"`(\w+)`", has)) for name, has in rows} == {
        name: {each.name for each in fields(event)} - common
        for name, event in signals.EVENTS.items()
    }
