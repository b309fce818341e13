"""One trial: a shape on the official SDK and the rehearsal server, with a mishap or two."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import threading
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import tinker

from tinkex.errors import TinkexError, causes
from tinkex.rehearsal.stage import Stage
from tinkex.rehearsal.step_log import history

from .loops import SHAPES, TOTAL

#: How often a shape may be run again after an interruption.
CELLS = 6

#: Seconds after which a trial counts as stuck.
STUCK = 15.0


@dataclass(frozen=True)
class Ending:
    """How a trial ended: `exact`, `clear error`, or what must not be: `silently wrong`, `stuck`."""

    kind: str
    text: str = ""


class Stuck(BaseException):
    """Raised in a loop that does not come to its end."""


@contextmanager
def raised_after(seconds, error):
    """Raise `error` in the main thread at some moment of the block, as Ctrl-C does."""

    def strike(*_):
        raise error

    before = signal.signal(signal.SIGUSR1, strike)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, before)


def new_client(service):
    with warnings.catch_warnings(action="ignore"):
        made = service.create_lora_training_client(base_model="any", rank=4, seed=3)
        return made.result() if hasattr(made, "result") else made


def whole(name):
    """The history of a shape that nothing happens to."""
    with Stage() as stage:
        client = new_client(service := stage.service())
        run = stage.monitor().monitor_run(client.model_id, service, client=client)
        if name not in ("save behind",):
            SHAPES[name](run)
        else:
            SHAPES["sync"](run)
        return history(stage.server, run.run_id)


def play(name, seed, expected):
    """Train a shape with the mishaps of a seed; say how it ended."""
    chance = random.Random(f"{name}:{seed}")
    corrupts, interrupts = seed % 3 != 1, seed % 3 != 0
    with Stage() as stage:
        client = new_client(service := stage.service())
        if corrupts:
            mode = chance.choice(["fail", "fail", "hang"])
            stage.server.corrupt_at(
                None,
                chance.randrange(2, len(expected)),
                break_newest=chance.choice([0, 0, 1]),
                # A run that hangs without a word cannot be told from one that is slow.
                flag=mode == "hang" or chance.random() < 0.7,
                mode=mode,
            )
        monitor = stage.monitor(poll_interval=chance.choice([0.05, 0.5]), confirm_within=1.0)
        run = monitor.monitor_run(client.model_id, service, client=client)
        return _finish(SHAPES[name], run, stage, expected, chance if interrupts else None)


def _finish(loop, run, stage, expected, chance):
    strikes = 0 if chance is None else chance.choice([1, 1, 2])
    error = None
    for _ in range(CELLS):
        try:
            if strikes:
                strikes -= 1
                with raised_after(chance.uniform(0.01, 0.25), KeyboardInterrupt()):
                    loop(run)
            else:
                with raised_after(STUCK, Stuck()):
                    loop(run)
            break
        except KeyboardInterrupt:
            continue
        except Stuck as raised:
            where = traceback.format_tb(raised.__traceback__)
            faulthandler.dump_traceback(all_threads=True)
            return Ending("stuck", f"{run!r} " + "".join(where))
        except BaseException as raised:
            error = raised
            break
    found = history(stage.server, run.run_id)
    if error is None:
        return Ending("exact") if found == expected else Ending("silently wrong", _compared(found))
    is_ours = any(
        isinstance(each, TinkexError | ValueError | RuntimeError) for each in causes(error)
    )
    return Ending("clear error" if is_ours else "another error", f"{type(error).__name__}: {error}")


def _compared(found):
    return f"steps {[step for step, _ in found]}"


VERSION = tinker.__version__
__all__ = ["SHAPES", "TOTAL", "VERSION", "Ending", "play", "whole"]
