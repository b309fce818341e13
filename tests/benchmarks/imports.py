"""How long `import tinkex` takes, compared with importing only its dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .control import ROOT

__all__ = ["import_times"]

#: The compared imports: tinkex alone, tinkex with its monitor, the dependencies alone.
_IMPORTS = {
    "tinkex": "import tinkex",
    "monitor": "from tinkex import Monitor, Policy",
    "required": "import requests, tenacity, blinker",
}


def import_times(rounds: int) -> dict[str, float]:
    """The best seconds of each import in fresh interpreters, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    with tempfile.TemporaryDirectory() as compiled:
        # A directory for compiled files: the first round fills it, even if the environment
        # says that no such files are to be written.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(rounds + 1):
            for name, statement in _IMPORTS.items():
                seconds = _import_time(statement, environment)
                if number:
                    taken[name].append(seconds)
    return {name: min(each) for name, each in taken.items()}


def _import_time(statement: str, environment: dict[str, str]) -> float:
    code = (
        f"import time; began = time.perf_counter()\n{statement}\nprint(time.perf_counter() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)
