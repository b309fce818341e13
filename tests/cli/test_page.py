"""Every command of docs/cli.md runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tinkex import Journal
from tinkex.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

NAMED = {"tinkex_name": "sft-7", "tinkex_root": "r", "tinkex_generation": "0"}


def test_the_commands_of_the_page(terminal, tmp_path, monkeypatch):
    run = terminal.client.run(user_metadata=NAMED)
    terminal.client.save(run, "000004", user_metadata={"tinkex_step": "4"})
    journal = str(tmp_path / "tinkex.db")
    Journal(journal).close()
    assert main(["recover", run, "--takeover", "--journal", journal]) == 0
    lines = re.findall(r"^tinkex .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    statuses = {
        line: terminal.run(*shlex.split(line.replace("$RUN", run).replace("$JOURNAL", journal))[1:])
        for line in lines
    }

    assert len(statuses) == 9
    assert set(statuses.values()) == {0}
