"""The command: `python -m tests.benchmarks [--quick] [--write] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from .chart import chart
from .control import ROOT
from .measure import FULL, QUICK, measure
from .report import page, table

_BEGAN = time.perf_counter()


def main():
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smaller sizes, in a minute")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and .svg")
    parser.add_argument("--json", type=Path, help="also write all results to a file")
    options = parser.parse_args()

    found = measure(QUICK if options.quick else FULL, _say)
    sys.stdout.write(table(found) + "\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.write:
        docs = ROOT / "docs"
        (docs / "performance.md").write_text(page(found), encoding="utf-8")
        (docs / "performance.svg").write_text(chart(found), encoding="utf-8")


def _say(line):
    sys.stderr.write(f"{time.perf_counter() - _BEGAN:4.0f} s  {line}\n")


if __name__ == "__main__":
    main()
