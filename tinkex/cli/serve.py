"""`tinkex serve`: run the embedded server of the Tinker API until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from .console import FAILED, UNUSABLE, complain, say, whole


def add(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, by what makes a parser for it."""
    parser = add_parser(
        description="Serves the Tinker API on 127.0.0.1 until Ctrl-C, with a small model.",
    )
    parser.add_argument("--port", type=whole, default=0, help="to listen on (default: a free one)")
    parser.add_argument("--directory", help="where checkpoints lie (default: a temporary one)")
    parser.add_argument(
        "--corrupt-at",
        type=whole,
        action="append",
        default=[],
        metavar="STEP",
        help="corrupt the first run at this step (counted from 0), once; may be repeated",
    )
    parser.set_defaults(command=_serve)


def _serve(given: argparse.Namespace) -> int:
    from ..rehearsal import RehearsalServer  # noqa: PLC0415 (an extra)

    ended = threading.Event()
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda *_: ended.set())
            stack.callback(signal.signal, number, before)
        try:
            server = RehearsalServer(given.directory, port=given.port).start()
        except NotADirectoryError as error:
            complain(str(error))
            return UNUSABLE
        except (OSError, OverflowError) as error:
            complain(f"cannot listen on port {given.port}: {error}")
            return FAILED
        with server:
            for step in given.corrupt_at:
                server.corrupt_at(None, step)
            say("# A rehearsal server of the Tinker API; Ctrl-C ends it.")
            for name, value in server.environ.items():
                say(f"export {name}={value}")
            ended.wait()
    return 0
