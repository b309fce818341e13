"""The command: `python -m tests.shapes [--seeds N] [SHAPE ...]` prints how each shape ended."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter

from .trial import SHAPES, VERSION, play, whole

#: How many characters of an ending are shown.
LONGEST = 1500


def main():
    """Play each shape with each seed, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.shapes", description=__doc__)
    parser.add_argument("shapes", nargs="*", help="all where none is given")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")

    sys.stdout.write(f"tinker {VERSION}, {options.seeds} seeds\n")
    for name in options.shapes or SHAPES:
        expected = whole(name)
        endings = []
        for seed in range(options.first, options.first + options.seeds):
            ending = play(name, seed, expected)
            endings.append(ending.kind)
            if ending.kind != "exact":
                sys.stdout.write(f"    {name} {seed}: {ending.kind}: {ending.text[:LONGEST]}\n")
        told = ", ".join(f"{kind} {count}" for kind, count in Counter(endings).most_common())
        sys.stdout.write(f"{name}: {told}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
