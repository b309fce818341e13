"""`CheckpointStore`, which saves checkpoints as files, loads them, and can damage them."""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np

from .model import ModelState
from .records import Refusal

_PREFIX = "tinker://"


class CheckpointStore:
    """Reads and writes the state of models under `directory`, by tinker path.

    A file is written whole or not at all. Without a directory a temporary one is made at first
    use and deleted at `close`.

    Threads: safe from any; files of different paths are independent of each other.
    """

    def __init__(self, directory: Path | None) -> None:
        self._given = directory
        # No other lock is taken while this one is held.
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._own: Path | None = None

    def close(self) -> None:
        """Delete the directory that was made here, if one was."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)

    def write(self, tinker_path: str, state: ModelState) -> int:
        """Save `state`, replacing what was there, and return the size of the file in bytes."""
        path = self.file_of(tinker_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        with draft.open("wb") as stream:
            np.savez(
                stream,
                weights=state.weights,
                first_moment=state.first_moment,
                second_moment=state.second_moment,
                counts=np.array([state.adam_steps, state.steps], dtype=np.int64),
            )
        draft.replace(path)
        return path.stat().st_size

    def read(self, tinker_path: str) -> ModelState:
        """Load a state from disk; `Refusal` if the file is missing or damaged."""
        try:
            with np.load(self.file_of(tinker_path), allow_pickle=False) as arrays:
                adam_steps, steps = (int(count) for count in arrays["counts"])
                return ModelState(
                    weights=arrays["weights"],
                    first_moment=arrays["first_moment"],
                    second_moment=arrays["second_moment"],
                    adam_steps=adam_steps,
                    steps=steps,
                )
        except FileNotFoundError as error:
            raise Refusal(404, f"Checkpoint {tinker_path} not found", early=True) from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            detail = f"Future failed: Error while deserializing header: {error}"
            raise Refusal(422, detail) from error

    def truncate(self, tinker_path: str) -> None:
        """Cut the file to half its length, so that loading it fails."""
        path = self.file_of(tinker_path)
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size // 2)

    def delete(self, tinker_path: str) -> None:
        """Remove the file; a missing one is fine."""
        self.file_of(tinker_path).unlink(missing_ok=True)

    def file_of(self, tinker_path: str) -> Path:
        """The file of a checkpoint."""
        run_id, kind, name = tinker_path.removeprefix(_PREFIX).split("/")
        # Some systems allow no colon in a file name.
        return self._root() / run_id.replace(":", "_") / kind / f"{name}.npz"

    def _root(self) -> Path:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None:
                self._own = Path(tempfile.mkdtemp(prefix="tinkex-rehearsal-"))
            return self._own
