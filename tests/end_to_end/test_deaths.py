"""Training processes are killed, stopped and begun together: `python -m tests.deaths` in small."""

from __future__ import annotations

import functools
import inspect
import random

import pytest
import tinker

from tests.deaths import at_random, checks, every_point, together, zombies
from tests.deaths.scene import Scene

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        "user_metadata" not in inspect.signature(tinker.TrainingClient.save_state).parameters,
        reason="this SDK gives checkpoints no metadata",
    ),
]

undisturbed = functools.cache(checks.undisturbed)


def test_a_script_that_is_killed_at_random_ends_exact():
    with Scene(journal=True) as scene:
        chance = random.Random("0:5")
        killed, problems = at_random.until_done(scene, chance, undisturbed(), whole=1.0, most=2)

    assert problems == []
    assert killed


@pytest.mark.parametrize(
    ("point", "machine", "journal"),
    [
        (("after tinker.ServiceClient.create_lora_training_client", 1), "another", False),
        (("after SaveWeights by the server", 1), "same", False),
        (("before COMMIT of intend", 1), "same", True),
        (("after COMMIT of adopt", 1), "same", True),
    ],
)
def test_a_script_that_is_killed_at_a_point_ends_exact(point, machine, journal):
    assert every_point.kill_at(0, point, machine, undisturbed(), journal=journal) == "exact"


def test_of_two_that_open_a_name_at_once_one_trains():
    with Scene() as scene:
        endings, problems = together.open_at_once(scene, [0.0, 0.0], "different", undisturbed())

    assert problems == []
    assert endings["done"]


def test_who_was_stopped_and_taken_over_is_fenced():
    with Scene() as scene:
        place = f"before SaveWeights{every_point.SERVERS}", 2
        told, problems = zombies.wake_after(scene, 0, place, "made", undisturbed())

    assert problems == []
    assert told == "zombie fenced, heir done"
