"""A server's run and its service client as importable parts, for attempts in another process."""

from __future__ import annotations

import os
from types import SimpleNamespace

PATH = "tinker://3f0c:train:0/weights/000100"


def get_training_run(config, run_id):
    """As a REST module has it."""
    return {"training_run_id": run_id, "corrupted": True, "user_metadata": {"team": "a"}}


def list_checkpoints(config, run_id):
    """As a REST module has it; refuses another key than the one in the environment."""
    if config.api_key != os.environ["TINKER_API_KEY"]:
        raise PermissionError("another key")
    return [{"tinker_path": PATH}]


class Service:
    """A service client that is made anew for each attempt, in the process of the attempt."""

    def create_training_client_from_state(self, path, user_metadata=None):
        """Refuse: the optimizer is wanted."""
        raise AssertionError(path)

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        """Make a client that cannot leave its process."""
        successor = f"made by {os.getpid()} for {user_metadata['team']}:train:0"
        return SimpleNamespace(model_id=successor, held=open(os.devnull))


class Failing:
    """A service client whose error no pickle can hold."""

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        """Fail."""
        error = ValueError("no such state")
        error.held = open(os.devnull)  # noqa: SIM115
        raise error
