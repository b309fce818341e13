"""Forked children, and what becomes of them."""

from __future__ import annotations

import os
import select
import signal
import traceback

from .recorder import PATIENCE


def in_child(function):
    """Call a function in a forked child, and say what it raised; a child that hangs is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = "hung"
        try:
            function()
            told = ""
        except BaseException:
            told = traceback.format_exc()
        finally:
            os.write(writing, told.encode()[:4000])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        ready, _, _ = select.select([pipe], [], [], PATIENCE)
        if not ready:
            os.kill(child, signal.SIGKILL)
        told = pipe.read() if ready else "the child hangs"
    os.waitpid(child, 0)
    return told
