"""A stand-in for the few tensors with which tinker-cookbook reports a loss.

The real thing is 5 GB to install; it is used where it is there.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np


class Tensor(np.ndarray):
    def to(self, dtype):
        return self.astype(dtype)


def from_numpy(array):
    return array.view(Tensor)


def tensor(values, dtype=None):
    return np.array(values, dtype).view(Tensor)


def stand_in():
    """Have `import torch` give this, where there is no other."""
    if importlib.util.find_spec("torch") is not None:
        return
    module = ModuleType("torch")
    module.Tensor, module.dtype, module.from_numpy, module.tensor = Tensor, type, from_numpy, tensor
    module.float32, module.int64, module.bool = np.float32, np.int64, np.bool_
    sys.modules["torch"] = module
