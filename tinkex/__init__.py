"""Recovers corrupted Tinker fine-tuning runs.

A `Monitor` polls training runs over REST, detects corruption, restores a run from a checkpoint,
gives the training loop a working client, and reports each step as a signal.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, rest, signals
    from .config import Config
    from .handle import MonitoredRun
    from .journal.journal import History, Journal, JournalEntry
    from .monitor import Monitor
    from .policy import Policy, Specific
    from .recovery.executor import RecoveryExecutor
    from .runs.checkpoints import Candidate, LeftOut, Plan
    from .runs.state import Generation, Lineage, RunState
    from .runs.status import RunStatus, StatusTable
    from .shortcuts import open_run, resume, watch
    from .training.outlook import ResumePoint
    from .training.segment import Segment
    from .training.segments import Segments
    from .types import Checkpoint, TinkerPath, TrainingRun
    from .view import LiveView

__all__ = [
    "Candidate",
    "Checkpoint",
    "Config",
    "Generation",
    "History",
    "Journal",
    "JournalEntry",
    "LeftOut",
    "Lineage",
    "LiveView",
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

#: Modules that are imported at first use.
_MODULES = {"config", "errors", "rest", "signals", "types"}

#: Names that are imported at first use, and their modules: a program that only uses the REST
#: functions does not wait for the import of the monitor, and a run of pytest, which loads the
#: plugin of `tinkex.testing`, for neither.
_LATER = {
    "Candidate": "runs.checkpoints",
    "Checkpoint": "types",
    "Config": "config",
    "Generation": "runs.state",
    "History": "journal.journal",
    "Journal": "journal.journal",
    "JournalEntry": "journal.journal",
    "LeftOut": "runs.checkpoints",
    "Lineage": "runs.state",
    "LiveView": "view",
    "Monitor": "monitor",
    "MonitoredRun": "handle",
    "Plan": "runs.checkpoints",
    "Policy": "policy",
    "RecoveryExecutor": "recovery.executor",
    "ResumePoint": "training.outlook",
    "RunState": "runs.state",
    "RunStatus": "runs.status",
    "Segment": "training.segment",
    "Segments": "training.segments",
    "Specific": "policy",
    "StatusTable": "runs.status",
    "TinkerPath": "types",
    "TrainingRun": "types",
    "open_run": "shortcuts",
    "resume": "shortcuts",
    "watch": "shortcuts",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
