"""A value that nobody expects costs itself: neither the run's flag, nor the rest of its answer."""

from __future__ import annotations

import logging
import math

import pytest
from support.sites import Site, ids, sweep, watch

from tinkex import TrainingRun
from tinkex.errors import ApiResponseError
from tinkex.types.answers import fitting

RUNS = ids(12)

ODD = ["", "32", -1.5, True, 8, ["a"], [], {"a": 1}, {}, math.inf, "2026-13-45T00:00:00Z"]

pytestmark = pytest.mark.parametrize("way", ["list", "single"])


def checkpoint(run_id, name, kind="weights", **fields):
    return {
        "checkpoint_id": f"{kind}/{name}",
        "checkpoint_type": "training" if kind == "weights" else "sampler",
        "time": f"2026-01-01T00:00:{name[-2:]}Z",
        "tinker_path": f"tinker://{run_id}/{kind}/{name}",
        "size_bytes": 230644,
        "public": False,
        "expires_at": "2126-01-01T00:00:00Z",
        "user_metadata": {"note": name},
        **fields,
    }


def row(run_id, place=None, value=None):
    """A row, with one odd value; `place` is a field, or a field of a checkpoint in the row."""
    made = {
        "training_run_id": run_id,
        "base_model": "Qwen/Qwen3-8B",
        "model_owner": "alice",
        "is_lora": True,
        "lora_rank": 32,
        "last_request_time": "2026-01-01T00:01:00Z",
        "last_checkpoint": checkpoint(run_id, "000002"),
        "last_sampler_checkpoint": checkpoint(run_id, "000002", "sampler_weights"),
        "user_metadata": {"name": "sft"},
    }
    if place is not None:
        part, _, field = place.rpartition(".")
        (made[part] if part else made)[field] = value
    return made


def fits(place, value):
    try:
        TrainingRun.from_json(row(RUNS[0], place, value))
    except ApiResponseError:
        return False
    return True


PLACES = [
    *(field for field in row("") if field != "training_run_id"),
    *(f"last_checkpoint.{field}" for field in checkpoint("", "01")),
    *(f"last_sampler_checkpoint.{field}" for field in checkpoint("", "01")),
]


class OddSite(Site):
    """A site whose runs have odd values, each another one, also in their lists of checkpoints."""

    def __init__(self, way, place, values=None):
        values = [value for value in ODD if not fits(place, value)] if values is None else values
        self.odd = dict(zip(RUNS, values, strict=False))
        super().__init__(RUNS)
        self.place = place
        self.rows.update({run_id: row(run_id, place, self.odd[run_id]) for run_id in self.odd})
        self.way = way
        if way == "single":
            self.list_training_runs = None

    def list_checkpoints(self, config, run_id):
        part, _, field = self.place.rpartition(".")
        is_odd = part == "last_checkpoint" and field != "tinker_path"
        fields = {field: self.odd[run_id]} if is_odd else {}
        return checkpoint(run_id, "000001"), checkpoint(run_id, "000002", **fields)

    def assert_asked(self):
        """What a sweep asked for: the list and no run, or each run."""
        asked = (len(self.lists), self.gets.total())
        assert asked == ((1, 0) if self.way == "list" else (0, len(RUNS)))


def left_out(caplog):
    """The warnings that tell of what was left out."""
    return [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]


def test_many_pairs_of_a_field_and_a_value_do_not_fit(way):
    assert sum(not fits(place, value) for place in PLACES for value in ODD) >= 200


@pytest.mark.parametrize("place", PLACES)
def test_the_flag_is_seen_whatever_another_field_holds(world, place, way):
    site = OddSite(way, place)
    site.corrupted.update(site.odd)
    watch(world, site, RUNS)

    sweep(world, site)

    assert [each.run_id for each in world.events.of("detected")] == [*site.odd]
    assert all(each.run.corrupted for each in world.events.of("detected"))
    assert [each.checkpoint.tinker_path for each in world.events.of("completed")] == [
        f"tinker://{run_id}/weights/000002" for run_id in site.odd
    ]
    assert world.events.of("poll_error") == []
    site.assert_asked()


@pytest.mark.parametrize("place", PLACES)
def test_a_healthy_run_with_an_odd_value_is_polled_as_any_other(world, caplog, place, way):
    caplog.set_level(logging.WARNING)
    site = OddSite(way, place)
    monitor, _ = watch(world, site, RUNS)

    for _ in range(4):
        sweep(world, site)
        site.assert_asked()

    assert {each.state for each in monitor.status()} == {"healthy"}
    assert world.events.names == []
    assert len(left_out(caplog)) <= 1


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("lora_rank", "TrainingRun field 'lora_rank' should be a whole number, but is list"),
        ("last_checkpoint", "a Checkpoint should be a JSON object, but is list"),
        ("last_checkpoint.size_bytes", "Checkpoint field 'size_bytes' should be a whole number"),
        ("last_checkpoint.expires_at", "Checkpoint field 'expires_at' should be a time"),
    ],
)
def test_a_field_that_does_not_fit_is_told_of_once_for_all_runs(world, caplog, place, words, way):
    caplog.set_level(logging.WARNING)
    site = OddSite(way, place, [["a"]] * len(RUNS))
    watch(world, site, RUNS)

    sweep(world, site, 3)

    (line,) = left_out(caplog)
    assert words in line
    assert line.startswith(RUNS[0])


def test_a_flag_that_cannot_be_read_never_counts_as_healthy(world, way):
    flags = ["true", "false", 1, 0, None, [], {}]
    site = OddSite(way, "corrupted", flags)
    monitor, _ = watch(world, site, RUNS)

    sweep(world, site)

    assert [each.state for each in monitor.status()] == ["failing"] * 7 + ["healthy"] * 5
    assert [type(each.error) for each in world.events.of("poll_error")] == [ApiResponseError] * 7


def test_what_fits_of_a_checkpoint_is_kept(world, way):
    site = OddSite(way, "last_checkpoint.size_bytes", [1.5])
    monitor, _ = watch(world, site, RUNS)

    for _ in range(3):
        sweep(world, site)

        found = monitor.status(RUNS[0]).last_checkpoint
        assert (found.time.second, found.expires_at.year) == (2, 2126)
        assert (found.size_bytes, found.user_metadata) == (None, {"note": "000002"})


def test_checkpoints_without_a_path_are_left_out_of_a_list(world, caplog, way):
    class PathlessSite(OddSite):
        def list_checkpoints(self, config, run_id):
            return checkpoint(run_id, "000001"), {"tinker_path": 5}, "000002"

    site = PathlessSite(way, "last_checkpoint", [5])
    site.corrupted.add(RUNS[0])
    watch(world, site, RUNS)

    sweep(world, site)

    assert world.events.one("completed").checkpoint.tinker_path.endswith("/000001")
    assert len(left_out(caplog)) == 2


def test_a_value_that_is_odd_in_every_row_does_not_slow_a_sweep(world, way, monkeypatch):
    read = []
    monkeypatch.setattr(
        "tinkex.ports.fitting", lambda kind, data: read.append(data) or fitting(kind, data)
    )
    site = OddSite(way, "lora_rank", ["32"] * len(RUNS))
    watch(world, site, RUNS)

    sweep(world, site)
    first = len(read)
    sweep(world, site, 3)

    assert (first, len(read)) == ((12, 12) if way == "list" else (12, 48))
