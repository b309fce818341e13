"""An embedded server of the Tinker API on which recoveries can be rehearsed.

It needs the extra `rehearsal`. The model behind it is small but real: losses are computed,
checkpoints lie on disk, and what is broken is broken there.
"""

from __future__ import annotations

from .engine.corpus import batch, mean_loss
from .engine.records import AppliedStep, CheckpointInfo, RunInfo
from .web.faults import Fault, FaultHandle
from .web.server import RehearsalServer

__all__ = [
    "AppliedStep",
    "CheckpointInfo",
    "Fault",
    "FaultHandle",
    "RehearsalServer",
    "RunInfo",
    "batch",
    "mean_loss",
]
