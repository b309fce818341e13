"""The default `rest_module`: requests to the Tinker API over pooled connections."""

from .client import (
    RestClient,
    get_training_run,
    get_weights_info,
    list_checkpoints,
    list_training_runs,
    search_sessions,
    server_time,
)

__all__ = [
    "RestClient",
    "get_training_run",
    "get_weights_info",
    "list_checkpoints",
    "list_training_runs",
    "search_sessions",
    "server_time",
]
