"""The command line `tinkex`."""

from .commands import main

__all__ = ["main"]
