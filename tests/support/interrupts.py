"""Ctrl-C at a chosen call of ours: a trace that raises it, so that every place can be tried."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import tinkex

ROOT = str(Path(tinkex.__file__).parent)


def interrupted_at(place, function):
    """Call a function, interrupted as the n-th function of tinkex begins or ends on its thread.

    Returns whether it was; not where it has fewer places. At other lines Python would not look
    for an interrupt, such as between the end of a `with` block and the release of its lock.
    """
    left = place

    def trace(frame, event, argument):
        nonlocal left
        code = frame.f_code
        # What is raised as a generator is thrown away is lost.
        if not code.co_filename.startswith(ROOT) or code.co_flags & inspect.CO_GENERATOR:
            return None
        left -= event in ("call", "return")
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return left < 0
