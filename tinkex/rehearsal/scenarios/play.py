"""What most scenarios begin with: runs that are monitored, and one that nothing ever happens to."""

from __future__ import annotations

from typing import Any

from ...handle import MonitoredRun
from ...training.segments import ResumePoint, Segment
from ..stage import Stage
from ..step_log import History, history
from ..trainee import Course, new_client, save_steps, train, train_segments
from .claims import check_history

__all__ = ["Play"]


class Play:
    """A course that was trained once without a break, and monitored runs to train it again.

    Args:
        stage: Where it is played.
        course: What is trained; `whole` is how it goes where nothing happens.
        runs: How many runs are monitored.
        kind: The class of the service client; `None`: the official one.
        **policy: Fields of the monitor's policy.
    """

    def __init__(
        self,
        stage: Stage,
        course: Course,
        *,
        runs: int = 1,
        kind: type[Any] | None = None,
        **policy: Any,
    ) -> None:
        self.stage = stage
        self.course = course
        service = stage.service(kind)
        undisturbed = new_client(service, course)
        train(undisturbed, course)
        self.whole: History = history(stage.server, [undisturbed.model_id])
        monitor = stage.monitor(**policy)
        clients = [new_client(service, course) for _ in range(runs)]
        self.runs: tuple[MonitoredRun, ...] = tuple(
            monitor.monitor_run(client.model_id, service, client=client) for client in clients
        )
        #: How many runs there are on the server before anything happens.
        self.made = stage.server.training_clients_created

    @property
    def run(self) -> MonitoredRun:
        """The first of the runs."""
        return self.runs[0]

    @property
    def clients_made(self) -> int:
        """How many runs were made on the server since everything was set up."""
        return self.stage.server.training_clients_created - self.made

    def begin(self, *parts: range) -> None:
        """Train all runs through these parts of the course, each with a checkpoint at its end."""
        for run in self.runs:
            for steps in parts:
                path = save_steps(run.client, self.course, steps)
                run.record_checkpoint(path, step=steps.stop)

    def corrupt(self, **options: Any) -> None:
        """Corrupt all runs now."""
        for run in self.runs:
            self.stage.server.corrupt(run.run_id, **options)

    def finish(self, start_step: int = 0, *, generations: int = 2) -> list[ResumePoint]:
        """Train all runs to the end and claim that they come to what they must.

        Returns:
            What each recovery went on from.
        """
        resumes: list[ResumePoint] = []

        def note(segment: Segment) -> None:
            if segment.resume is not None:
                resumes.append(segment.resume)

        for run in self.runs:
            train_segments(run, self.course, note, start_step=start_step)
            check_history(self.stage.server, run, self.whole, generations=generations)
        return resumes

    def left_over(self) -> set[str]:
        """The runs on the server that came to nothing: made since, and of no lineage."""
        used = {generation.run_id for run in self.runs for generation in run.lineage}
        return {info.run_id for info in self.stage.server.runs()[self.made :]} - used
