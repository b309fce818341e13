"""A life: a process that opens a run by its name and trains it, until it ends or is killed."""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import tinker

import tinkex
import tinkex.opening.opening  # what is imported late is forked, too
from tinkex.errors import JournalError, RunHeldError
from tinkex.rehearsal import batch

from . import points

STEPS = 24
EVERY = 4
ADAM = tinker.AdamParams(learning_rate=0.05)


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a life is to do; `out` is the file that it writes what it does to.

    `pace` are seconds between two steps. `constants` are set in modules of tinkex, by
    "module:NAME". At `die_at`, a point and its number among those of its name, from 1, it sends
    itself the signal `die_by`.
    """

    name: str
    machine: str
    out: str
    environ: Mapping[str, str]
    silent_for: float
    journal: str | None = None
    takeover: bool = False
    held_wait: float = 30.0
    pace: float = 0.0
    constants: Mapping[str, float] = field(default_factory=dict)
    tells_points: bool = False
    die_at: tuple[str, int] | None = None
    die_by: int = signal.SIGKILL


def live(orders):
    """Open the run, train it, and tell how that ended."""
    out = os.open(orders.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(orders.environ)
    socket.gethostname = lambda: orders.machine
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    for where, value in orders.constants.items():
        module, _, constant = where.partition(":")
        found = importlib.import_module(module)
        assert hasattr(found, constant), where
        setattr(found, constant, value)
    if orders.tells_points or orders.die_at:
        points.lay(out if orders.tells_points else None, orders.die_at, orders.die_by)
    has_begun = False
    try:
        for kind, value in train(orders):
            has_begun |= kind == "segment"
            tell(kind, value)
    except RunHeldError as error:
        tell("fenced" if has_begun else "held", error)
    except JournalError as error:
        tell("locked" if "had it locked" in str(error) else "failed", error)
    except BaseException:
        sys.stdout.write(traceback.format_exc())
        tell("failed", "")


def tell(kind, value):
    """Write a line."""
    sys.stdout.write(f"> {kind} {value}\n")
    sys.stdout.flush()


def train(orders):
    """The training script; yields what it does."""
    options = {} if orders.journal is None else {"journal": orders.journal}
    policy = tinkex.Policy(enabled=True, poll_interval=0.5, backoff=0.05)
    with tinkex.open_run(
        orders.name,
        tinker.ServiceClient,
        policy=policy,
        silent_for=orders.silent_for,
        held_wait=orders.held_wait,
        takeover=orders.takeover,
        base_model="any",
        rank=4,
        seed=3,
        **options,
    ) as run:
        yield "opened", run.run_id
        for segment in run.segments():
            with segment:
                yield "segment", f"{segment.start_step} {run.run_id}"
                for step in segment.steps(STEPS):
                    forward = segment.client.forward_backward(batch(step), "cross_entropy")
                    update = segment.client.optim_step(ADAM)
                    forward.result(), update.result()
                    yield "step", step
                    if (step + 1) % EVERY == 0:
                        segment.save_state(f"{step + 1:06d}", step=step + 1)
                        yield "saved", step + 1
                    time.sleep(orders.pace)
        yield "done", run.run_id
