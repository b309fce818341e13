"""The command: `python -m tests.deaths random --kills 200` kills training processes."""

from __future__ import annotations

import argparse
import sys

from . import at_random, every_point, together, zombies


def write(text):
    """Show a line at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main():
    """Play what is asked for; exit with 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.deaths", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, counted, default in (
        ("random", "--kills", 200),
        ("points", "--only", ""),
        ("together", "--times", 50),
        ("zombie", "--times", 30),
    ):
        command = commands.add_parser(name)
        command.add_argument(counted, type=type(default), default=default)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--journal", action="store_true")
    commands.choices["together"].add_argument("--processes", type=int, default=2)
    commands.choices["zombie"].add_argument("--points", action="store_true")
    found = _played(parser.parse_args())
    for each in found:
        write(f"WRONG: {each.splitlines()[0]}\n")
    sys.exit(bool(found))


def _played(given):
    options = {"journal": given.journal, "write": write}
    match given.command:
        case "random":
            return at_random.play(given.kills, given.seed, **options)
        case "points":
            return every_point.play(only=given.only, **options)
        case "together":
            return together.play(given.processes, given.times, given.seed, **options)
        case _:
            return zombies.play(given.times, given.seed, at_points=given.points, **options)


if __name__ == "__main__":
    main()
