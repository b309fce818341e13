"""The command line `tinkex`; each command is a module."""

from .commands import main

__all__ = ["main"]
