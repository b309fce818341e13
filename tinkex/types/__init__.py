"""Immutable values for the API's JSON: runs, pages of runs, checkpoints, paths, weights info."""

from .answers import Checkpoint, TrainingRun, TrainingRunPage, WeightsInfo
from .path import TinkerPath

__all__ = ["Checkpoint", "TinkerPath", "TrainingRun", "TrainingRunPage", "WeightsInfo"]
