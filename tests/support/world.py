"""A world of fakes in which time stands still, and small tools for it."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future

from tinkex import Monitor, Policy
from tinkex.testing import FakeRest, FakeScheduler, FakeServiceClient, InlineExecutor

from .recorder import Recorder

RUN = "3f0c:train:0"
OTHER = "77aa:train:0"

#: The events of an attempt that succeeds, of one that fails, and of a whole recovery.
ATTEMPT = ["started", "checkpoint_selected", "client_created"]
FAILED_ATTEMPT = ["started", "checkpoint_selected", "failed"]
RECOVERY = ["detected", *ATTEMPT, "completed"]


def weights(name, run_id=RUN):
    """The path of a training checkpoint."""
    return f"tinker://{run_id}/weights/{name}"


class StatusError(Exception):
    """As the official SDK's errors: the status is in `status_code`."""

    def __init__(self, status_code):
        super().__init__(f"status {status_code}")
        self.status_code = status_code


class ManualExecutor(Executor):
    """An executor whose jobs run when the test says so, on the test's thread."""

    def __init__(self):
        self.waiting = deque()
        self.running = deque()

    def submit(self, function, /, *args, **kwargs):
        """Keep the job."""
        future = Future()
        self.waiting.append((future, lambda: function(*args, **kwargs)))
        return future

    def begin_next(self):
        """Have the next job count as running, as if a thread had taken it; say whether."""
        future, job = self.waiting.popleft()
        if not future.set_running_or_notify_cancel():
            return False
        self.running.append((future, job))
        return True

    def finish_next(self):
        """Do the work of the job that has been running the longest."""
        future, job = self.running.popleft()
        try:
            result = job()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run_next(self):
        """Begin and finish the next job."""
        if self.begin_next():
            self.finish_next()


class World:
    """Fakes for all that a monitor works with, and the events that came of it."""

    def __init__(self):
        self.fake = FakeScheduler()
        self.rest = FakeRest()
        self.service = FakeServiceClient()
        self.events = Recorder()

    def monitor(self, executor=None, *, start=True, options=None, **policy):
        """A monitor that polls every 10 seconds; the keywords are fields of its policy."""
        policy = {"enabled": True, "poll_interval": 10.0, **policy}
        given = {"rest_module": self.rest, "scheduler": self.fake, **(options or {})}
        monitor = Monitor(Policy(**policy), executor=executor or InlineExecutor(), **given)
        return monitor.start() if start else monitor

    def corrupt(self, run_id=RUN, *names, **fields):
        """Have the server say that a run is corrupted; its checkpoints go by these names."""
        paths = [weights(name, run_id) for name in names or ("000100",)]
        self.rest.set_run(
            run_id, corrupted=True, last_checkpoint=paths[-1], checkpoints=paths, **fields
        )
        return paths[-1]
