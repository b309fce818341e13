"""Recovers corrupted Tinker fine-tuning runs.

A `Monitor` polls training runs over REST, detects corruption, restores a run from a checkpoint,
gives the training loop a working client, and reports each step as a signal.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors, rest, signals
from .config import Config
from .types import Checkpoint, TinkerPath, TrainingRun

if TYPE_CHECKING:
    from .handle import MonitoredRun
    from .monitor import Monitor
    from .policy import Policy, Specific
    from .recovery.executor import RecoveryExecutor
    from .runs.checkpoints import Candidate, LeftOut, Plan
    from .runs.state import Generation, RunState
    from .runs.status import RunStatus, StatusTable
    from .shortcuts import open_run, resume, watch
    from .training.loop import ResumePoint
    from .training.segments import Segment, Segments

__all__ = [
    "Candidate",
    "Checkpoint",
    "Config",
    "Generation",
    "LeftOut",
    "Monitor",
    "MonitoredRun",
    "Plan",
    "Policy",
    "RecoveryExecutor",
    "ResumePoint",
    "RunState",
    "RunStatus",
    "Segment",
    "Segments",
    "Specific",
    "StatusTable",
    "TinkerPath",
    "TrainingRun",
    "__version__",
    "errors",
    "open_run",
    "rest",
    "resume",
    "signals",
    "watch",
]

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

#: Names that are imported at first use, and their modules: a program that only uses the REST
#: functions does not wait for the import of the monitor.
_LATER = {
    "Candidate": "runs.checkpoints",
    "Generation": "runs.state",
    "LeftOut": "runs.checkpoints",
    "Monitor": "monitor",
    "MonitoredRun": "handle",
    "Plan": "runs.checkpoints",
    "Policy": "policy",
    "RecoveryExecutor": "recovery.executor",
    "ResumePoint": "training.loop",
    "RunState": "runs.state",
    "RunStatus": "runs.status",
    "Segment": "training.segments",
    "Segments": "training.segments",
    "Specific": "policy",
    "StatusTable": "runs.status",
    "open_run": "shortcuts",
    "resume": "shortcuts",
    "watch": "shortcuts",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
