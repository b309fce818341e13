"""A stand-in for wandb, as strict as the real one about ids and steps."""

from __future__ import annotations

from fnmatch import fnmatchcase

#: What the ids of its runs may not hold, by its client or its documentation.
FORBIDDEN = set(":;,#?/'\\%")


class Boards:
    """The module `wandb` and its server: the rows of each run by the run's id."""

    def __init__(self):
        self.runs = {}
        self.dropped = []

    def init(self, *, project, resume=None, **given):
        """Begin a run, or go on with it."""
        run_id = given.pop("id")
        assert not given
        if FORBIDDEN & set(run_id):
            raise ValueError(f"Invalid run ID: {run_id!r}")
        if resume != "allow":
            self.runs[run_id] = {}
        return Board(self, self.runs.setdefault(run_id, {}))


class Board:
    """A run: its own step only goes forward, and what is logged at an earlier one is dropped."""

    def __init__(self, boards, rows):
        self._boards = boards
        self._rows = rows
        self._axes = {}
        self._step = max(rows, default=-1) + 1
        self._is_open = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._is_open = False

    def define_metric(self, name, step_metric=None):
        """Say what the axis of metrics is; a name may end with a star."""
        self._axes[name] = step_metric

    def log(self, data, step=None):
        """Add a row; with a `step` it is open until a later step comes."""
        assert self._is_open, "this run is finished"
        if step is not None and step < self._step:
            self._boards.dropped.append(data)
            return
        self._step = self._step if step is None else step
        axes = {name: self._axis_of(name) for name in data}
        row = self._rows.setdefault(self._step, {"axes": {}})
        row.update(data)
        row["axes"].update(axes)
        self._step += step is None

    def _axis_of(self, name):
        if name in self._axes:
            return self._axes[name]
        found = (axis for glob, axis in self._axes.items() if fnmatchcase(name, glob))
        return next(found, None)
