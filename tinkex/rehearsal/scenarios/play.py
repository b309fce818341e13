"""`Play`, the setup of most scenarios: monitored runs and an uninterrupted one to compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...handle import MonitoredRun
from ...training.outlook import ResumePoint
from ...training.segment import Segment
from ..stage import Stage
from ..step_log import History, history
from ..trainee import Course, new_client, save_steps, train, train_segments
from .claims import check_history


class Play:
    """Trains a course once without interruption, and has monitored runs to train it again.

    Args:
        stage: The server, the clients and the monitor.
        course: What is trained; `whole` is its history without interruption.
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
        self.whole: History = history(stage.server, undisturbed.model_id)
        monitor = stage.monitor(**policy)
        clients = [new_client(service, course) for _ in range(runs)]
        self.runs: tuple[MonitoredRun, ...] = tuple(
            monitor.monitor_run(client.model_id, service, client=client) for client in clients
        )
        #: How many runs the server has at the start.
        self.made = stage.server.training_clients_created

    @property
    def run(self) -> MonitoredRun:
        """The first of the runs."""
        return self.runs[0]

    @property
    def clients_made(self) -> int:
        """How many runs were made on the server since the start."""
        return self.stage.server.training_clients_created - self.made

    def begin(self, *parts: range) -> None:
        """Train these parts of the course on all runs; save a checkpoint after each part."""
        for run in self.runs:
            for steps in parts:
                path = save_steps(run.client, self.course, steps)
                run.record_checkpoint(path, step=steps.stop)

    def corrupt(self, **options: Any) -> None:
        """Corrupt all runs now."""
        for run in self.runs:
            self.stage.server.corrupt(run.run_id, **options)

    def finish(
        self,
        start_step: int = 0,
        *,
        generations: int = 2,
        on_step: Callable[[int], object] | None = None,
    ) -> list[ResumePoint]:
        """Train all runs to the end and check their losses; `on_step` is called in each step.

        Returns:
            The resume point of each recovery.
        """
        resumes: list[ResumePoint] = []

        def note(segment: Segment) -> None:
            if segment.resume is not None:
                resumes.append(segment.resume)

        for run in self.runs:
            train_segments(run, self.course, note, start_step=start_step, on_step=on_step)
            check_history(self.stage.server, run, self.whole, generations=generations)
        return resumes

    def left_over(self) -> set[str]:
        """The ids of the runs made since the start that belong to no lineage."""
        used = {generation.run_id for run in self.runs for generation in run.lineage}
        return {info.run_id for info in self.stage.server.runs()[self.made :]} - used
