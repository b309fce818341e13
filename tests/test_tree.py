"""How the tests are laid out: as the wings of the package, in files that can be read."""

from __future__ import annotations

import ast
from pathlib import Path

import tinkex

TESTS = Path(__file__).parent
PACKAGE = Path(tinkex.__file__).parent

#: What stands beside the wings: modules at the root, whole stories, and what tests stand on.
OTHERS = {"api", "end_to_end", "benchmarks", "data", "support", "shapes", "deaths"}

#: No file has more lines.
LINES = 500

FILES = [path for path in sorted(TESTS.rglob("*.py")) if "benchmarks" not in path.parts]


def folders(root):
    return {path.parent.name for path in root.glob("*/*") if path.suffix in {".py", ".json"}}


def test_every_wing_has_a_folder_of_tests_and_every_folder_a_part():
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")}

    assert wings <= folders(TESTS)
    assert folders(TESTS) - OTHERS <= wings | modules


def test_no_file_of_tests_is_long():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}

    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_every_file_says_what_it_shows():
    silent = [
        path.relative_to(TESTS).as_posix()
        for path in FILES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert silent == []
