"""Loops of every shape end exact, or with a clear error, whatever happens to them."""

from __future__ import annotations

import functools
import logging

import pytest

from tests.shapes.trial import SHAPES, play, whole

pytestmark = pytest.mark.filterwarnings("ignore")

#: With a corruption and an interrupt; `python -m tests.shapes` plays many more.
SEED = 2

#: Loops that state wrong steps cannot be exact.
WRONG = ("save behind",)

#: What these train is their own; all others must come to what the plainest loop comes to.
OTHERWISE = ("accumulation", "two optimizer steps", "RL with sampling")

expected_of = functools.cache(whole)


@pytest.mark.long
@pytest.mark.parametrize("name", SHAPES)
def test_a_loop_is_never_silently_wrong(name, caplog):
    caplog.set_level(logging.CRITICAL)

    ending = play(name, SEED, expected_of(name if name in OTHERWISE else "sync"))

    assert ending.kind == ("clear error" if name in WRONG else "exact"), ending.text
