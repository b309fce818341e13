"""Every Python snippet of the README and of docs/ runs, in order, with the official SDK."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tinkex.rehearsal import RehearsalServer, batch

ROOT = Path(__file__).parents[1]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Run by a test of its own, where what it needs is installed: tests/end_to_end/test_cookbook.py.
ELSEWHERE = ("cookbook.md",)


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
def test_every_snippet_runs_in_order(page, server, monkeypatch):
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    names = {"batch": lambda step: batch(step, 0), "total_steps": 6, "__name__": page.stem}

    with ExitStack() as stack:
        for snippet in SNIPPET.findall(page.read_text()):
            exec(compile(snippet, str(page), "exec"), names)
            # A later snippet may give the name to another monitor.
            if "monitor" in names:
                stack.callback(names["monitor"].stop)

    assert names["run"].state in ("healthy", "stopped")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_readme_names_every_signal_and_policy_field():
    from dataclasses import fields

    from tinkex import Policy, signals

    text = (ROOT / "README.md").read_text()

    assert [name for name in signals.EVENTS if f"`{name}`" not in text] == []
    left_out = [f.name for f in fields(Policy) if f.name not in text]
    assert left_out == []
