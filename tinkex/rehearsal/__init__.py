"""An embedded server of the Tinker API, to try recoveries without a key or a network.

It needs the extra `rehearsal`. The model behind it is small but real: losses are computed,
checkpoints are files, and a broken checkpoint is a broken file.
"""

from __future__ import annotations

try:
    from .engine.corpus import batch, mean_loss
    from .engine.records import AppliedStep, CheckpointInfo, RunInfo
    from .web.faults import Fault, FaultHandle
    from .web.server import RehearsalServer
except ModuleNotFoundError as error:
    needed = 'tinkex.rehearsal needs an extra: pip install "tinkex[rehearsal]"'
    raise ModuleNotFoundError(needed, name=error.name) from error

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
