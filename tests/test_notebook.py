"""The notebook of docs/ runs from its first cell to its last, and shows tables."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

# The notebook is executed once.
pytestmark = pytest.mark.xdist_group("notebook")

PATH = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The outputs of each cell of code, by its first line."""
    book = nbformat.read(PATH, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    # By files: a port that is found free may be taken by a server of another test.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    paths = {"metadata": {"path": str(folder)}}
    NotebookClient(book, km=kernel, timeout=60, startup_timeout=60, resources=paths).execute()
    return {
        cell.source.partition("\n")[0]: cell.outputs
        for cell in book.cells
        if cell.cell_type == "code"
    }


def shown(outputs, kind):
    return [each.data[kind] for each in outputs if kind in each.get("data", {})]


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("run.lineage", ["2 generations", "corrupted", "000010"]),
        ("runs[0].plan()", ["000000", "step 0"]),
        ("from threading import Event", ["3 runs", "3 healthy"]),
        ('with tinkex.Journal("story.db") as journal:', ["detected", "completed"]),
        ("monitor.policy", ["poll_interval"]),
    ],
)
def test_a_value_is_shown_as_a_table_and_as_text(cells, cell, words):
    [html] = shown(cells[cell], "text/html")
    [text] = shown(cells[cell], "text/plain")

    assert [word for word in words if word not in html] == []
    assert [word for word in words if word not in text] == []
    assert "datetime" not in text


def test_the_loop_went_through_all_steps(cells):
    assert shown(cells["server.corrupt_at(None, 14)"], "text/plain") == ["30"]


def test_the_live_view_is_one_display(cells):
    outputs = cells["service = tinker.ServiceClient()"]

    assert len(shown(outputs, "text/html")) == 1


def test_beside_what_cells_show_only_a_recovery_is_told_of(cells):
    written = [each["text"] for outputs in cells.values() for each in outputs if "text" in each]

    lines = filter(None, map(str.strip, re.split("[\r\n]", "".join(written))))
    told = re.compile(r"run \S+: (\w+ for|.* after|its loop goes on at step) ")
    assert [line for line in lines if not told.match(line)] == []


def test_the_file_itself_holds_no_outputs():
    book = nbformat.read(PATH, as_version=4)

    assert [each for each in book.cells if each.get("outputs")] == []
