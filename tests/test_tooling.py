"""Format, lint and strict types hold for what is here, by the tools' own settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USER = "tests/data/user_program.py"


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "format", "--check", "."),
        ("ruff", "check", "."),
        ("mypy",),
        ("basedpyright", "--level", "error", "--pythonpath", sys.executable, USER),
    ],
    ids=["format", "lint", "types", "types of a user's program by pyright"],
)
@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_tree_is_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
