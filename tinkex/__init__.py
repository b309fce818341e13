"""Brings corrupted Tinker fine-tuning runs back to life.

A `Monitor` polls training runs over REST, detects corruption, recovers from a checkpoint, hands
the training loop a live client, and says all it does through signals.
"""

from __future__ import annotations

import logging

from . import errors, rest, signals
from .config import Config
from .recovery.executor import RecoveryExecutor
from .recovery.handle import MonitoredRun
from .recovery.monitor import Monitor
from .recovery.policy import Policy, Specific
from .recovery.segments import ResumePoint, Segment
from .recovery.watch import watch
from .types import Checkpoint, TinkerPath, TrainingRun

__all__ = [
    "Checkpoint",
    "Config",
    "Monitor",
    "MonitoredRun",
    "Policy",
    "RecoveryExecutor",
    "ResumePoint",
    "Segment",
    "Specific",
    "TinkerPath",
    "TrainingRun",
    "__version__",
    "errors",
    "rest",
    "signals",
    "watch",
]

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
