"""A scene: the embedded server, what it saw in which order, and the lives of processes on it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from tinkex.rehearsal import RehearsalServer

from .life import Orders, live

#: Seconds after which a life that should end counts as stuck.
STUCK = 60.0

#: How many characters of what a life wrote last are shown.
TOLD = 1500

#: Seconds that a run must be silent before another machine takes it over.
SILENT_FOR = 0.4

#: What is to be waited for in tinkex takes so many seconds here, not a minute.
QUICK = {"tinkex.lineage.fence:LOOK_EVERY": 1.0, "tinkex.lineage.fence:TICK": 0.25}
SHORT_LEASE = {
    "tinkex.journal.owning.owners:LEASE": 1.5,
    "tinkex.journal.resuming:LEASE": 1.5,
    "tinkex.journal.keeper:BEAT_EVERY": 0.3,
    "tinkex.journal.resuming:BEAT_EVERY": 0.3,
}

#: Seconds after which a process is fenced then at the latest, on a machine that has much to do.
FENCED_WITHIN = 5.0

#: Processes are forked from one that has imported everything.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.deaths.life"])


@dataclass(frozen=True)
class Event:
    """An operation that the server has applied to a run, or refused; `kind` "made": the run."""

    moment: float
    run_id: str
    kind: str
    is_ok: bool


class Witness:
    """Notes what a server does, in order; strikes are called around each operation.

    As `strike(kind, when)`: `when` is "before" or "after". What the caller of the operation is told
    comes later still.
    """

    def __init__(self, server):
        self.events = []
        self.strikes = []
        trainer, state = server._trainer, server._state
        perform, add_run = trainer.perform, state.add_run

        def performed(run, sequence, operation):
            kind = type(operation).__name__
            self._strike(kind, "before")
            outcome = perform(run, sequence, operation)
            is_ok = outcome is not None and not isinstance(outcome, Exception)
            self.events.append(Event(time.monotonic(), run.run_id, kind, is_ok))
            self._strike(kind, "after")
            return outcome

        def added(session, run):
            self._strike("made", "before")
            add_run(session, run)
            self.events.append(Event(time.monotonic(), run.run_id, "made", True))
            self._strike("made", "after")

        trainer.perform, state.add_run = performed, added

    def _strike(self, kind, when):
        for strike in self.strikes:
            strike(kind, when)


@dataclass(frozen=True)
class Ending:
    """How a life ended: `done`, `held`, `fenced`, `locked`, `killed`, `failed` or `stuck`.

    `locked`: a process that is stopped has its journal.
    """

    kind: str
    run_id: str
    text: str

    def __str__(self):
        return f"{self.kind} ({self.text[-TOLD:]})"


class Life:
    """A process; it lives until it ends or is killed."""

    def __init__(self, orders):
        self.orders = orders
        self.process = PROCESSES.Process(target=live, args=(orders,), daemon=True)
        self.process.start()

    def lasts(self, seconds):
        """Wait at most so long; whether it lives still."""
        return not wait([self.process.sentinel], seconds)

    def stops(self, seconds):
        """Wait at most so long until it is stopped by a signal; false where it ends first."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.lasts(0.02):
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
            if stat.rpartition(")")[2].split()[0] == "T":
                return True
        return False

    def send(self, number):
        """Send a signal, if it lives."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self, seconds=STUCK):
        """Wait until it ends, and tell how; one that does not is killed."""
        is_stuck = self.lasts(seconds)
        if is_stuck:
            self.send(signal.SIGCONT)
            self.send(signal.SIGUSR1)
            self.lasts(2.0)
            self.process.kill()
        self.process.join(10)
        if is_stuck:
            return Ending("stuck", "", self.text)
        if self.process.exitcode == -signal.SIGKILL:
            return Ending("killed", "", self.text)
        kind, value = self.told()[-1:][0] if self.told() else ("failed", "")
        if self.process.exitcode or kind not in ("done", "held", "fenced", "locked"):
            return Ending("failed", "", f"exit code {self.process.exitcode}\n{self.text}")
        return Ending(kind, value, self.text)

    @property
    def text(self):
        """All that it wrote."""
        path = Path(self.orders.out)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def told(self):
        """What it told of itself: kind and value."""
        lines = (line for line in self.text.splitlines() if line.startswith("> "))
        return [tuple(line[2:].split(" ", 1)) for line in lines]

    def passed(self):
        """The points that it passed, in order."""
        return [line[2:] for line in self.text.splitlines() if line.startswith("@ ")]


class Scene:
    """A server and a folder, for the lives of one name; all end with its `with` block."""

    def __init__(self, name="sft", *, journal=False):
        self.name = name
        self.server = RehearsalServer()
        self.witness = Witness(self.server)
        self.has_journal = journal
        self.lives = []
        self.journals = []
        self._stack = ExitStack()

    def __enter__(self):
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._stack.enter_context(self.server)
        return self

    def __exit__(self, *error):
        for each in self.lives:
            each.send(signal.SIGKILL)
            each.process.join(10)
        self._stack.close()

    def life(self, machine="a", *, journal="journal", constants=None, **orders):
        """Begin a life on a machine; `journal` names its file, where the scene has journals."""
        path = str(self.folder / f"{journal}.db") if self.has_journal else None
        if path is not None and path not in self.journals:
            self.journals.append(path)
        given = {"silent_for": SILENT_FOR, "journal": path, **orders}
        made = Life(
            Orders(
                name=self.name,
                machine=f"machine-{machine}",
                constants={**SHORT_LEASE, **(constants or {})},
                out=str(self.folder / f"{len(self.lives)}.txt"),
                environ={
                    **self.server.environ,
                    "XDG_STATE_HOME": str(self.folder / f"machine-{machine}"),
                },
                **given,
            )
        )
        self.lives.append(made)
        return made

    def strike_at(self, kind, when, number, act):
        """Call `act()` once, around the `number`th operation of a kind from now on, from 1."""
        count = 0

        def strike(found, moment):
            nonlocal count
            if (found, moment) == (kind, when):
                count += 1
                if count == number:
                    act()

        self.witness.strikes.append(strike)

    def kill_newest(self):
        """Kill the life that was begun last."""
        self.lives[-1].process.kill()

    def stop_newest(self):
        """Stop the life that was begun last, as a machine that is suspended."""
        self.lives[-1].send(signal.SIGSTOP)

    def hold_fire(self):
        """Strike no more."""
        self.witness.strikes = []
