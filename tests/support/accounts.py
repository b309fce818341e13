"""An account in which runs are made by name and saved, and the service clients of its owners."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

from tinkex import Config, TinkerPath
from tinkex.testing import FakeServiceClient, FakeTrainingClient

from .sites import Site
from .world import weights

FIRST = "made:train:1"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Account(Site):
    """An account that keeps what its runs were made with; others are in it, too."""

    keeps_metadata = True
    keeps_saves = True

    def __init__(self, others=40, **options):
        super().__init__([f"other{n}:train:0" for n in range(others)], **options)
        self.saves = {}
        self.saved = []

    def next_id(self):
        """The id of the next run that is made."""
        return f"made:train:{len(self.listed) - 39}"

    def add(self, run_id, metadata, **row):
        self.listed.append(run_id)
        metadata = dict(metadata or {}) if self.keeps_metadata else None
        self.rows[run_id] = {
            "user_metadata": metadata,
            "last_checkpoint": None,
            "last_request_time": f"{BEGAN.isoformat()}",
            **row,
        }

    def save(self, run_id, step):
        """The loop of a run has saved."""
        self._keep(weights(f"{step:06d}", run_id), {"tinkex_step": str(step)})

    def keep(self, checkpoint):
        """A client has saved a checkpoint."""
        if self.keeps_saves:
            self._keep(checkpoint.tinker_path, dict(checkpoint.user_metadata or {}))

    def _keep(self, path, metadata):
        run_id = TinkerPath.parse(path).run_id
        self.saved.append(path)
        moment = (BEGAN + timedelta(minutes=len(self.saved))).isoformat()
        made = {"tinker_path": path, "time": moment, "user_metadata": metadata}
        self.saves.setdefault(run_id, []).append(made)
        self.rows[run_id]["last_checkpoint"] = made

    def list_checkpoints(self, config, run_id):
        return self.saves.get(run_id, [])


class Client(FakeTrainingClient):
    """A training client whose saves are in the account; those that it `holds` back come later."""

    def __init__(self, run_id, account, path=None):
        super().__init__(run_id, path)
        self.account = account
        self.saved = []
        self.held = None

    def save_state(self, name, user_metadata=None, ttl_seconds=None):
        answer = super().save_state(name, user_metadata)
        self.saved.append((name, user_metadata, ttl_seconds))
        if answer.exception() is not None:
            return answer
        if self.held is not None:
            later = Future()
            self.held.append((later, answer.result()))
            return later
        self.account.keep(answer.result())
        return answer

    def hold(self):
        """From here on a save is not done before `release`."""
        self.held = []

    def release(self):
        """What was held back is saved."""
        held, self.held = self.held, None
        for later, checkpoint in held:
            self.account.keep(checkpoint)
            later.set_result(checkpoint)


class Service(FakeServiceClient):
    """A service client of the account, which makes runs there."""

    config = Config("tml-one", "https://tinker.invalid")

    def __init__(self, account):
        super().__init__()
        self.account = account
        self.options = []

    def create_lora_training_client(self, base_model, rank=32, user_metadata=None):
        self.options.append((base_model, rank))
        self.clients.append(self._made(self.account.next_id(), user_metadata, base_model))
        return self.clients[-1]

    def _made(self, run_id, metadata, base_model="any"):
        self.account.add(run_id, metadata, base_model=base_model, lora_rank=32)
        return Client(run_id, self.account)

    def _create(self, path, user_metadata, *, with_optimizer):
        super()._create(path, user_metadata, with_optimizer=with_optimizer)
        self.clients[-1] = self._made(self.account.next_id(), user_metadata)
        return self.clients[-1]


def first_step(run):
    """Begin to train; give the step at which that was."""
    segment = next(run.segments())
    assert segment.client.model_id == run.run_id
    return segment.start_step


def elsewhere(monkeypatch, tmp_path, name="b"):
    """From here on it is another machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))
