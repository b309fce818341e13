"""The command line in this process, beside a rehearsal server."""

from __future__ import annotations

from tinkex.cli import main

from .rehearsal_http import Client


class Terminal:
    """Runs commands; `status`, `out` and `err` are those of the last one."""

    def __init__(self, server, capsys):
        self.server, self._capsys = server, capsys
        self.client = Client(server)
        self.status, self.out, self.err = None, "", ""

    def run(self, *arguments):
        self._capsys.readouterr()
        self.status = main(list(arguments))
        self.out, self.err = self._capsys.readouterr()
        return self.status
