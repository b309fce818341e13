"""What all commands share: exit statuses, lines of output and number arguments."""

from __future__ import annotations

import argparse
import shutil
import sys

#: Exit statuses beside 0: something failed; the command could not begin; it was interrupted.
FAILED = 1
UNUSABLE = 2
INTERRUPTED = 130

#: Columns: text is never set narrower.
NARROWEST = 40


def say(line: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Write a line to standard error, after the program's name."""
    sys.stderr.write(f"tinkex: {line}\n")


def width() -> int:
    """The columns of the terminal, at least `NARROWEST`."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def can_print(text: str) -> bool:
    """Whether the encoding of standard output has all characters of `text`."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def whole(text: str) -> int:
    """Read an argument that is a whole number, 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number
