"""`SdkRest`: the Tinker API through the official SDK's REST client."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..config.credentials import Keys, keys_in, without_secrets
from ..errors import ApiConnectionError, ApiStatusError, ApiTimeoutError, TinkexError, status_of
from ..types import Checkpoint, TrainingRun, TrainingRunPage
from ..types.answers import fitting


class SdkRest:
    """A `rest_module` that polls through the official SDK's REST client.

    For accounts whose credential is not an API key (`TINKER_CREDENTIAL_CMD`, a stored login):
    the SDK gets and renews it. Each call costs about 1 ms of CPU and perhaps a new connection.

    Args:
        rest_client: A `tinker.RestClient`, or the result of a service client's
            `create_rest_client()`; `None`: one is made at the first call.
        timeout: Seconds to wait for one answer; the SDK itself retries for minutes.

    Threads: safe from any thread but the SDK's event loop.
    """

    def __init__(self, rest_client: Any = None, *, timeout: float = 20.0) -> None:
        self._rest_client = rest_client
        self._timeout = timeout

    def get_training_run(self, config: Config | None, run_id: str) -> TrainingRun:
        """Return one run; `config` is not used."""
        return fitting(TrainingRun, self._call("get_training_run", run_id))

    def list_training_runs(
        self, config: Config | None, *, limit: int = 20, offset: int = 0
    ) -> TrainingRunPage:
        """Return a page of the account's runs, or of those of the config's `project_id`."""
        project = getattr(config, "project_id", None)
        options = {} if project is None else {"project_id": project}
        page = self._call("list_training_runs", limit=limit, offset=offset, **options)
        return TrainingRunPage.from_json(page)

    def list_checkpoints(self, config: Config | None, run_id: str) -> tuple[Checkpoint, ...]:
        """Return a run's checkpoints; `config` is not used."""
        listed = self._call("list_checkpoints", run_id)
        return tuple(fitting(Checkpoint, item) for item in listed["checkpoints"])

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._rest_client is None:
                self._rest_client = _make_rest_client()
            future = getattr(self._rest_client, method)(*args, **kwargs)
            answer = future.result(timeout=self._timeout)
        except Exception as error:
            failed = _as_rest_error(error, method, self._timeout, keys_in(self._rest_client))
        else:
            return answer.model_dump(mode="json")
        # Outside the except block: the SDK's error holds the credential and must not be chained.
        raise failed


def _make_rest_client() -> Any:
    import tinker  # noqa: PLC0415 (an extra that only this class needs)

    maker = getattr(tinker, "RestClient", None)
    return maker() if maker is not None else tinker.ServiceClient().create_rest_client()


def _as_rest_error(error: Exception, method: str, timeout: float, secrets: Keys) -> Exception:
    shown = without_secrets(error, secrets)
    status = status_of(shown)
    if status is not None:
        return ApiStatusError.of(status, str(shown)[:200], where=method)
    if isinstance(shown, TimeoutError):
        return ApiTimeoutError(f"{method}: no answer within {timeout:g} s")
    if isinstance(shown, TinkexError):
        return ApiConnectionError(f"{method}: {shown}")
    return shown if isinstance(shown, Exception) else error
