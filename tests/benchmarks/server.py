"""The server for all measurements: a minimal HTTP/1.1 server with rows encoded beforehand.

Of a page only the rows that have changed since it was last sent are made anew.

`python -m tests.benchmarks.server` prints its port and serves until its standard input ends.
Requests to `/control/` set it up and read its counts; they are neither counted nor delayed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from urllib.parse import parse_qsl, unquote, urlsplit

from .account import MARK, NEWS_EVERY, index_of, row_of, run_id, savers, tinker_path

__all__ = ["Account", "main"]

_RUNS = "/api/v1/training_runs"
_CONFIG = "/api/v1/client/config"
_CLIENT_CONFIG = b'{"use_pyqwest_transport":true}'
_REFUSED = b'{"detail":"this account is refused"}'
_NOT_FOUND = b'{"detail":"there is no such thing here"}'
_TOO_MANY = b'{"detail":"fewer rows, please"}'


class Account:
    """The runs of one account on the server, and the counts of its requests."""

    def __init__(self):
        self.rows: list[bytes] = []
        self.do_setup()

    def do_setup(self, runs=0, latency=0.0, listing=1, listed=None, cap=100, refuses=0):
        """Begin anew.

        Args:
            runs: How many runs there are.
            latency: Seconds before each answer.
            listing: 0 if the server has no list of runs.
            listed: How many of the runs the list has, all by default.
            cap: The most rows of a page.
            refuses: 1 if the server answers 422 to who asks for more, instead of sending fewer.
        """
        self.runs = int(runs)
        self.listed = self.runs if listed is None else int(listed)
        self.latency = float(latency)
        self.listing = bool(int(listing))
        self.cap = int(cap)
        self.refuses = bool(int(refuses))
        self.hang = ""
        self.refusal = 0
        #: The sweep that is being answered, and for which of them a page's rows were last made.
        self.sweep = 0
        self._made: dict[tuple[int, int], int] = {}
        self.rows = [row_of(index) for index in range(self.runs)]
        self.corrupted: set[int] = set()
        #: The runs that recoveries made; they come last in the list.
        self.successors: dict[str, bytes] = {}
        self.do_reset()
        return {}

    def do_reset(self, moves=1):
        """Count from zero; with `moves=0` no run saves during the sweeps that follow."""
        self.moves = bool(int(moves))
        self.lists = self.gets = self.others = self.connections = 0
        self.first_at = self.last_at = None
        self._cpu = time.process_time()
        return {}

    def do_counts(self):
        """The counts since the last reset; times in seconds."""
        asked = self.first_at is not None and self.last_at is not None
        return {
            "requests": self.lists + self.gets + self.others,
            "lists": self.lists,
            "gets": self.gets,
            "connections": self.connections,
            "span": self.last_at - self.first_at if asked else None,
            "cpu": time.process_time() - self._cpu,
        }

    def do_hang(self, run=""):
        """From now on never answer requests about this run, or about `all` runs; empty: none."""
        self.hang = run
        return {}

    def do_refuse(self, status=0):
        """From now on answer every request about runs with this status; 0: no more."""
        self.refusal = int(status)
        return {}

    def do_corrupt(self, first=0, count=1):
        """Flag some runs."""
        chosen = range(int(first), int(first) + int(count))
        self.corrupted.update(chosen)
        for index in chosen:
            self.rows[index] = self._row(index)
        return {"at": time.monotonic()}

    def do_succeed(self, of=""):
        """Make a new run from a checkpoint of another."""
        made = f"{of.rpartition(':')[0]}:{len(self.successors) + 1}"
        self.successors[made] = row_of(index_of(f"{made[:8]}{run_id(0)[8:]}"), run=made)
        return {"run_id": made}

    def control(self, name, query):
        """Handle a control request."""
        return json.dumps(getattr(self, f"do_{name}")(**query)).encode()

    def answer(self, method, target):
        """The status and body of an answer; `None` if the request is to hang."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        path, _, query = target.partition("?")
        if self.refusal and path.startswith(_RUNS):
            self.others += 1
            return self.refusal, _REFUSED
        if path == _RUNS:
            self.lists += 1
            if self.hang == "all":
                return None
            if not self.listing:
                return 404, _NOT_FOUND
            asked = dict(parse_qsl(query))
            limit = int(asked.get("limit", 20))
            if self.refuses and limit > self.cap:
                return 422, _TOO_MANY
            return 200, self._page(int(asked.get("offset", 0)), min(limit, self.cap))
        if method == b"GET" and path.startswith(f"{_RUNS}/"):
            self.gets += 1
            run, _, what = unquote(path[len(_RUNS) + 1 :]).partition("/")
            if self.hang in ("all", run):
                return None
            return self._checkpoints(run) if what else self._run(run)
        self.others += 1
        # The SDK asks for its settings before anything else.
        return (200, _CLIENT_CONFIG) if path == _CONFIG else (404, _NOT_FOUND)

    def _row(self, index):
        return row_of(index, self.sweep, corrupted=index in self.corrupted)

    def _run(self, run):
        index = index_of(run)
        if index is not None and index < self.runs:
            return 200, _sent(self._row(index))
        row = self.successors.get(run)
        return (404, _NOT_FOUND) if row is None else (200, _sent(row))

    def _checkpoints(self, run):
        found = [
            {
                "checkpoint_id": f"weights/{name}",
                "checkpoint_type": "training",
                "time": f"2026-11-23T{hour}:36:05.650935Z",
                "tinker_path": tinker_path(run, name),
            }
            for name, hour in (("000050", 12), ("000100", 13))
        ]
        cursor = {"offset": 0, "limit": 100, "total_count": len(found)}
        return 200, json.dumps({"checkpoints": found, "cursor": cursor}).encode()

    def _page(self, offset, limit):
        if offset == 0 and self.moves:
            self.sweep += 1
        end = min(offset + limit, self.listed)
        made = self._made.get((offset, limit), 0)
        for sweep in range(max(made, self.sweep - NEWS_EVERY) + 1, self.sweep + 1):
            for index in savers(sweep, offset, end):
                self.rows[index] = self._row(index)
        self._made[offset, limit] = self.sweep
        rows = self.rows[offset:end]
        after = max(offset - self.listed, 0)
        rows += [*self.successors.values()][after : after + limit - len(rows)]
        total = self.listed + len(self.successors)
        cursor = b'{"offset":%d,"limit":%d,"total_count":%d}' % (offset, limit, total)
        return b'{"training_runs":[%s],"cursor":%s}' % (_sent(b",".join(rows)), cursor)


def _sent(rows):
    """Rows as they are sent now: all runs were asked for something just before."""
    return rows.replace(MARK, time.strftime("%H:%M:%S").encode())


class _Connection(asyncio.Protocol):
    """One connection; its requests are answered in order."""

    def __init__(self, account, loop):
        self._account = account
        self._loop = loop
        self._buffer = b""
        self._counted = False

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        data = self._buffer + data if self._buffer else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end]
            end += 4
            if not head.startswith(b"GET "):
                end += _content_length(head)
                if len(data) < end:
                    break
            data = data[end:]
            method, target, _ = head.split(b" ", 2)
            self._ask(method, target.decode("latin-1"))
        self._buffer = data

    def _ask(self, method, target):
        account = self._account
        if target.startswith("/control/"):
            parts = urlsplit(target)
            self._send(200, account.control(parts.path[9:], dict(parse_qsl(parts.query))))
            return
        if not self._counted:
            self._counted = True
            account.connections += 1
        answer = account.answer(method, target)
        if answer is None:
            return
        if account.latency:
            self._loop.call_later(account.latency, self._answer, *answer)
        else:
            self._answer(*answer)

    def _answer(self, status, body):
        self._send(status, body)
        self._account.last_at = time.monotonic()

    def _send(self, status, body):
        if not self._transport.is_closing():
            head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(head % (status, len(body)) + body)


def _content_length(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def main():
    """Serve on a free port of this machine until standard input ends."""
    loop = asyncio.get_running_loop()
    account = Account()
    ended = asyncio.Event()
    server = await loop.create_server(
        lambda: _Connection(account, loop), "127.0.0.1", 0, backlog=16384
    )

    def wait_for_parent():
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_parent, name="parent", daemon=True).start()
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
